// Resampling of bytes in fixed point for Python, on raw pointers.
#include "resample_fixed/resample_fixed.h"

#include "arguments.h"
#include "registration.h"

namespace {

using namespace learned_resizer;

using Positive = Within<int64_t, 1>;

struct Tables {
    const int32_t* start;
    const FourWeights* weight;
    const int32_t* strip_begin;
    const RowGroup* group;
    const FourWeights* row_weight;
    static Tables from(const Value& value) {
        using Weights = Pointer<FourWeights, 16>;
        using Indices = Pointer<int32_t, 16>;
        return unpack_as<Tables, Indices, Weights, Indices, Pointer<RowGroup, 16>, Weights>(
            value, "(start, weight, strip_begin, group, row_weight)");
    }
};
struct Planes {
    int64_t planes, of_image, channels;
    static Planes from(const Value& value) {
        return unpack_as<Planes, Positive, Positive, Positive>(value, "(planes, planes_per_image, channels)");
    }
};
struct OutSize {
    int64_t height, width;
    static OutSize from(const Value& value) { return unpack_as<OutSize, Positive, Positive>(value, "(height, width)"); }
};

FixedStrides fixed(const Strides<5>& s) { return {s.at[0], s.at[1], s.at[2], s.at[3], s.at[4]}; }

void resample_fixed(const Tables& tables, const Planes& planes, const OutSize& size, Within<int32_t, 1> taps,
                    Within<int32_t, 1, kFixedMostRows> strip_rows, Pointer<uint8_t> image,
                    const Strides<5>& image_stride, Pointer<uint8_t> output, const Strides<5>& output_stride,
                    int device, Stream stream) {
    const ResampleFixedParams params{tables.start,
                                     tables.weight,
                                     tables.strip_begin,
                                     tables.group,
                                     tables.row_weight,
                                     image,
                                     fixed(image_stride),
                                     output,
                                     fixed(output_stride),
                                     planes.planes,
                                     planes.of_image,
                                     planes.channels,
                                     size.height,
                                     size.width,
                                     taps,
                                     strip_rows};
    check_launch("resample_fixed", launch_resample_fixed(params, device, stream), device);
}

}  // namespace

void bind_resample_fixed(PyObject* module) {
    add_function<&resample_fixed>(
        module, "resample_fixed",
        "tables, planes, size, taps, strip_rows, image, image_stride, output, output_stride, device, stream",
        "Launch on a stream of a device. tables: addresses of start, weight, strip_begin, group, row_weight; "
        "planes: planes, planes of an image, interleaved channels; size: output height and width; strides in "
        "elements: image, plane, channel, row, column.");
}
