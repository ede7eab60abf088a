// The stem's kernels for Python: a plan object, and their launches on raw pointers.
#include "stem/stem.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "registration.h"
#include "stem/stem_backward.h"
#include "stem/stem_plan.h"

namespace {

using namespace learned_resizer;

// Of an image: as of a parameter, or uint8.
struct ImageDType {
    DType dtype;
    static ImageDType from(const Value& value) {
        return {value.as<int>() == static_cast<int>(DType::kUInt8) ? DType::kUInt8 : value.as<DType>()};
    }
};
// The part of an axis that fills the output.
struct Part {
    double offset = 0.0, extent = 0.0;
    static Part from(const Value& value) { return unpack_as<Part, double, double>(value, "(offset, extent)"); }
};
struct TensorSize {
    int64_t batch;
    int32_t height, width;
    std::optional<Part> rows, columns;
    static TensorSize from(const Value& value) {
        return unpack_as<TensorSize, int64_t, int32_t, int32_t, std::optional<Part>, std::optional<Part>>(
            value, "(batch, height, width, rows, columns)");
    }
};
struct OutSize {
    int32_t height, width;
    static OutSize from(const Value& value) { return unpack_as<OutSize, int32_t, int32_t>(value, "(height, width)"); }
};
struct Weights {
    Weight w0;
    Vector b0;
    Weight w1;
    Vector b1;
    static Weights from(const Value& value) {
        return unpack_as<Weights, Weight, Vector, Weight, Vector>(value, "(w0, b0, w1, b1)");
    }
    StemWeights with(float negative_slope, int filters) const { return {w0, b0, w1, b1, negative_slope, filters}; }
};

}  // namespace

namespace learned_resizer {

template <>
struct From<StemPlan> : Class<StemPlan> {
    static constexpr const char* kName = "StemPlan";
};
template <>
struct From<StemBackwardPlan> : Class<StemBackwardPlan> {
    static constexpr const char* kName = "StemBackwardPlan";
};

template <>
struct From<StemFormat> {
    static StemFormat from(const Value& value) {
        using Statistic = std::optional<Vector>;
        const auto [image, channels, mean, std] =
            unpack<ImageDType, Within<int32_t, 1, 4>, Statistic, Statistic>(value, "(dtype, channels, mean, std)");
        if (image.dtype != DType::kUInt8) return {image.dtype, channels, {}, {}};
        if (!mean || !std) value.refuse("uint8 without mean and std", "both");
        return {image.dtype, channels, *mean, *std};
    }
};
// The crop's first pixel, strides in elements.
template <>
struct From<StemImage> {
    static StemImage from(const Value& value) {
        const auto [at, strides, height, width] =
            unpack<Pointer<void, 1>, Strides<4>, int32_t, int32_t>(value, "(address, strides, height, width)");
        StemImage image{at, {}, height, width};
        copy(strides, image.stride);
        return image;
    }
};
template <>
struct From<StemImageGrad> {
    static StemImageGrad from(const Value& value) {
        const auto [at, strides] = unpack<Pointer<void, 1>, Strides<4>>(value, "(address, strides) or None");
        StemImageGrad grad{at, {}};
        copy(strides, grad.stride);
        return grad;
    }
};

}  // namespace learned_resizer

namespace {

using Images = std::vector<StemImage>;
using Grads = std::vector<std::optional<StemImageGrad>>;  // a place for each image's, or none at all

StemImage in_bytes(StemImage image, DType dtype) {
    for (int64_t& stride : image.stride) stride *= image_bytes(dtype);
    return image;
}

// What a call attaches to the tables of several tensors, for each: images, and in the backward their gradients.
template <class T>
void attach(std::vector<unsigned char>& bytes, const T& value) {
    const auto* from = reinterpret_cast<const unsigned char*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof(T));
}

std::vector<StemPlanTensor> plan_tensors(const std::vector<TensorSize>& sizes, const OutSize& out, Filter filter,
                                         bool antialias) {
    const auto axis = [&](int32_t in, int32_t to, const std::optional<Part>& given) {
        const Part part = given.value_or(Part{});
        return make_stem_axis(in, to, filter, antialias, part.offset, part.extent);
    };
    std::vector<StemPlanTensor> tensors;
    for (const TensorSize& size : sizes)
        tensors.push_back(
            {size.batch, axis(size.height, out.height, size.rows), axis(size.width, out.width, size.columns)});
    return tensors;
}

