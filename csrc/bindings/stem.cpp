// The stem's kernels for Python: a plan object, and their launches on raw pointers.
#include "stem/stem.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>

#include "arguments.h"
#include "stem/stem_backward.h"
#include "stem/stem_plan.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// As DType of parameter.h.
DType parse_image_dtype(int dtype) {
    if (dtype == static_cast<int>(DType::kUInt8)) return DType::kUInt8;
    return parse_parameter_dtype("image", dtype);
}
// (address, dtype, channels, height, width, strides, mean, std), the last two as in parse_vector, or None
StemImage parse_image(const py::tuple& image) {
    if (image.size() != 8)
        throw py::value_error("image: expected (address, dtype, channels, height, width, strides, mean, std)");
    StemImage result{};
    const auto data = image[0].cast<uintptr_t>();
    check_address("image", data, 1);
    result.data = address(data);
    result.dtype = parse_image_dtype(image[1].cast<int>());
    result.channels = image[2].cast<int32_t>();
    if (result.channels < 1 || result.channels > 4)
        throw py::value_error("image: got " + std::to_string(result.channels) + " channels; expected 1 to 4");
    result.height = image[3].cast<int64_t>();
    result.width = image[4].cast<int64_t>();
    parse_strides("image", image[5].cast<py::tuple>(), result.stride);
    for (int64_t& stride : result.stride) stride *= image_bytes(result.dtype);
    if (result.dtype == DType::kUInt8) {
        if (image[6].is_none() || image[7].is_none())
            throw py::value_error("image: got uint8 without mean and std; expected both");
        result.mean = parse_vector("image_mean", image[6]), result.std = parse_vector("image_std", image[7]);
    }
    return result;
}
// (w0, b0, w1, b1), as in parse_weight and parse_vector
StemWeights parse_weights(const py::tuple& weights, float negative_slope, int filters) {
    if (weights.size() != 4) throw py::value_error("weights: expected w0, b0, w1, b1");
    return {parse_weight("w0", weights[0]),
            parse_vector("b0", weights[1]),
            parse_weight("w1", weights[2]),
            parse_vector("b1", weights[3]),
            negative_slope,
            check_filters(filters)};
}

StemPlan plan_stem(int64_t batch, int multiprocessors, const py::tuple& rows, const py::tuple& columns,
                   const std::string& arithmetic, int num_filters) {
    const AxisArgument row_axis(rows, "rows"), column_axis(columns, "columns");
    const StemInstance kernel = stem_instance(parse_arithmetic(arithmetic), check_filters(num_filters));
    return make_stem_plan({row_axis.table, column_axis.table, batch, multiprocessors, kernel});
}

void stem(const StemPlan& plan, uintptr_t tables, const py::tuple& image, const py::tuple& weights,
          float negative_slope, const std::string& arithmetic, int num_filters, uintptr_t z, uintptr_t partials,
          int device, uintptr_t stream) {
    StemParams params{};
    params.plan = plan.shape;
    check_address("tables", tables, 16);
    params.tables = static_cast<const unsigned char*>(address(tables));
    params.image = parse_image(image);
    if (params.image.height != plan.shape.height || params.image.width != plan.shape.width)
        throw py::value_error("image: its size differs from the plan's");
    params.weights = parse_weights(weights, negative_slope, num_filters);
    check_address("z", z, 16);
    params.z = address(z);
    params.partials = static_cast<float*>(address(partials));
    check_launch("stem", launch_stem(params, parse_arithmetic(arithmetic), device, address(stream)), device);
}

// An axis of R transposed: (start, offset, weight) addresses.
StemBands parse_bands(const char* name, const py::tuple& bands) {
    if (bands.size() != 3)
        throw py::value_error(std::string(name) + ": expected the addresses of start, offset, weight");
    uintptr_t values[3];
    for (size_t i = 0; i < 3; ++i) {
        values[i] = bands[i].cast<uintptr_t>();
        check_address(name, values[i], 4);
    }
    return {static_cast<const int32_t*>(address(values[0])), static_cast<const int32_t*>(address(values[1])),
            static_cast<const float*>(address(values[2]))};
}

StemBackwardParams backward_params(const py::tuple& image, const py::tuple& weights, float negative_slope,
                                   int num_filters, int64_t batch, const py::tuple& out_size, const py::tuple& rows,
                                   const py::tuple& columns, uintptr_t dz, const py::object& statistics) {
    StemBackwardParams params{};
    params.image = parse_image(image);
    params.weights = parse_weights(weights, negative_slope, num_filters);
    if (batch < 1) throw py::value_error("batch: got " + std::to_string(batch) + "; expected at least 1");
    params.batch = batch;
    params.out_height = out_size[0].cast<int64_t>();
    params.out_width = out_size[1].cast<int64_t>();
    params.rows = parse_bands("rows", rows);
    params.columns = parse_bands("columns", columns);
    check_address("dz", dz, 16);
    params.dz = address(dz);
    parse_statistics(params, statistics);
    return params;
}

