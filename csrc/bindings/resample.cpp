// The resample kernel for Python: a plan object, its tables, and its launch on raw pointers.
#include "resample/resample.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.h"
#include "resample/resample_plan.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

constexpr std::array<const char*, 5> kDTypes = {"float64", "float32", "float16", "bfloat16", "uint8"};
constexpr std::array<int64_t, 5> kSizes = {8, 4, 2, 2, 1};

DType parse_dtype(const std::string& name) {
    for (size_t i = 0; i < kDTypes.size(); ++i)
        if (name == kDTypes[i]) return static_cast<DType>(i);
    throw py::value_error("dtype: got '" + name + "'; expected float64, float32, float16, bfloat16 or uint8");
}

// (image, plane, channel, row, column), in elements
std::array<int64_t, 5> parse_five(const py::tuple& strides) {
    if (strides.size() != 5)
        throw py::value_error("strides: got " + std::to_string(strides.size()) +
                              "; expected 5: image, plane, channel, row, column");
    std::array<int64_t, 5> result{};
    for (size_t i = 0; i < 5; ++i) result[i] = strides[i].cast<int64_t>();
    return result;
}

// (address of the crop's first pixel, strides, address of the output)
ResampleImage parse_resample_image(const py::handle& image, DType out_dtype) {
    const auto parts = image.cast<py::tuple>();
    if (parts.size() != 3) throw py::value_error("image: expected (address, strides, output)");
    ResampleImage result{};
    const auto from = parts[0].cast<uintptr_t>(), to = parts[2].cast<uintptr_t>();
    check_address("image", from, 1);
    result.image = address(from);
    const auto strides = parse_five(parts[1].cast<py::tuple>());
    std::copy(strides.begin(), strides.end(), result.stride);
    check_address("output", to, kSizes[static_cast<size_t>(out_dtype)]);
    result.output = address(to);
    return result;
}

// (in, out, (offset, extent) or None, factor or None)
Axis parse_axis(const py::handle& axis, int interpolation, bool antialias) {
    const auto parts = axis.cast<py::tuple>();
    if (parts.size() != 4) throw py::value_error("axis: expected (in, out, place, factor)");
    double offset = 0.0, extent = 0.0;
    if (!parts[2].is_none()) {
        const auto place = parts[2].cast<py::tuple>();
        offset = place[0].cast<double>(), extent = place[1].cast<double>();
    }
    return make_axis(parts[0].cast<int32_t>(), parts[1].cast<int32_t>(), static_cast<Filter>(interpolation), antialias,
                     offset, extent, parts[3].is_none() ? 0.0 : parts[3].cast<double>());
}

// (images, channels, interleaved, vectors, rows, columns, whole): axes as in parse_axis; whole: of the adjoint (height,
// width, top, left, mirrored), else None
ResamplePlanTensor parse_tensor(const py::handle& tensor, int interpolation, bool antialias) {
    const auto parts = tensor.cast<py::tuple>();
    if (parts.size() != 7)
        throw py::value_error("tensor: expected (images, channels, interleaved, vectors, rows, columns, whole)");
    ResamplePlanTensor result{};
    result.images = parts[0].cast<int64_t>(), result.channels = parts[1].cast<int64_t>();
    result.interleaved = parts[2].cast<bool>(), result.vectors = parts[3].cast<bool>();
    result.rows = parse_axis(parts[4], interpolation, antialias);
    result.columns = parse_axis(parts[5], interpolation, antialias);
    if (!parts[6].is_none()) {
        const auto whole = parts[6].cast<py::tuple>();
        result.out_height = whole[0].cast<int32_t>(), result.out_width = whole[1].cast<int32_t>();
        result.top = whole[2].cast<int32_t>(), result.left = whole[3].cast<int32_t>();
        result.mirrored = whole[4].cast<bool>();
    }
    return result;
}

template <class T>
void attach(std::vector<unsigned char>& bytes, const T& value) {
    const auto* from = reinterpret_cast<const unsigned char*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof(T));
}

// A plan, and how many images and values of the normalisation are behind what it stores.
struct BoundPlan {
    ResamplePlan plan;
    int64_t images, norm;
};

BoundPlan plan_resample(const py::sequence& tensors, const py::sequence& images, const py::sequence& norm,
                        const std::string& dtype, const std::string& out_dtype, int interpolation, bool antialias,
                        bool transposed, int multiprocessors, int shared_memory) {
    ResamplePlanRequest request{};
    for (const auto& tensor : tensors) request.tensors.push_back(parse_tensor(tensor, interpolation, antialias));
    request.dtype = parse_dtype(dtype), request.out_dtype = parse_dtype(out_dtype);
    request.transposed = transposed;
    request.multiprocessors = multiprocessors, request.shared_memory = shared_memory;
    for (const auto& image : images) attach(request.attached, parse_resample_image(image, request.out_dtype));
    for (const auto& value : norm) attach(request.attached, value.cast<float>());
    return {make_resample_plan(request), static_cast<int64_t>(images.size()), static_cast<int64_t>(norm.size())};
}

bool resample_vectors(const std::string& dtype, uintptr_t image, int64_t width, int64_t channels,
                      const py::tuple& strides) {
    return vectors_allowed(parse_dtype(dtype), address(image), width, channels, parse_five(strides));
}

