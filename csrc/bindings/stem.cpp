// The stem's kernels for Python: a plan object, and their launches on raw pointers.
#include "stem/stem.h"

#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <vector>

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
// (dtype, channels, mean, std), the last two as in parse_vector, or None
StemFormat parse_format(const py::tuple& format) {
    if (format.size() != 4) throw py::value_error("format: expected (dtype, channels, mean, std)");
    StemFormat result{};
    result.dtype = parse_image_dtype(format[0].cast<int>());
    result.channels = format[1].cast<int32_t>();
    if (result.channels < 1 || result.channels > 4)
        throw py::value_error("image: got " + std::to_string(result.channels) + " channels; expected 1 to 4");
    if (result.dtype == DType::kUInt8) {
        if (format[2].is_none() || format[3].is_none())
            throw py::value_error("image: got uint8 without mean and std; expected both");
        result.mean = parse_vector("image_mean", format[2]), result.std = parse_vector("image_std", format[3]);
    }
    return result;
}
// (address of the crop's first pixel, strides in elements, height, width)
StemImage parse_image(const py::tuple& image, DType dtype) {
    if (image.size() != 4) throw py::value_error("image: expected (address, strides, height, width)");
    StemImage result{};
    const auto data = image[0].cast<uintptr_t>();
    check_address("image", data, 1);
    result.data = address(data);
    parse_strides("image", image[1].cast<py::tuple>(), result.stride);
    for (int64_t& stride : result.stride) stride *= image_bytes(dtype);
    result.height = image[2].cast<int32_t>(), result.width = image[3].cast<int32_t>();
    return result;
}
// (address, strides in elements), or None
StemImageGrad parse_grad(const py::object& grad) {
    if (grad.is_none()) return {};
    const auto pair = grad.cast<py::tuple>();
    StemImageGrad result{address(pair[0].cast<uintptr_t>()), {}};
    parse_strides("dx", pair[1].cast<py::tuple>(), result.stride);
    return result;
}

