// The resample kernel for Python: a plan object, and its launches on raw pointers.
#include "resample/resample.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
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

DType parse_dtype(const char* argument, const std::string& name) {
    for (size_t i = 0; i < kDTypes.size(); ++i)
        if (name == kDTypes[i]) return static_cast<DType>(i);
    throw py::value_error(std::string(argument) + ": got '" + name +
                          "'; expected float64, float32, float16, bfloat16 or uint8");
}

using Strides = std::array<int64_t, 5>;  // image, plane, channel, row, column, in elements

Strides parse_five(const py::handle& value) {
    const auto strides = value.cast<py::tuple>();
    if (strides.size() != 5)
        throw py::value_error("strides: got " + std::to_string(strides.size()) +
                              "; expected 5: image, plane, channel, row, column");
    Strides result;
    for (size_t i = 0; i < 5; ++i) result[i] = strides[i].cast<int64_t>();
    return result;
}

// (in, out, offset, extent, factor): make_axis.
Axis parse_axis(const py::handle& value, int interpolation, bool antialias) {
    const auto axis = value.cast<py::tuple>();
    if (axis.size() != 5) throw py::value_error("axis: expected (in, out, offset, extent, factor)");
    if (interpolation < 0 || interpolation > static_cast<int>(Filter::kLanczos))
        throw py::value_error("interpolation: got " + std::to_string(interpolation) + "; expected 0 to 5");
    return make_axis(axis[0].cast<int32_t>(), axis[1].cast<int32_t>(), static_cast<Filter>(interpolation), antialias,
                     axis[2].cast<double>(), axis[3].cast<double>(), axis[4].cast<double>());
}

// (images, channels, interleaved, vectors, rows, columns, whole, mirrored): ResamplePlanTensor; whole: None, or in the
// adjoint (height, width, top, left).
ResamplePlanTensor parse_tensor(const py::handle& value, int interpolation, bool antialias) {
    const auto item = value.cast<py::tuple>();
    if (item.size() != 8)
        throw py::value_error(
            "tensor: expected (images, channels, interleaved, vectors, rows, columns, whole, mirrored)");
    ResamplePlanTensor t{};
    t.images = item[0].cast<int64_t>(), t.channels = item[1].cast<int64_t>();
    t.interleaved = item[2].cast<bool>(), t.vectors = item[3].cast<bool>();
    t.rows = parse_axis(item[4], interpolation, antialias), t.columns = parse_axis(item[5], interpolation, antialias);
    if (!item[6].is_none()) {
        const auto whole = item[6].cast<py::tuple>();
        t.out_height = whole[0].cast<int32_t>(), t.out_width = whole[1].cast<int32_t>();
        t.top = whole[2].cast<int32_t>(), t.left = whole[3].cast<int32_t>();
    }
    t.mirrored = item[7].cast<bool>();
    return t;
}

// (address of the first pixel, strides, address of the output)
ResampleImage parse_image(const py::handle& value, DType dtype, DType out_dtype) {
    const auto item = value.cast<py::tuple>();
    if (item.size() != 3) throw py::value_error("image: expected (address, strides, output)");
    ResampleImage image{};
    const auto from = item[0].cast<uintptr_t>(), to = item[2].cast<uintptr_t>();
    const Strides strides = parse_five(item[1]);
    check_address("image", from, static_cast<uintptr_t>(kSizes[static_cast<size_t>(dtype)]));
    check_address("output", to, static_cast<uintptr_t>(kSizes[static_cast<size_t>(out_dtype)]));
    image.image = address(from), image.output = address(to);
    std::copy(strides.begin(), strides.end(), image.stride);
    return image;
}

// images: those that travel with the plan's tables, of several sizes; norm: scale and shift of each channel, or empty.
ResamplePlan plan_resample(const std::string& dtype, const std::string& out_dtype, bool transposed,
                           const py::sequence& tensors, int interpolation, bool antialias, int multiprocessors,
                           int shared_memory, const py::sequence& images, const py::sequence& norm) {
    ResamplePlanRequest request{};
    request.dtype = parse_dtype("dtype", dtype), request.out_dtype = parse_dtype("out_dtype", out_dtype);
    request.transposed = transposed;
    for (const auto& tensor : tensors) request.tensors.push_back(parse_tensor(tensor, interpolation, antialias));
    request.multiprocessors = multiprocessors, request.shared_memory = shared_memory;
    const auto attach = [&](const void* data, size_t bytes) {
        const auto* from = static_cast<const unsigned char*>(data);
        request.attached.insert(request.attached.end(), from, from + bytes);
    };
    for (const auto& image : images) {
        const ResampleImage parsed = parse_image(image, request.dtype, request.out_dtype);
        attach(&parsed, sizeof(parsed));
    }
    for (const auto& value : norm) {
        const auto number = value.cast<float>();
        attach(&number, sizeof(number));
    }
    return make_resample_plan(request);
}

bool resample_vectors(const std::string& dtype, uintptr_t image, int64_t width, int64_t channels,
                      const py::tuple& strides) {
    return vectors_allowed(parse_dtype("dtype", dtype), address(image), width, channels, parse_five(strides));
}

// Makes on the device what follows from the bytes that are there.
void make_tables(const ResamplePlan& plan, uintptr_t tables, int device, uintptr_t stream) {
    check_address("tables", tables, 16);
    auto* memory = static_cast<unsigned char*>(address(tables));
    const auto count = static_cast<int32_t>(plan.axes.size());
    check_launch("bands", launch_bands({memory, plan.axes_at, count, plan.shape.most_bands}, device, address(stream)),
                 device);
    if (plan.shape.transposed != 0)
        check_launch("transposed_bands",
                     launch_transposed_bands({memory, plan.shape.transpose_table, count, plan.shape.most_bands}, device,
                                             address(stream)),
                     device);
    check_launch("resample_tables", launch_resample_tables(plan.shape, memory, device, address(stream)), device);
}

