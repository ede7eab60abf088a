// Arguments that the convolution, the head and the trunk share.
#pragma once

#include <string>

#include "arguments.h"
#include "common/prologue.h"
#include "common/to_image.h"

namespace learned_resizer {

// An optional device address: 0 for none.
inline void* optional(const char* name, uintptr_t value, uintptr_t alignment) {
    if (value != 0) check_address(name, value, alignment);
    return address(value);
}

// size: (batch, height, width)
inline void parse_size(PrologueParams& params, const py::tuple& size, int filters) {
    if (size.size() != 3) throw py::value_error("size: expected (batch, height, width)");
    params.batch = size[0].cast<int64_t>();
    params.height = size[1].cast<int64_t>();
    params.width = size[2].cast<int64_t>();
    if (params.batch < 1 || params.height < 1 || params.width < 1)
        throw py::value_error("size: expected a batch, height and width of at least 1");
    if (params.width > kMostWidth)
        throw py::value_error("size: got a width of " + std::to_string(params.width) + "; expected at most " +
                              std::to_string(kMostWidth) + " on the native kernels");
    params.filters = check_filters(filters);
}

// (input, norm, skip, skip_norm, negative_slope): addresses, 0 for no skip, and norms as in parse_norm
inline void parse_prologue(PrologueParams& params, const py::tuple& prologue) {
    if (prologue.size() != 5)
        throw py::value_error("prologue: expected (input, norm, skip, skip_norm, negative_slope)");
    const auto input = prologue[0].cast<uintptr_t>();
    check_address("input", input, 16);
    params.input = address(input);
    params.norm = parse_norm("norm", prologue[1]);
    params.skip = optional("skip", prologue[2].cast<uintptr_t>(), 16);
    params.skip_norm = parse_norm("skip_norm", prologue[3]);
    params.negative_slope = prologue[4].cast<float>();
}

// (grad_input, earlier_input, grad_skip, earlier_skip): addresses, 0 for none
inline void parse_prologue_grads(PrologueParams& params, const py::tuple& grads) {
    if (grads.size() != 4)
        throw py::value_error("grads: expected the addresses grad_input, earlier_input, grad_skip, earlier_skip");
    uintptr_t values[4];
    for (size_t i = 0; i < 4; ++i) values[i] = grads[i].cast<uintptr_t>();
    check_address("grad_input", values[0], 16);
    params.grad_input = address(values[0]);
    params.earlier_input = optional("earlier_input", values[1], 16);
    if ((values[2] != 0) != (params.skip != nullptr))
        throw py::value_error("grad_skip: expected an address where there is a skip and 0 elsewhere");
    params.grad_skip = optional("grad_skip", values[2], 16);
    params.earlier_skip = optional("earlier_skip", values[3], 16);
}

// (address, strides, whether float32 rather than the arithmetic's type)
inline ImageView parse_image(const char* name, const py::tuple& image) {
    if (image.size() != 3) throw py::value_error(std::string(name) + ": expected (address, strides, wide)");
    ImageView result{};
    result.wide = image[2].cast<bool>() ? 1 : 0;
    const auto data = image[0].cast<uintptr_t>();
    check_address(name, data, result.wide ? 4 : 2);
    result.data = address(data);
    parse_strides(name, image[1].cast<py::tuple>(), result.stride);
    return result;
}

inline void parse_to_image(ToImage& params, int channels, const py::tuple& weight) {
    if (channels < 1 || channels > kImageChannels)
        throw py::value_error("channels: got " + std::to_string(channels) + "; expected 1 to 4");
    params.channels = channels;
    params.weight = parse_weight("weight", weight);
}
inline void parse_result(ToImage& params, const py::tuple& bias, const py::tuple& base, uintptr_t result,
                         const py::tuple& result_strides) {
    params.bias = parse_vector("bias", bias);
    params.base = parse_image("base", base);
    check_address("result", result, params.base.wide ? 4 : 2);
    params.result = address(result);
    parse_strides("result", result_strides, params.result_stride);
}

}  // namespace learned_resizer
