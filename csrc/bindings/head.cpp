// The head's kernels for Python: launches on raw pointers.
#include "head/head.h"

#include <pybind11/pybind11.h>

#include <string>

#include "prologue_arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// (blocks, which are the rows of the partial results; bytes of shared memory that a block needs)
py::tuple needs(const py::tuple& size, bool backward, const std::string& arithmetic, int num_filters,
                int multiprocessors) {
    HeadParams params{};
    parse_size(params.prologue, size, num_filters);
    const Needs found = head_needs(params, backward ? HeadKernel::kBackward : HeadKernel::kForward,
                                   parse_arithmetic(arithmetic), multiprocessors);
    return py::make_tuple(found.blocks, found.shared_bytes);
}

HeadParams common(const py::tuple& size, const py::tuple& prologue, int channels, const py::tuple& weight,
                  int64_t blocks, int num_filters) {
    HeadParams params{};
    parse_size(params.prologue, size, num_filters);
    parse_prologue(params.prologue, prologue);
    parse_to_image(params, channels, weight);
    params.blocks = blocks;
    return params;
}

void head(const py::tuple& size, const py::tuple& prologue, int channels, const py::tuple& weight,
          const py::tuple& bias, const py::tuple& base, uintptr_t result, const py::tuple& result_strides,
          int64_t blocks, const std::string& arithmetic, int num_filters, int device, uintptr_t stream) {
    HeadParams params = common(size, prologue, channels, weight, blocks, num_filters);
    parse_result(params, bias, base, result, result_strides);
    check_launch("head",
                 launch_head(params, HeadKernel::kForward, parse_arithmetic(arithmetic), device, address(stream)),
                 device);
}

void head_backward(const py::tuple& size, const py::tuple& prologue, const py::tuple& grads, int channels,
                   const py::tuple& weight, const py::tuple& grad, uintptr_t partials, int64_t blocks,
                   const std::string& arithmetic, int num_filters, int device, uintptr_t stream) {
    HeadParams params = common(size, prologue, channels, weight, blocks, num_filters);
    parse_prologue_grads(params.prologue, grads);
    params.grad = parse_image("grad", grad);
    check_address("partials", partials, 4);
    params.partials = static_cast<float*>(address(partials));
    check_launch("head_backward",
                 launch_head(params, HeadKernel::kBackward, parse_arithmetic(arithmetic), device, address(stream)),
                 device);
}

}  // namespace

void bind_head(py::module_& module) {
    module.def("head_needs", &needs, py::arg("size"), py::arg("backward"), py::arg("arithmetic"),
               py::arg("num_filters"), py::arg("multiprocessors"),
               "Blocks to launch, which are the rows of the partial results, and shared memory of a block in bytes.");
    module.def("head", &head, py::arg("size"), py::arg("prologue"), py::arg("channels"), py::arg("weight"),
               py::arg("bias"), py::arg("base"), py::arg("result"), py::arg("result_strides"), py::arg("blocks"),
               py::arg("arithmetic"), py::arg("num_filters"), py::arg("device"), py::arg("stream"),
               "Launch the forward; the result has base's dtype.");
    module.def("head_backward", &head_backward, py::arg("size"), py::arg("prologue"), py::arg("grads"),
               py::arg("channels"), py::arg("weight"), py::arg("grad"), py::arg("partials"), py::arg("blocks"),
               py::arg("arithmetic"), py::arg("num_filters"), py::arg("device"), py::arg("stream"),
               "Launch the backward.");
}