void resample(const ResamplePlan& plan, uintptr_t tables, const py::sequence& images, bool normalised, int device,
              uintptr_t stream) {
    check_address("tables", tables, 16);
    if (device < 0) throw py::value_error("device: got " + std::to_string(device) + "; expected a CUDA device's index");
    if (images.size() != static_cast<size_t>(plan.shape.tensors))
        throw py::value_error("images: got " + std::to_string(images.size()) + "; expected as many as the plan has, " +
                              std::to_string(plan.shape.tensors));
    ResampleParams params{};
    params.plan = plan.shape;
    params.tables = static_cast<const unsigned char*>(address(tables));
    std::vector<ResampleImage> parsed;
    for (const auto& image : images) {
        parsed.push_back(parse_image(image, plan.shape.dtype, plan.shape.out_dtype));
        // The outputs of an entry are stored at once.
        const int64_t store = plan.shape.outputs * kSizes[static_cast<size_t>(plan.shape.out_dtype)];
        if (plan.tensors[parsed.size() - 1].whole_store != 0)
            check_address("output", reinterpret_cast<uintptr_t>(parsed.back().output),
                          static_cast<uintptr_t>(std::min<int64_t>(store, 16)));
    }
    params.image = parsed[0];
    const unsigned char* attached = params.tables + plan.attached_at;
    if (parsed.size() > 1) {
        params.images = reinterpret_cast<const ResampleImage*>(attached);
        attached += parsed.size() * sizeof(ResampleImage);
    }
    if (normalised) params.norm = reinterpret_cast<const float*>(attached);
    check_launch("resample", launch_resample(params, device, address(stream)), device);
}

py::dict tensor_dict(const ResampleTensor& t) {
    py::dict d;
#define LR_FIELD(name) d[#name] = t.name
    LR_FIELD(planes), LR_FIELD(plane_groups), LR_FIELD(channels), LR_FIELD(group_channels), LR_FIELD(channel_groups);
    LR_FIELD(group_planes), LR_FIELD(plane_elements), LR_FIELD(strip_rows), LR_FIELD(unit_rows), LR_FIELD(strips);
    LR_FIELD(strip_steps), LR_FIELD(tile_columns), LR_FIELD(tiles), LR_FIELD(pieces), LR_FIELD(piece_columns);
    LR_FIELD(align), LR_FIELD(slot_columns), LR_FIELD(taps), LR_FIELD(entry_columns), LR_FIELD(tile_entries);
    LR_FIELD(block), LR_FIELD(steps), LR_FIELD(strip_count), LR_FIELD(tile_table), LR_FIELD(entry_table);
    LR_FIELD(weight_table);
#undef LR_FIELD
    d["whole_store"] = t.whole_store != 0;
    return d;
}

py::dict shape_dict(const ResamplePlan& plan) {
    const ResampleShape& s = plan.shape;
    py::dict d;
    d["dtype"] = kDTypes[static_cast<size_t>(s.dtype)];
    d["vectors"] = s.vectors != 0;
    d["resident"] = plan.resident;
#define LR_FIELD(name) d[#name] = s.name
    LR_FIELD(slots), LR_FIELD(outputs), LR_FIELD(threads), LR_FIELD(shared_bytes), LR_FIELD(blocks), LR_FIELD(entries);
#undef LR_FIELD
    py::list tensors;
    for (const ResampleTensor& t : plan.tensors) tensors.append(tensor_dict(t));
    d["tensors"] = tensors;
    return d;
}

}  // namespace

void bind_resample(py::module_& module) {
    py::class_<ResamplePlan>(
        module, "ResamplePlan", py::buffer_protocol(), py::module_local(),
        "Plan of one launch. As a buffer: the bytes to put at the begin of its tables on the device, 16-byte aligned.")
        .def_buffer([](ResamplePlan& plan) {
            return py::buffer_info(plan.stored.data(), 1, py::format_descriptor<unsigned char>::format(), 1,
                                   {static_cast<py::ssize_t>(plan.stored.size())}, {1}, true);
        })
        .def_property_readonly(
            "table_bytes", [](const ResamplePlan& plan) { return plan.bytes; }, "Bytes of all tables.")
        .def("make_tables", &make_tables, py::arg("tables"), py::arg("device"), py::arg("stream"),
             "Launches that make the rest of the tables.")
        .def_property_readonly("shape", &shape_dict, "What was planned, as a dict.");
    module.def("plan_resample", &plan_resample, py::arg("dtype"), py::arg("out_dtype"), py::arg("transposed"),
               py::arg("tensors"), py::arg("interpolation"), py::arg("antialias"), py::arg("multiprocessors"),
               py::arg("shared_memory"), py::arg("images"), py::arg("norm"),
               "Plan for images of any sizes: (images, channels, interleaved, vectors, rows, columns, whole, mirrored) "
               "of each tensor, rows and columns (in, out, offset, extent, factor).");
    module.def("resample_vectors", &resample_vectors, py::arg("dtype"), py::arg("image"), py::arg("width"),
               py::arg("channels"), py::arg("strides"), "Whether rows of this image can be read as aligned vectors.");
    module.def("resample", &resample, py::arg("plan"), py::arg("tables"), py::arg("images"), py::arg("normalised"),
               py::arg("device"), py::arg("stream"),
               "Launch on a stream of a device; images are (address, strides in elements, address of the output).");
}
