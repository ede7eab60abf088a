// The 3x3 convolution's kernels for Python: launches on raw pointers.
#include "conv/conv.h"

#include <pybind11/pybind11.h>

#include <string>

#include "prologue_arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// (blocks, which are the rows of the partial results; bytes of shared memory that a block needs)
py::tuple needs(const py::tuple& size, bool backward, const std::string& arithmetic, int num_filters,
                int multiprocessors) {
    ConvParams params{};
    parse_size(params.prologue, size, num_filters);
    const Needs found = conv_needs(params, backward ? ConvKernel::kBackward : ConvKernel::kForward,
                                   parse_arithmetic(arithmetic), multiprocessors);
    return py::make_tuple(found.blocks, found.shared_bytes);
}

ConvParams common(const py::tuple& size, const py::tuple& prologue, const py::tuple& weight, int64_t blocks,
                  int num_filters) {
    ConvParams params{};
    parse_size(params.prologue, size, num_filters);
    parse_prologue(params.prologue, prologue);
    params.weight = parse_weight("weight", weight);
    params.blocks = blocks;
    return params;
}

void conv(const py::tuple& size, const py::tuple& prologue, const py::tuple& weight, uintptr_t raw, uintptr_t moments,
          int64_t blocks, const std::string& arithmetic, int num_filters, int device, uintptr_t stream) {
    ConvParams params = common(size, prologue, weight, blocks, num_filters);
    check_address("raw", raw, 16);
    params.raw = address(raw);
    params.moments = static_cast<float*>(optional("moments", moments, 4));
    check_launch("conv",
                 launch_conv(params, ConvKernel::kForward, parse_arithmetic(arithmetic), device, address(stream)),
                 device);
}

void conv_backward(const py::tuple& size, const py::tuple& prologue, const py::tuple& grads, const py::tuple& weight,
                   uintptr_t grad_raw, uintptr_t raw, const py::object& statistics, uintptr_t partials, int64_t blocks,
                   const std::string& arithmetic, int num_filters, int device, uintptr_t stream) {
    ConvParams params = common(size, prologue, weight, blocks, num_filters);
    parse_prologue_grads(params.prologue, grads);
    check_address("grad_raw", grad_raw, 16);
    check_address("raw", raw, 16);
    params.grad_raw = address(grad_raw);
    params.raw = address(raw);
    parse_statistics(params, statistics);
    check_address("partials", partials, 4);
    params.partials = static_cast<float*>(address(partials));
    check_launch("conv_backward",
                 launch_conv(params, ConvKernel::kBackward, parse_arithmetic(arithmetic), device, address(stream)),
                 device);
}

}  // namespace

void bind_conv(py::module_& module) {
    module.def("conv_needs", &needs, py::arg("size"), py::arg("backward"), py::arg("arithmetic"),
               py::arg("num_filters"), py::arg("multiprocessors"),
               "Blocks to launch, which are the rows of the partial results, and shared memory of a block in bytes.");
    module.def("conv", &conv, py::arg("size"), py::arg("prologue"), py::arg("weight"), py::arg("raw"),
               py::arg("moments"), py::arg("blocks"), py::arg("arithmetic"), py::arg("num_filters"), py::arg("device"),
               py::arg("stream"), "Launch the forward; addresses are device pointers, moments may be 0.");
    module.def("conv_backward", &conv_backward, py::arg("size"), py::arg("prologue"), py::arg("grads"),
               py::arg("weight"), py::arg("grad_raw"), py::arg("raw"), py::arg("statistics"), py::arg("partials"),
               py::arg("blocks"), py::arg("arithmetic"), py::arg("num_filters"), py::arg("device"), py::arg("stream"),
               "Launch the backward.");
}