// What a call attaches to the tables of several tensors, for each: images, and in the backward their gradients.
template <class T>
void attach(std::vector<unsigned char>& bytes, const std::vector<T>& values) {
    const auto* from = reinterpret_cast<const unsigned char*>(values.data());
    bytes.insert(bytes.end(), from, from + values.size() * sizeof(T));
}
std::vector<StemImage> parse_images(const py::list& images, DType dtype) {
    std::vector<StemImage> result;
    for (const auto& image : images) result.push_back(parse_image(image.cast<py::tuple>(), dtype));
    return result;
}
std::vector<StemImageGrad> parse_grads(const py::list& grads) {
    std::vector<StemImageGrad> result;
    for (const auto& grad : grads) result.push_back(parse_grad(py::reinterpret_borrow<py::object>(grad)));
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

// (batch, height, width, rows, columns) of each tensor; rows and columns (offset, extent) of the part that fills the
// output, or None.
std::vector<StemPlanTensor> parse_tensors(const py::sequence& sizes, const py::tuple& out_size, int interpolation,
                                          bool antialias) {
    const auto axis = [&](const py::handle& in, const py::handle& out, const py::handle& part) {
        double offset = 0.0, extent = 0.0;
        if (!part.is_none()) {
            const auto pair = part.cast<py::tuple>();
            offset = pair[0].cast<double>(), extent = pair[1].cast<double>();
        }
        return make_stem_axis(in.cast<int32_t>(), out.cast<int32_t>(), static_cast<Filter>(interpolation), antialias,
                              offset, extent);
    };
    std::vector<StemPlanTensor> tensors;
    for (const auto& item : sizes) {
        const auto size = item.cast<py::tuple>();
        tensors.push_back(
            {size[0].cast<int64_t>(), axis(size[1], out_size[0], size[3]), axis(size[2], out_size[1], size[4])});
    }
    return tensors;
}

StemPlan plan_stem(const py::sequence& sizes, const py::tuple& out_size, int interpolation, bool antialias,
                   const py::list& images, int dtype, int multiprocessors, const std::string& arithmetic,
                   int num_filters) {
    StemPlanRequest request{parse_tensors(sizes, out_size, interpolation, antialias), multiprocessors,
                            stem_instance(parse_arithmetic(arithmetic), check_filters(num_filters))};
    attach(request.attached, parse_images(images, parse_image_dtype(dtype)));
    return make_stem_plan(request);
}

// Makes on the device what follows from the bytes that are there.
template <class Plan, class Launch>
void make_tables(const Plan& plan, const Launch& launch, uintptr_t tables, int device, uintptr_t stream) {
    check_address("tables", tables, 16);
    auto* memory = static_cast<unsigned char*>(address(tables));
    const StemTables& t = plan.tables;
    const Axis &rows = t.axes[0].axis, &columns = t.axes[1].axis;
    const BandsParams bands{memory, t.axes_at, static_cast<int32_t>(t.axes.size()), std::max(rows.out, columns.out)};
    check_launch("bands", launch_bands(bands, device, address(stream)), device);
    check_launch("stem_tables", launch(plan.shape, memory, device, address(stream)), device);
}

// The images of a call: one in the parameters, or those attached to the tables.
template <class Params>
const unsigned char* set_images(Params& params, const StemTables& plan, uintptr_t tables, const py::tuple& format,
                                const py::list& images) {
    check_address("tables", tables, 16);
    params.tables = static_cast<const unsigned char*>(address(tables));
    params.format = parse_format(format);
    if (static_cast<size_t>(params.plan.tensors) != images.size())
        throw py::value_error("images: got " + std::to_string(images.size()) + "; expected as many as the plan has");
    if (images.size() == 1) {
        params.image = parse_image(images[0].cast<py::tuple>(), params.format.dtype);
        if (params.image.height != plan.axes[0].axis.in || params.image.width != plan.axes[1].axis.in)
            throw py::value_error("image: its size differs from the plan's");
        return nullptr;
    }
    params.images = reinterpret_cast<const StemImage*>(params.tables + plan.attached_at);
    return reinterpret_cast<const unsigned char*>(params.images + images.size());
}

void stem(const StemPlan& plan, uintptr_t tables, const py::tuple& format, const py::list& images,
          const py::tuple& weights, float negative_slope, const std::string& arithmetic, int num_filters, uintptr_t z,
          uintptr_t partials, int device, uintptr_t stream) {
    StemParams params{};
    params.plan = plan.shape;
    set_images(params, plan.tables, tables, format, images);
    params.weights = parse_weights(weights, negative_slope, num_filters);
    check_address("z", z, 16);
    params.z = address(z);
    params.partials = static_cast<float*>(address(partials));
    check_launch("stem", launch_stem(params, parse_arithmetic(arithmetic), device, address(stream)), device);
}

// (rows of the partial results, bytes of shared memory that a block needs)
py::tuple needs(const py::tuple&, bool backward, const std::string& arithmetic, int num_filters, int multiprocessors) {
    const int mode = parse_arithmetic(arithmetic);
    if (!backward) return py::make_tuple(0, stem_shared_bytes(mode, check_filters(num_filters)));
    StemBackwardFit fit{};
    int64_t least = 0;
    for (const auto gradient : {StemGradient::kWeights, StemGradient::kImage}) {
        int64_t bytes = 16 * 1024;
        while (!fit_stem_backward(fit, gradient, mode, check_filters(num_filters), 4, multiprocessors, bytes))
            bytes += 1024;
        least = std::max(least, bytes);
    }
    return py::make_tuple(0, least);
}

StemBackwardPlan plan_stem_backward(const py::sequence& sizes, const py::tuple& out_size, int interpolation,
                                    bool antialias, const py::list& images, const py::list& grads, int dtype,
                                    int channels, int multiprocessors, int64_t most_shared,
                                    const std::string& arithmetic, int num_filters) {
    StemBackwardFit fits[2];
    for (const auto gradient : {StemGradient::kWeights, StemGradient::kImage})
        if (!fit_stem_backward(fits[static_cast<int>(gradient)], gradient, parse_arithmetic(arithmetic),
                               check_filters(num_filters), channels, multiprocessors, most_shared))
            throw py::value_error("most_shared: got " + std::to_string(most_shared) + " bytes; expected more");
    std::vector<unsigned char> attached;
    attach(attached, parse_images(images, parse_image_dtype(dtype)));
    attach(attached, parse_grads(grads));
    std::vector<StemPlanTensor> tensors = parse_tensors(sizes, out_size, interpolation, antialias);
    for (size_t i = 0; i < grads.size(); ++i) tensors.at(i).image_grad = !grads[i].is_none();
    return make_stem_backward_plan(tensors, fits, attached);
}

// grads: as images; empty: none is wanted
void stem_backward(const StemBackwardPlan& plan, uintptr_t tables, const py::tuple& format, const py::list& images,
                   const py::tuple& weights, float negative_slope, uintptr_t dz, const py::object& statistics,
                   uintptr_t partials, const py::list& grads, const std::string& arithmetic, int num_filters,
                   int device, uintptr_t stream) {
    StemBackwardParams params{};
    params.plan = plan.shape;
    const unsigned char* behind = set_images(params, plan.tables, tables, format, images);
    params.weights = parse_weights(weights, negative_slope, num_filters);
    check_address("dz", dz, 16);
    params.dz = address(dz);
    parse_statistics(params, statistics);
    const int mode = parse_arithmetic(arithmetic);
    check_address("partials", partials, 4);
    params.partials = static_cast<float*>(address(partials));
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kWeights, mode, device, address(stream)),
                 device);
    if (grads.empty()) return;
    if (params.format.dtype == DType::kUInt8) throw py::value_error("dx: got a uint8 image; expected none");
    if (grads.size() == 1)
        params.grad = parse_grad(py::reinterpret_borrow<py::object>(grads[0]));
    else
        params.grads = reinterpret_cast<const StemImageGrad*>(behind);
    check_launch("stem_backward", launch_stem_backward(params, StemGradient::kImage, mode, device, address(stream)),
                 device);
}

