// The trunk's kernels for Python: launches on raw pointers.
#include "trunk/trunk.h"

#include <pybind11/pybind11.h>

#include <string>

#include "prologue_arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// prologue: as of conv, its slope being that between the two convolutions
TrunkParams common(const py::tuple& size, const py::tuple& prologue, const py::tuple& weight1, const py::handle& norm1,
                   int num_filters) {
    TrunkParams params{};
    parse_size(params.prologue, size, num_filters);
    if (num_filters > kTrunkFilters)
        throw py::value_error("num_filters: got " + std::to_string(num_filters) + "; expected 1 to 16");
    parse_prologue(params.prologue, prologue);
    params.negative_slope = params.prologue.negative_slope;
    params.prologue.negative_slope = 1.0f;
    params.weight1 = parse_weight("weight1", weight1);
    params.norm1 = parse_norm("norm1", norm1);
    return params;
}

void trunk_block(const py::tuple& size, const py::tuple& prologue, const py::tuple& weight1, const py::object& norm1,
                 const py::tuple& weight2, uintptr_t output, bool bfloat16, int num_filters, int multiprocessors,
                 int device, uintptr_t stream) {
    TrunkParams params = common(size, prologue, weight1, norm1, num_filters);
    params.weight2 = parse_weight("weight2", weight2);
    check_address("output", output, 16);
    params.output = address(output);
    check_launch("trunk_block",
                 launch_trunk(params, TrunkKernel::kBlock, bfloat16, multiprocessors, device, address(stream)), device);
}

void trunk_tail(const py::tuple& size, const py::tuple& prologue, const py::tuple& weight1, const py::object& norm1,
                int channels, const py::tuple& weight, const py::tuple& bias, const py::tuple& base, uintptr_t result,
                const py::tuple& result_strides, bool bfloat16, int num_filters, int multiprocessors, int device,
                uintptr_t stream) {
    TrunkParams params = common(size, prologue, weight1, norm1, num_filters);
    if (params.prologue.skip == nullptr) throw py::value_error("skip: got none; expected the feature skip");
    parse_to_image(params, channels, weight);
    parse_result(params, bias, base, result, result_strides);
    check_launch("trunk_tail",
                 launch_trunk(params, TrunkKernel::kTail, bfloat16, multiprocessors, device, address(stream)), device);
}

}  // namespace

void bind_trunk(py::module_& module) {
    module.def("trunk_block", &trunk_block, "Launch two 3x3 convolutions; arguments as TrunkParams in trunk.h.");
    module.def("trunk_tail", &trunk_tail, "Launch a 3x3 and the 7x7 convolution; arguments as TrunkParams in trunk.h.");
}
