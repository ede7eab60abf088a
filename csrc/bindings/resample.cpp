// The resample kernel for Python: a plan object, and its launch on raw pointers.
#include "resample/resample.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "arguments.h"
#include "resample/resample_plan.h"

namespace py = pybind11;

namespace {

using learned_resizer::AxisArgument;
using learned_resizer::DType;
using learned_resizer::Form;
using learned_resizer::Plan;

constexpr std::array<const char*, 5> kDTypes = {"float64", "float32", "float16", "bfloat16", "uint8"};
constexpr std::array<int64_t, 5> kSizes = {8, 4, 2, 2, 1};

DType parse_dtype(const std::string& name) {
    for (size_t i = 0; i < kDTypes.size(); ++i)
        if (name == kDTypes[i]) return static_cast<DType>(i);
    throw py::value_error("dtype: got '" + name + "'; expected float64, float32, float16, bfloat16 or uint8");
}

Plan plan_resample(const std::string& dtype, int64_t planes, int64_t channels, bool vectors, int multiprocessors,
                   int shared_memory, const py::tuple& rows, const py::tuple& columns) {
    const AxisArgument row_axis(rows, "rows");
    const AxisArgument column_axis(columns, "columns");
    learned_resizer::PlanRequest request{};
    request.rows = row_axis.table;
    request.columns = column_axis.table;
    request.dtype = parse_dtype(dtype);
    request.planes = planes;
    request.channels = channels;
    request.vectors = vectors;
    request.multiprocessors = multiprocessors;
    request.shared_memory = shared_memory;
    return learned_resizer::make_plan(request);
}

using Strides = std::array<int64_t, 5>;  // image, plane, channel, row, column, in elements

Strides parse_strides(const py::tuple& strides) {
    if (strides.size() != 5)
        throw py::value_error("strides: got " + std::to_string(strides.size()) +
                              "; expected 5: image, plane, channel, row, column");
    Strides result;
    for (size_t i = 0; i < 5; ++i) result[i] = strides[i].cast<int64_t>();
    return result;
}

bool resample_vectors(const std::string& dtype, uintptr_t image, int64_t width, int64_t channels,
                      const py::tuple& strides) {
    const Strides s = parse_strides(strides);
    return learned_resizer::vectors_allowed(parse_dtype(dtype), reinterpret_cast<const void*>(image), width, channels,
                                            s[0], s[1], s[2], s[3], s[4]);
}

void resample(const Plan& plan, uintptr_t tables, uintptr_t image, int64_t planes_per_image, const py::tuple& strides,
              uintptr_t output, int device, uintptr_t stream) {
    const Strides s = parse_strides(strides);
    const auto dtype = static_cast<size_t>(plan.shape.dtype);
    if (tables == 0 || tables % 16 != 0)
        throw py::value_error("tables: got address " + std::to_string(tables) + "; expected a 16-byte aligned one");
    if (image == 0) throw py::value_error("image: got a null address");
    // The kernel stores up to four elements at once, of at most 16 bytes.
    const uintptr_t store_bytes = std::min<int64_t>(4 * kSizes[dtype], 16);
    if (output == 0 || output % store_bytes != 0)
        throw py::value_error("output: got address " + std::to_string(output) + "; expected one aligned to " +
                              std::to_string(store_bytes) + " bytes");
    if (planes_per_image < 1 || plan.shape.planes % planes_per_image != 0)
        throw py::value_error("planes_per_image: got " + std::to_string(planes_per_image) + "; expected a divisor of " +
                              std::to_string(plan.shape.planes));
    if (device < 0) throw py::value_error("device: got " + std::to_string(device) + "; expected a CUDA device's index");
    if (plan.shape.vectors &&
        !learned_resizer::vectors_allowed(plan.shape.dtype, reinterpret_cast<const void*>(image), plan.shape.in_width,
                                          plan.shape.channels, s[0], s[1], s[2], s[3], s[4]))
        throw py::value_error(
            "image: the plan reads aligned vectors, which this address and these strides do not allow");
    learned_resizer::ResampleParams params{};
    params.plan = plan.shape;
    params.tables = reinterpret_cast<const unsigned char*>(tables);
    params.image = reinterpret_cast<const void*>(image);
    params.planes_per_image = planes_per_image;
    params.stride_image = s[0];
    params.stride_plane = s[1];
    params.stride_channel = s[2];
    params.stride_row = s[3];
    params.stride_column = s[4];
    params.output = reinterpret_cast<void*>(output);
    const int error = learned_resizer::launch_resample(params, device, reinterpret_cast<void*>(stream));
    if (error != 0)
        throw std::runtime_error(std::string("resample: the launch on cuda:") + std::to_string(device) +
                                 " failed: " + learned_resizer::cuda_error_name(error) + ": " +
                                 learned_resizer::cuda_error_text(error));
}

py::dict shape_dict(const Plan& plan) {
    const learned_resizer::PlanShape& s = plan.shape;
    py::dict d;
    d["dtype"] = kDTypes[static_cast<size_t>(s.dtype)];
    d["form"] = s.form == Form::kFold ? "fold" : "gather";
    d["vectors"] = s.vectors != 0;
    d["whole_store"] = s.whole_store != 0;
    d["resident"] = plan.resident;
#define LR_FIELD(name) d[#name] = s.name
    LR_FIELD(slots), LR_FIELD(threads), LR_FIELD(shared_bytes), LR_FIELD(strip_rows), LR_FIELD(strips), LR_FIELD(tiles);
    LR_FIELD(pieces), LR_FIELD(group_planes), LR_FIELD(group_channels), LR_FIELD(channel_groups);
    LR_FIELD(plane_elements), LR_FIELD(taps), LR_FIELD(entry_columns), LR_FIELD(tile_columns), LR_FIELD(tile_entries);
    LR_FIELD(planes), LR_FIELD(plane_groups), LR_FIELD(blocks), LR_FIELD(channels), LR_FIELD(strip_begin);
    LR_FIELD(strip_first), LR_FIELD(steps), LR_FIELD(tile_table), LR_FIELD(entry_table), LR_FIELD(weight_table);
#undef LR_FIELD
    return d;
}

}  // namespace

void bind_resample(py::module_& module) {
    py::class_<Plan>(module, "ResamplePlan", py::buffer_protocol(), py::module_local(),
                     "Programs of one resampling. As a buffer: the tables to put on the device, 16-byte aligned.")
        .def_buffer([](Plan& plan) {
            return py::buffer_info(plan.tables.data(), 1, py::format_descriptor<unsigned char>::format(), 1,
                                   {static_cast<py::ssize_t>(plan.tables.size())}, {1}, true);
        })
        .def_property_readonly("shape", &shape_dict, "What was planned, as a dict: the fields of PlanShape and Plan.");
    module.def("plan_resample", &plan_resample, py::arg("dtype"), py::arg("planes"), py::arg("channels"),
               py::arg("vectors"), py::arg("multiprocessors"), py::arg("shared_memory"), py::arg("rows"),
               py::arg("columns"),
               "Plan for one pair of band tables; rows and columns are (in_size, start, offset, weight).");
    module.def("resample_vectors", &resample_vectors, py::arg("dtype"), py::arg("image"), py::arg("width"),
               py::arg("channels"), py::arg("strides"), "Whether rows of this image can be read as aligned vectors.");
    module.def("resample", &resample, py::arg("plan"), py::arg("tables"), py::arg("image"), py::arg("planes_per_image"),
               py::arg("strides"), py::arg("output"), py::arg("device"), py::arg("stream"),
               "Launch on a stream of a device; addresses are device pointers, strides are in elements.");
}