// A plan class: a buffer of the bytes to store, and the rest of its tables.
template <class Plan, class Launch>
py::class_<Plan> bind_plan(py::module_& module, const char* name, const char* text, const Launch& launch) {
    return py::class_<Plan>(module, name, py::buffer_protocol(), py::module_local(), text)
        .def_buffer([](Plan& plan) {
            auto& stored = plan.tables.stored;
            return py::buffer_info(stored.data(), 1, py::format_descriptor<unsigned char>::format(), 1,
                                   {static_cast<py::ssize_t>(stored.size())}, {1}, true);
        })
        .def_property_readonly(
            "table_bytes", [](const Plan& plan) { return plan.tables.bytes; }, "Of all tables, 16-byte aligned.")
        .def(
            "make_tables",
            [launch](const Plan& plan, uintptr_t tables, int device, uintptr_t stream) {
                make_tables(plan, launch, tables, device, stream);
            },
            py::arg("tables"), py::arg("device"), py::arg("stream"),
            "Make the tables on the device from the bytes stored there.");
}

}  // namespace

void bind_stem(py::module_& module) {
    bind_plan<StemPlan>(module, "StemPlan", "Work of one stem. As a buffer: what to store at the tables' begin.",
                        &launch_stem_tables)
        .def_property_readonly(
            "blocks", [](const StemPlan& plan) { return plan.shape.blocks; },
            "Blocks of the launch, and so rows of the statistics' partial results.");
    bind_plan<StemBackwardPlan>(module, "StemBackwardPlan", "The same of its adjoint.", &launch_stem_backward_tables)
        .def_property_readonly(
            "blocks", [](const StemBackwardPlan& plan) { return plan.shape.blocks[0]; },
            "Blocks of the weights' gradients, and so rows of their partial results.");
    module.def("plan_stem", &plan_stem, py::arg("sizes"), py::arg("out_size"), py::arg("interpolation"),
               py::arg("antialias"), py::arg("images"), py::arg("dtype"), py::arg("multiprocessors"),
               py::arg("arithmetic"), py::arg("num_filters"),
               "Plan for tensors of (batch, height, width, rows, columns); images: theirs if they are several.");
    module.def("stem", &stem, py::arg("plan"), py::arg("tables"), py::arg("format"), py::arg("images"),
               py::arg("weights"), py::arg("negative_slope"), py::arg("arithmetic"), py::arg("num_filters"),
               py::arg("z"), py::arg("partials"), py::arg("device"), py::arg("stream"),
               "Launch the forward; addresses are device pointers, partials may be 0.");
    module.def("stem_needs", &needs, py::arg("size"), py::arg("backward"), py::arg("arithmetic"),
               py::arg("num_filters"), py::arg("multiprocessors"),
               "0, and the bytes of shared memory that a block needs.");
    module.def("plan_stem_backward", &plan_stem_backward, py::arg("sizes"), py::arg("out_size"),
               py::arg("interpolation"), py::arg("antialias"), py::arg("images"), py::arg("grads"), py::arg("dtype"),
               py::arg("channels"), py::arg("multiprocessors"), py::arg("most_shared"), py::arg("arithmetic"),
               py::arg("num_filters"), "The same for the adjoint.");
    module.def("stem_backward", &stem_backward, py::arg("plan"), py::arg("tables"), py::arg("format"),
               py::arg("images"), py::arg("weights"), py::arg("negative_slope"), py::arg("dz"), py::arg("statistics"),
               py::arg("partials"), py::arg("grads"), py::arg("arithmetic"), py::arg("num_filters"), py::arg("device"),
               py::arg("stream"), "Launch the backward; grads: a place for each image's, or None, or none at all.");
}
