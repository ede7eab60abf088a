// The trunk's kernels for Python: launches on raw pointers.
#include "trunk/trunk.h"

#include <pybind11/pybind11.h>

#include <string>

#include "arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// (mean, var, gamma, beta, eps), or (eps,) for a missing norm
TrunkNorm parse_norm(const char* name, const py::tuple& norm) {
    TrunkNorm result{};
    if (norm.size() == 1) return result;
    if (norm.size() != 5) throw py::value_error(std::string(name) + ": expected (mean, var, gamma, beta, eps)");
    const float* pointers[4];
    for (size_t i = 0; i < 4; ++i) {
        const auto value = norm[i].cast<uintptr_t>();
        check_address(name, value, 4);
        pointers[i] = static_cast<const float*>(address(value));
    }
    return {pointers[0], pointers[1], pointers[2], pointers[3], norm[4].cast<float>()};
}

const float* weights(const char* name, uintptr_t value) {
    check_address(name, value, 4);
    return static_cast<const float*>(address(value));
}

TrunkParams common(const py::tuple& size, uintptr_t input, uintptr_t skip, uintptr_t weight1, const py::tuple& norm,
                   const py::tuple& skip_norm, const py::tuple& norm1) {
    if (size.size() != 3) throw py::value_error("size: expected (batch, height, width)");
    TrunkParams params{};
    params.batch = size[0].cast<int64_t>();
    params.height = size[1].cast<int64_t>();
    params.width = size[2].cast<int64_t>();
    if (params.batch < 1 || params.height < 1 || params.width < 1)
        throw py::value_error("size: expected a batch, height and width of at least 1");
    check_address("input", input, 16);
    params.input = address(input);
    if (skip != 0) check_address("skip", skip, 16);
    params.skip = address(skip);
    params.weight1 = weights("weight1", weight1);
    params.norm = parse_norm("norm", norm);
    params.skip_norm = parse_norm("skip_norm", skip_norm);
    params.norm1 = parse_norm("norm1", norm1);
    if (params.norm.mean == nullptr || params.norm1.mean == nullptr || (skip != 0 && params.skip_norm.mean == nullptr))
        throw py::value_error("norm: expected (mean, var, gamma, beta, eps)");
    return params;
}

void trunk_block(const py::tuple& size, uintptr_t input, uintptr_t skip, uintptr_t weight1, const py::tuple& norm,
                 const py::tuple& skip_norm, const py::tuple& norm1, float negative_slope, uintptr_t weight2,
                 uintptr_t output, bool bfloat16, int multiprocessors, int device, uintptr_t stream) {
    TrunkParams params = common(size, input, skip, weight1, norm, skip_norm, norm1);
    params.negative_slope = negative_slope;
    params.weight2 = weights("weight2", weight2);
    check_address("output", output, 16);
    params.output = address(output);
    plan_trunk(params, TrunkKernel::kBlock, multiprocessors);
    check_launch("trunk_block", launch_trunk(params, TrunkKernel::kBlock, bfloat16, device, address(stream)), device);
}

void trunk_tail(const py::tuple& size, uintptr_t input, uintptr_t skip, uintptr_t weight1, const py::tuple& norm,
                const py::tuple& skip_norm, const py::tuple& norm1, int channels, uintptr_t weight, uintptr_t bias,
                uintptr_t base, const py::tuple& base_strides, uintptr_t result, const py::tuple& result_strides,
                bool wide, bool bfloat16, int multiprocessors, int device, uintptr_t stream) {
    TrunkParams params = common(size, input, skip, weight1, norm, skip_norm, norm1);
    if (skip == 0) throw py::value_error("skip: got none; expected the feature skip");
    if (channels < 1 || channels > 4)
        throw py::value_error("channels: got " + std::to_string(channels) + "; expected 1 to 4");
    params.channels = channels;
    params.weight = weights("weight", weight);
    params.bias = weights("bias", bias);
    check_address("base", base, wide ? 4 : 2);
    check_address("result", result, wide ? 4 : 2);
    params.base = address(base);
    params.result = address(result);
    if (base_strides.size() != 4 || result_strides.size() != 4)
        throw py::value_error("strides: expected 4: image, channel, row, column");
    for (size_t i = 0; i < 4; ++i) {
        params.base_stride[i] = base_strides[i].cast<int64_t>();
        params.result_stride[i] = result_strides[i].cast<int64_t>();
    }
    params.wide = wide;
    plan_trunk(params, TrunkKernel::kTail, multiprocessors);
    check_launch("trunk_tail", launch_trunk(params, TrunkKernel::kTail, bfloat16, device, address(stream)), device);
}

}  // namespace

void bind_trunk(py::module_& module) {
    module.def("trunk_block", &trunk_block, "Launch two 3x3 convolutions; arguments as TrunkParams in trunk.h.");
    module.def("trunk_tail", &trunk_tail, "Launch a 3x3 and the 7x7 convolution; arguments as TrunkParams in trunk.h.");
}