StemPlan plan_stem(const std::vector<TensorSize>& sizes, const OutSize& out_size, Filter interpolation, bool antialias,
                   const Images& images, ImageDType dtype, int multiprocessors, Arithmetic arithmetic,
                   Filters num_filters) {
    StemPlanRequest request{plan_tensors(sizes, out_size, interpolation, antialias), multiprocessors,
                            stem_instance(arithmetic, num_filters)};
    for (const StemImage& image : images) attach(request.attached, in_bytes(image, dtype.dtype));
    return make_stem_plan(request);
}

// Makes on the device what follows from the bytes that are there.
template <class Plan, auto kLaunch>
void make_tables(const Plan& plan, Pointer<unsigned char, 16> tables, int device, Stream stream) {
    const StemTables& t = plan.tables;
    const Axis &rows = t.axes[0].axis, &columns = t.axes[1].axis;
    const BandsParams bands{tables, t.axes_at, static_cast<int32_t>(t.axes.size()), std::max(rows.out, columns.out)};
    check_launch("bands", launch_bands(bands, device, stream), device);
    check_launch("stem_tables", kLaunch(plan.shape, tables, device, stream), device);
}

// The images of a call: one in the parameters, or those attached to the tables.
template <class Params>
const unsigned char* set_images(Params& params, const StemTables& plan, const unsigned char* tables,
                                const StemFormat& format, const Images& images) {
    params.tables = tables;
    params.format = format;
    if (static_cast<size_t>(params.plan.tensors) != images.size())
        throw std::invalid_argument("images: got " + std::to_string(images.size()) +
                                    "; expected as many as the plan has, " + std::to_string(params.plan.tensors));
    if (images.size() == 1) {
        params.image = in_bytes(images[0], format.dtype);
        if (params.image.height != plan.axes[0].axis.in || params.image.width != plan.axes[1].axis.in)
            throw std::invalid_argument("image: its size differs from the plan's");
        return nullptr;
    }
    params.images = reinterpret_cast<const StemImage*>(params.tables + plan.attached_at);
    return reinterpret_cast<const unsigned char*>(params.images + images.size());
}

using TablesAddress = Pointer<const unsigned char, 16>;

void stem(const StemPlan& plan, TablesAddress tables, const StemFormat& format, const Images& images,
          const Weights& weights, float negative_slope, Arithmetic arithmetic, Filters num_filters, Features z,
          Optional<float> partials, int device, Stream stream) {
    StemParams params{};
    params.plan = plan.shape;
    set_images(params, plan.tables, tables, format, images);
    params.weights = weights.with(negative_slope, num_filters);
    params.z = z;
    params.partials = partials;
    check_launch("stem", launch_stem(params, arithmetic, device, stream), device);
}

// (rows of the partial results, bytes of shared memory that a block needs)
std::pair<int, int64_t> needs(const std::vector<int64_t>&, bool backward, Arithmetic arithmetic, Filters num_filters,
                              int multiprocessors) {
    if (!backward) return {0, stem_shared_bytes(arithmetic, num_filters)};
    StemBackwardFit fit{};
    int64_t least = 0;
    for (const auto gradient : {StemGradient::kWeights, StemGradient::kImage}) {
        int64_t bytes = 16 * 1024;
        while (!fit_stem_backward(fit, gradient, arithmetic, num_filters, 4, multiprocessors, bytes)) bytes += 1024;
        least = std::max(least, bytes);
    }
    return {0, least};
}

StemBackwardPlan plan_stem_backward(const std::vector<TensorSize>& sizes, const OutSize& out_size, Filter interpolation,
                                    bool antialias, const Images& images, const Grads& grads, ImageDType dtype,
                                    int channels, int multiprocessors, int64_t most_shared, Arithmetic arithmetic,
                                    Filters num_filters) {
    StemBackwardFit fits[2];
    for (const auto gradient : {StemGradient::kWeights, StemGradient::kImage})
        if (!fit_stem_backward(fits[static_cast<int>(gradient)], gradient, arithmetic, num_filters, channels,
                               multiprocessors, most_shared))
            throw std::invalid_argument("most_shared: got " + std::to_string(most_shared) + " bytes; expected more");
    if (grads.size() > sizes.size())
        throw std::invalid_argument("grads: got " + std::to_string(grads.size()) + "; expected as many as sizes, " +
                                    std::to_string(sizes.size()));
    std::vector<unsigned char> attached;
    for (const StemImage& image : images) attach(attached, in_bytes(image, dtype.dtype));
    std::vector<StemPlanTensor> tensors = plan_tensors(sizes, out_size, interpolation, antialias);
    for (size_t i = 0; i < grads.size(); ++i) {
        attach(attached, grads[i].value_or(StemImageGrad{}));
        tensors[i].image_grad = grads[i].has_value();
    }
    return make_stem_backward_plan(tensors, fits, attached);
}