// (rows of the partial results, bytes of shared memory that a block needs)
py::tuple needs(const py::tuple& size, bool backward, const std::string& arithmetic, int num_filters,
                int multiprocessors) {
    const int mode = parse_arithmetic(arithmetic);
    if (!backward) return py::make_tuple(0, stem_shared_bytes(mode, check_filters(num_filters)));
    StemBackwardParams params{};
    params.batch = size[0].cast<int64_t>();
    params.image.height = size[1].cast<int64_t>(), params.image.width = size[2].cast<int64_t>();
    params.image.channels = 4;
    params.weights.filters = check_filters(num_filters);
    int64_t least = 0;
    for (const auto gradient : {StemGradient::kWeights, StemGradient::kImage}) {
        int64_t bytes = 16 * 1024;
        while (!fit_stem_backward(params, gradient, mode, multiprocessors, bytes)) bytes += 1024;
        least = std::max(least, bytes);
    }
    return py::make_tuple(0, least);
}

// Blocks of the weights' gradients, and so rows of their partial results.
int64_t stem_backward_blocks(int64_t batch, int channels, int64_t height, int64_t width, int multiprocessors,
                             int64_t most_shared, const std::string& arithmetic, int num_filters) {
    StemBackwardParams params{};
    params.batch = batch, params.image.height = height, params.image.width = width;
    params.image.channels = channels;
    params.weights.filters = check_filters(num_filters);
    if (!fit_stem_backward(params, StemGradient::kWeights, parse_arithmetic(arithmetic), multiprocessors, most_shared))
        throw py::value_error("most_shared: got " + std::to_string(most_shared) + " bytes; expected more");
    return params.blocks;
}

void stem_backward(const py::tuple& image, const py::tuple& weights, float negative_slope, int64_t batch,
                   const py::tuple& out_size, const py::tuple& rows, const py::tuple& columns, uintptr_t dz,
                   const py::object& statistics, uintptr_t partials, uintptr_t dx, const py::tuple& dx_strides,
                   int multiprocessors, int64_t most_shared, const std::string& arithmetic, int num_filters, int device,
                   uintptr_t stream) {
    StemBackwardParams params =
        backward_params(image, weights, negative_slope, num_filters, batch, out_size, rows, columns, dz, statistics);
    const int mode = parse_arithmetic(arithmetic);
    check_address("partials", partials, 4);
    params.partials = static_cast<float*>(address(partials));
    const auto fit = [&](StemGradient gradient) {
        if (!fit_stem_backward(params, gradient, mode, multiprocessors, most_shared))
            throw py::value_error("most_shared: got " + std::to_string(most_shared) + " bytes; expected more");
    };
    fit(StemGradient::kWeights);
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kWeights, mode, device, address(stream)),
                 device);
    if (dx == 0) return;
    params.dx = address(dx);
    params.dx_dtype = params.image.dtype;
    if (params.dx_dtype == DType::kUInt8) throw py::value_error("dx: got a uint8 image; expected 0");
    parse_strides("dx", dx_strides, params.dx_stride);
    fit(StemGradient::kImage);
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kImage, mode, device, address(stream)),
                 device);
}

}  // namespace

void bind_stem(py::module_& module) {
    py::class_<StemPlan>(module, "StemPlan", py::buffer_protocol(), py::module_local(),
                         "Work of one stem. As a buffer: the tables to put on the device, 16-byte aligned.")
        .def_buffer([](StemPlan& plan) {
            return py::buffer_info(plan.tables.data(), 1, py::format_descriptor<unsigned char>::format(), 1,
                                   {static_cast<py::ssize_t>(plan.tables.size())}, {1}, true);
        })
        .def_property_readonly(
            "blocks", [](const StemPlan& plan) { return plan.shape.blocks; },
            "Blocks of the launch, and so rows of the statistics' partial results.");
    module.def("plan_stem", &plan_stem, py::arg("batch"), py::arg("multiprocessors"), py::arg("rows"),
               py::arg("columns"), py::arg("arithmetic"), py::arg("num_filters"),
               "Plan for one pair of band tables; rows and columns are (in_size, start, offset, weight).");
    module.def("stem", &stem, py::arg("plan"), py::arg("tables"), py::arg("image"), py::arg("weights"),
               py::arg("negative_slope"), py::arg("arithmetic"), py::arg("num_filters"), py::arg("z"),
               py::arg("partials"), py::arg("device"), py::arg("stream"),
               "Launch the forward; addresses are device pointers, partials may be 0.");
    module.def("stem_needs", &needs, py::arg("size"), py::arg("backward"), py::arg("arithmetic"),
               py::arg("num_filters"), py::arg("multiprocessors"),
               "0, and the bytes of shared memory that a block needs.");
    module.def("stem_backward_blocks", &stem_backward_blocks, py::arg("batch"), py::arg("channels"), py::arg("height"),
               py::arg("width"), py::arg("multiprocessors"), py::arg("most_shared"), py::arg("arithmetic"),
               py::arg("num_filters"), "Rows of the partial results of stem_backward.");
    module.def("stem_backward", &stem_backward, py::arg("image"), py::arg("weights"), py::arg("negative_slope"),
               py::arg("batch"), py::arg("out_size"), py::arg("rows"), py::arg("columns"), py::arg("dz"),
               py::arg("statistics"), py::arg("partials"), py::arg("dx"), py::arg("dx_strides"),
               py::arg("multiprocessors"), py::arg("most_shared"), py::arg("arithmetic"), py::arg("num_filters"),
               py::arg("device"), py::arg("stream"), "Launch the backward; dx may be 0.");
}
