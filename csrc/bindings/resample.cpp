// The resample kernel for Python: a plan object, and its launches on raw pointers.
#include "resample/resample.h"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "arguments.h"
#include "registration.h"
#include "resample/resample_plan.h"

namespace learned_resizer {

template <>
struct From<ResamplePlan> : Class<ResamplePlan> {
    static constexpr const char* kName = "ResamplePlan";
};

}  // namespace learned_resizer

namespace {

using namespace learned_resizer;

constexpr std::array<const char*, 5> kDTypes = {"float64", "float32", "float16", "bfloat16", "uint8"};
constexpr std::array<uintptr_t, 5> kSizes = {8, 4, 2, 2, 1};

struct NamedDType {
    DType dtype;
    static NamedDType from(const Value& value) {
        const auto name = value.as<std::string_view>();
        for (size_t i = 0; i < kDTypes.size(); ++i)
            if (name == kDTypes[i]) return {static_cast<DType>(i)};
        value.refuse(value.shown(), "float64, float32, float16, bfloat16 or uint8");
    }
};
uintptr_t size_of(DType dtype) { return kSizes[static_cast<size_t>(dtype)]; }

// As in make_axis.
struct PlanAxis {
    int32_t in, out;
    double offset, extent, factor;
    static PlanAxis from(const Value& value) {
        return unpack_as<PlanAxis, int32_t, int32_t, double, double, double>(value,
                                                                             "(in, out, offset, extent, factor)");
    }
};
// The output of an adjoint, and the region's place in it.
struct Whole {
    int32_t height, width, top, left;
    static Whole from(const Value& value) {
        using Int = int32_t;
        return unpack_as<Whole, Int, Int, Int, Int>(value, "(height, width, top, left)");
    }
};
struct PlanTensor {
    int64_t images, channels;
    bool interleaved, vectors;
    PlanAxis rows, columns;
    std::optional<Whole> whole;
    bool mirrored;
    static PlanTensor from(const Value& value) {
        return unpack_as<PlanTensor, int64_t, int64_t, bool, bool, PlanAxis, PlanAxis, std::optional<Whole>, bool>(
            value, "(images, channels, interleaved, vectors, rows, columns, whole, mirrored)");
    }
    ResamplePlanTensor planned(Filter filter, bool antialias) const {
        const auto axis = [&](const PlanAxis& a) {
            return make_axis(a.in, a.out, filter, antialias, a.offset, a.extent, a.factor);
        };
        const Whole out = whole.value_or(Whole{});
        return {images,     channels,  interleaved, vectors,  axis(rows), axis(columns),
                out.height, out.width, out.top,     out.left, mirrored};
    }
};

// The address of the first pixel, strides in elements, the address of the output
struct Image {
    uintptr_t image;
    Strides<5> strides;
    uintptr_t output;
    static Image from(const Value& value) {
        return unpack_as<Image, uintptr_t, Strides<5>, uintptr_t>(value, "(image, strides, output)");
    }
    ResampleImage checked(DType dtype, DType out_dtype) const {
        check_address("image", image, size_of(dtype));
        check_address("output", output, size_of(out_dtype));
        ResampleImage result{reinterpret_cast<void*>(image), {}, reinterpret_cast<void*>(output)};
        copy(strides, result.stride);
        return result;
    }
};

// images: those that travel with the plan's tables, of several sizes; norm: scale and shift of each channel, or empty.
ResamplePlan plan_resample(NamedDType dtype, NamedDType out_dtype, bool transposed,
                           const std::vector<PlanTensor>& tensors, Filter interpolation, bool antialias,
                           int multiprocessors, int shared_memory, const std::vector<Image>& images,
                           const std::vector<float>& norm) {
    ResamplePlanRequest request{{}, dtype.dtype, out_dtype.dtype, transposed, multiprocessors, shared_memory};
    for (const PlanTensor& tensor : tensors) request.tensors.push_back(tensor.planned(interpolation, antialias));
    const auto attach = [&](const auto& value) {
        const auto* from = reinterpret_cast<const unsigned char*>(&value);
        request.attached.insert(request.attached.end(), from, from + sizeof(value));
    };
    for (const Image& image : images) attach(image.checked(request.dtype, request.out_dtype));
    for (const float number : norm) attach(number);
    return make_resample_plan(request);
}

bool resample_vectors(NamedDType dtype, Optional<void, 1> image, int64_t width, int64_t channels,
                      const Strides<5>& strides) {
    return vectors_allowed(dtype.dtype, image, width, channels,
                           {strides.at[0], strides.at[1], strides.at[2], strides.at[3], strides.at[4]});
}

// Makes on the device what follows from the bytes that are there.
void make_tables(const ResamplePlan& plan, Pointer<unsigned char, 16> tables, int device, Stream stream) {
    const auto count = static_cast<int32_t>(plan.axes.size());
    check_launch("bands", launch_bands({tables, plan.axes_at, count, plan.shape.most_bands}, device, stream), device);
    if (plan.shape.transposed != 0)
        check_launch(
            "transposed_bands",
            launch_transposed_bands({tables, plan.shape.transpose_table, count, plan.shape.most_bands}, device, stream),
            device);
    check_launch("resample_tables", launch_resample_tables(plan.shape, tables, device, stream), device);
}

void resample(const ResamplePlan& plan, Pointer<const unsigned char, 16> tables, const std::vector<Image>& images,
              bool normalised, int device, Stream stream) {
    if (device < 0)
        throw std::invalid_argument("device: got " + std::to_string(device) + "; expected a CUDA device's index");
    if (images.size() != static_cast<size_t>(plan.shape.tensors))
        throw std::invalid_argument("images: got " + std::to_string(images.size()) +
                                    "; expected as many as the plan has, " + std::to_string(plan.shape.tensors));
    // The outputs of an entry are stored at once.
    const uintptr_t store = static_cast<uintptr_t>(plan.shape.outputs) * size_of(plan.shape.out_dtype);
    ResampleParams params{};
    params.plan = plan.shape;
    params.tables = tables;
    for (size_t i = 0; i < images.size(); ++i) {
        const ResampleImage image = images[i].checked(plan.shape.dtype, plan.shape.out_dtype);
        if (plan.tensors[i].whole_store != 0) check_address("output", images[i].output, std::min<uintptr_t>(store, 16));
        if (i == 0) params.image = image;
    }
    const unsigned char* attached = params.tables + plan.attached_at;
    if (images.size() > 1) {
        params.images = reinterpret_cast<const ResampleImage*>(attached);
        attached += images.size() * sizeof(ResampleImage);
    }
    if (normalised) params.norm = reinterpret_cast<const float*>(attached);
    check_launch("resample", launch_resample(params, device, stream), device);
}

Dict tensor_dict(const ResampleTensor& t) {
    Dict d;
#define LR_FIELD(name) d.set(#name, t.name)
    LR_FIELD(planes), LR_FIELD(plane_groups), LR_FIELD(channels), LR_FIELD(group_channels), LR_FIELD(channel_groups);
    LR_FIELD(group_planes), LR_FIELD(plane_elements), LR_FIELD(strip_rows), LR_FIELD(unit_rows), LR_FIELD(strips);
    LR_FIELD(strip_steps), LR_FIELD(tile_columns), LR_FIELD(tiles), LR_FIELD(pieces), LR_FIELD(piece_columns);
    LR_FIELD(align), LR_FIELD(slot_columns), LR_FIELD(taps), LR_FIELD(entry_columns), LR_FIELD(tile_entries);
    LR_FIELD(block), LR_FIELD(steps), LR_FIELD(strip_count), LR_FIELD(tile_table), LR_FIELD(entry_table);
    LR_FIELD(weight_table);
#undef LR_FIELD
    d.set("whole_store", t.whole_store != 0);
    return d;
}

Dict shape_dict(const ResamplePlan& plan) {
    const ResampleShape& s = plan.shape;
    Dict d;
    d.set("dtype", kDTypes[static_cast<size_t>(s.dtype)]);
    d.set("vectors", s.vectors != 0);
    d.set("resident", plan.resident);
#define LR_FIELD(name) d.set(#name, s.name)
    LR_FIELD(slots), LR_FIELD(outputs), LR_FIELD(threads), LR_FIELD(shared_bytes), LR_FIELD(blocks), LR_FIELD(entries);
#undef LR_FIELD
    std::vector<Object> tensors;
    for (const ResampleTensor& t : plan.tensors) tensors.push_back(tensor_dict(t));
    d.set("tensors", std::move(tensors));
    return d;
}

Object stored(const ResamplePlan& plan) { return bytes(plan.stored); }
int64_t table_bytes(const ResamplePlan& plan) { return plan.bytes; }

PyGetSetDef properties[] = {
    Property<&stored>::define("stored", "The bytes to put at the begin of its tables on the device, 16-byte aligned."),
    Property<&table_bytes>::define("table_bytes", "Bytes of all tables."),
    Property<&shape_dict>::define("shape", "What was planned, as a dict."),
    {},
};

}  // namespace

void bind_resample(PyObject* module) {
    add_class<ResamplePlan>(module, "Plan of one launch.", properties,
                            Function<&make_tables, true>::define("make_tables", "tables, device, stream",
                                                                 "Launches that make the rest of the tables."));
    add_function<&plan_resample>(
        module, "plan_resample",
        "dtype, out_dtype, transposed, tensors, interpolation, antialias, multiprocessors, shared_memory, images, norm",
        "Plan for images of any sizes: (images, channels, interleaved, vectors, rows, columns, whole, mirrored) of "
        "each tensor, rows and columns (in, out, offset, extent, factor).");
    add_function<&resample_vectors>(module, "resample_vectors", "dtype, image, width, channels, strides",
                                    "Whether rows of this image can be read as aligned vectors.");
    add_function<&resample>(
        module, "resample", "plan, tables, images, normalised, device, stream",
        "Launch on a stream of a device; images are (address, strides in elements, address of the output).");
}