void make_tables(const BoundPlan& bound, uintptr_t tables, int device, uintptr_t stream) {
    check_address("tables", tables, 16);
    const ResamplePlan& plan = bound.plan;
    auto* at = static_cast<unsigned char*>(address(tables));
    const auto count = static_cast<int32_t>(plan.axes.size());
    check_launch("bands", launch_bands({at, plan.axes_at, count, plan.shape.most_bands}, device, address(stream)),
                 device);
    if (plan.shape.transposed != 0)
        check_launch("transposed_bands",
                     launch_transposed_bands({at, plan.shape.transpose_table, count, plan.shape.most_bands}, device,
                                             address(stream)),
                     device);
    check_launch("resample_tables", launch_resample_tables(plan.shape, at, device, address(stream)), device);
}

// image: as in parse_resample_image; None: those that travel with the plan
void resample(const BoundPlan& bound, uintptr_t tables, const py::object& image, int device, uintptr_t stream) {
    check_address("tables", tables, 16);
    const ResamplePlan& plan = bound.plan;
    ResampleParams params{};
    params.plan = plan.shape;
    params.tables = static_cast<const unsigned char*>(address(tables));
    const unsigned char* attached = params.tables + plan.attached_at;
    if (!image.is_none())
        params.image = parse_resample_image(image, plan.shape.out_dtype);
    else if (bound.images == plan.shape.tensors)
        params.images = reinterpret_cast<const ResampleImage*>(attached);
    else
        throw py::value_error("image: got None; expected (address, strides, output), which the plan does not hold");
    if (bound.norm > 0) params.norm = reinterpret_cast<const float*>(attached + bound.images * sizeof(ResampleImage));
    check_launch("resample", launch_resample(params, device, address(stream)), device);
}

// The launch's fields and those of its first tensor.
py::dict shape_dict(const BoundPlan& bound) {
    const ResampleShape& s = bound.plan.shape;
    const ResampleTensor& t = bound.plan.tensors[0];
    py::dict d;
    d["dtype"] = kDTypes[static_cast<size_t>(s.dtype)];
    d["vectors"] = s.vectors != 0;
    d["whole_store"] = t.whole_store != 0;
    d["resident"] = bound.plan.resident;
    d["out_height"] = t.rows.out, d["out_width"] = t.columns.out;
#define LR_FIELD(of, name) d[#name] = of.name
    LR_FIELD(s, slots), LR_FIELD(s, outputs), LR_FIELD(s, threads), LR_FIELD(s, shared_bytes), LR_FIELD(s, blocks);
    LR_FIELD(s, tensors), LR_FIELD(t, planes), LR_FIELD(t, plane_groups), LR_FIELD(t, channels);
    LR_FIELD(t, group_channels), LR_FIELD(t, channel_groups), LR_FIELD(t, group_planes), LR_FIELD(t, plane_elements);
    LR_FIELD(t, strip_rows), LR_FIELD(t, unit_rows), LR_FIELD(t, strips), LR_FIELD(t, tile_columns), LR_FIELD(t, tiles);
    LR_FIELD(t, pieces), LR_FIELD(t, align), LR_FIELD(t, slot_columns), LR_FIELD(t, taps), LR_FIELD(t, entry_columns);
    LR_FIELD(t, tile_entries);
#undef LR_FIELD
    return d;
}

}  // namespace

void bind_resample(py::module_& module) {
    py::class_<BoundPlan>(module, "ResamplePlan", py::buffer_protocol(), py::module_local(),
                          "Work of one launch. As a buffer: what to store at the tables' begin.")
        .def_buffer([](BoundPlan& bound) {
            auto& stored = bound.plan.stored;
            return py::buffer_info(stored.data(), 1, py::format_descriptor<unsigned char>::format(), 1,
                                   {static_cast<py::ssize_t>(stored.size())}, {1}, true);
        })
        .def_property_readonly(
            "table_bytes", [](const BoundPlan& bound) { return bound.plan.bytes; }, "Of all tables, 16-byte aligned.")
        .def_property_readonly("shape", &shape_dict, "What was planned, as a dict: the launch and its first tensor.")
        .def("make_tables", &make_tables, py::arg("tables"), py::arg("device"), py::arg("stream"),
             "Make the tables on the device from the bytes stored there.");
    module.def("plan_resample", &plan_resample, py::arg("tensors"), py::arg("images"), py::arg("norm"),
               py::arg("dtype"), py::arg("out_dtype"), py::arg("interpolation"), py::arg("antialias"),
               py::arg("transposed"), py::arg("multiprocessors"), py::arg("shared_memory"),
               "Plan for tensors of (images, channels, interleaved, vectors, rows, columns, whole); images: theirs if "
               "they are several; norm: scale and shift of each channel, or none.");
    module.def("resample_vectors", &resample_vectors, py::arg("dtype"), py::arg("image"), py::arg("width"),
               py::arg("channels"), py::arg("strides"), "Whether rows of this image can be read as aligned vectors.");
    module.def("resample", &resample, py::arg("plan"), py::arg("tables"), py::arg("image"), py::arg("device"),
               py::arg("stream"), "Launch on a stream of a device; addresses are device pointers.");
}