void stem_backward(const StemBackwardPlan& plan, TablesAddress tables, const StemFormat& format, const Images& images,
                   const Weights& weights, float negative_slope, Features dz,
                   const std::optional<Statistics>& statistics, Pointer<float> partials, const Grads& grads,
                   Arithmetic arithmetic, Filters num_filters, int device, Stream stream) {
    StemBackwardParams params{};
    params.plan = plan.shape;
    const unsigned char* behind = set_images(params, plan.tables, tables, format, images);
    params.weights = weights.with(negative_slope, num_filters);
    params.dz = dz;
    set_statistics(params, statistics);
    params.partials = partials;
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kWeights, arithmetic, device, stream),
                 device);
    if (grads.empty()) return;
    if (params.format.dtype == DType::kUInt8) throw std::invalid_argument("dx: got a uint8 image; expected none");
    if (grads.size() == 1)
        params.grad = grads[0].value_or(StemImageGrad{});
    else
        params.grads = reinterpret_cast<const StemImageGrad*>(behind);
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kImage, arithmetic, device, stream),
                 device);
}

template <class Plan>
Object stored(const Plan& plan) {
    return bytes(plan.tables.stored);
}
template <class Plan>
int64_t table_bytes(const Plan& plan) {
    return plan.tables.bytes;
}
int64_t blocks(const StemPlan& plan) { return plan.shape.blocks; }
int64_t backward_blocks(const StemBackwardPlan& plan) { return plan.shape.blocks[0]; }

template <class Plan, auto kLaunch, auto kBlocks>
void add_plan(PyObject* module, const char* text, const char* of_blocks) {
    static PyGetSetDef properties[] = {
        Property<&stored<Plan>>::define("stored", "The bytes to store at the tables' begin."),
        Property<&table_bytes<Plan>>::define("table_bytes", "Of all tables, 16-byte aligned."),
        Property<kBlocks>::define("blocks", of_blocks),
        {},
    };
    add_class<Plan>(
        module, text, properties,
        Function<&make_tables<Plan, kLaunch>, true>::define(
            "make_tables", "tables, device, stream", "Make the tables on the device from the bytes stored there."));
}

}  // namespace

void bind_stem(PyObject* module) {
    add_plan<StemPlan, &launch_stem_tables, &blocks>(
        module, "Work of one stem.", "Blocks of the launch, and so rows of the statistics' partial results.");
    add_plan<StemBackwardPlan, &launch_stem_backward_tables, &backward_blocks>(
        module, "The same of its adjoint.", "Blocks of the weights' gradients, and so rows of their partial results.");
    add_function<&plan_stem>(
        module, "plan_stem",
        "sizes, out_size, interpolation, antialias, images, dtype, multiprocessors, arithmetic, num_filters",
        "Plan for tensors of (batch, height, width, rows, columns); images: theirs if they are several.");
    add_function<&stem>(module, "stem",
                        "plan, tables, format, images, weights, negative_slope, arithmetic, num_filters, z, partials, "
                        "device, stream",
                        "Launch the forward; addresses are device pointers, partials may be 0.");
    add_function<&needs>(module, "stem_needs", "size, backward, arithmetic, num_filters, multiprocessors",
                         "0, and the bytes of shared memory that a block needs.");
    add_function<&plan_stem_backward>(module, "plan_stem_backward",
                                      "sizes, out_size, interpolation, antialias, images, grads, dtype, channels, "
                                      "multiprocessors, most_shared, arithmetic, num_filters",
                                      "The same for the adjoint.");
    add_function<&stem_backward>(module, "stem_backward",
                                 "plan, tables, format, images, weights, negative_slope, dz, statistics, partials, "
                                 "grads, arithmetic, num_filters, device, stream",
                                 "Launch the backward; grads: a place for each image's, or None, or none at all.");
}
