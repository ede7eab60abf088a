// The affine map of a batch normalisation for Python: launches on raw pointers.
#include "affine/affine.h"

#include <pybind11/pybind11.h>

#include "arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// The addresses of `count` vectors of float32.
template <size_t count>
void parse(const char* name, const py::tuple& given, float* (&to)[count]) {
    if (given.size() != count)
        throw py::value_error(std::string(name) + ": got " + std::to_string(given.size()) + " vectors; expected " +
                              std::to_string(count));
    for (size_t i = 0; i < count; ++i) {
        const auto value = given[i].cast<uintptr_t>();
        check_address(name, value, 4);
        to[i] = static_cast<float*>(address(value));
    }
}

// inputs: mean, var, gamma, beta; outputs: scale, shift
void affine(int64_t n, const py::tuple& inputs, float eps, const py::tuple& outputs, int device, uintptr_t stream) {
    float *in[4], *out[2];
    parse("inputs", inputs, in);
    parse("outputs", outputs, out);
    AffineParams params{};
    params.n = n, params.eps = eps;
    params.mean = in[0], params.var = in[1], params.gamma = in[2], params.beta = in[3];
    params.scale = out[0], params.shift = out[1];
    check_launch("affine", launch_affine(params, AffineKernel::kForward, device, address(stream)), device);
}

// inputs: mean, var, gamma, grad_scale, grad_shift; outputs: grad_mean, grad_var, grad_gamma
void affine_backward(int64_t n, const py::tuple& inputs, float eps, const py::tuple& outputs, int device,
                     uintptr_t stream) {
    float *in[5], *out[3];
    parse("inputs", inputs, in);
    parse("outputs", outputs, out);
    AffineParams params{};
    params.n = n, params.eps = eps;
    params.mean = in[0], params.var = in[1], params.gamma = in[2];
    params.grad_scale = in[3], params.grad_shift = in[4];
    params.grad_mean = out[0], params.grad_var = out[1], params.grad_gamma = out[2];
    check_launch("affine_backward", launch_affine(params, AffineKernel::kBackward, device, address(stream)), device);
}

}  // namespace

void bind_affine(py::module_& module) {
    module.def("affine", &affine, py::arg("n"), py::arg("inputs"), py::arg("eps"), py::arg("outputs"),
               py::arg("device"), py::arg("stream"), "Launch the forward; inputs and outputs are device addresses.");
    module.def("affine_backward", &affine_backward, py::arg("n"), py::arg("inputs"), py::arg("eps"), py::arg("outputs"),
               py::arg("device"), py::arg("stream"), "Launch the backward.");
}
