// The prologue's arguments, shared by the convolution and the head.
#pragma once

#include "arguments.h"
#include "common/prologue.h"

namespace learned_resizer {

// An optional device address: 0 for none.
inline void* optional(const char* name, uintptr_t value, uintptr_t alignment) {
    if (value != 0) check_address(name, value, alignment);
    return address(value);
}
inline const float* vector(const char* name, uintptr_t value) {
    check_address(name, value, 4);
    return static_cast<const float*>(address(value));
}

// size: (batch, height, width)
inline PrologueParams parse_size(const py::tuple& size) {
    if (size.size() != 3) throw py::value_error("size: expected (batch, height, width)");
    PrologueParams params{};
    params.batch = size[0].cast<int64_t>();
    params.height = size[1].cast<int64_t>();
    params.width = size[2].cast<int64_t>();
    if (params.batch < 1 || params.height < 1 || params.width < 1)
        throw py::value_error("size: expected a batch, height and width of at least 1");
    return params;
}

// prologue: the addresses (input, scale, shift, skip, skip_scale, skip_shift), the last
// three 0 without a skip, and the slope
inline PrologueParams parse_prologue(const py::tuple& size, const py::tuple& prologue) {
    if (prologue.size() != 7)
        throw py::value_error("prologue: expected (input, scale, shift, skip, skip_scale, skip_shift, negative_slope)");
    uintptr_t values[6];
    for (size_t i = 0; i < 6; ++i) values[i] = prologue[i].cast<uintptr_t>();
    PrologueParams params = parse_size(size);
    check_address("input", values[0], 16);
    params.input = address(values[0]);
    params.scale = vector("scale", values[1]);
    params.shift = vector("shift", values[2]);
    params.skip = optional("skip", values[3], 16);
    if (params.skip != nullptr) {
        params.skip_scale = vector("skip_scale", values[4]);
        params.skip_shift = vector("skip_shift", values[5]);
    }
    params.negative_slope = prologue[6].cast<float>();
    return params;
}

// grads: the addresses of the gradients of input and skip, the second 0 without a skip
inline void parse_prologue_grads(PrologueParams& params, const py::tuple& grads) {
    if (grads.size() != 2) throw py::value_error("grads: expected the addresses of grad_input and grad_skip");
    const auto input = grads[0].cast<uintptr_t>(), skip = grads[1].cast<uintptr_t>();
    check_address("grad_input", input, 16);
    params.grad_input = address(input);
    if ((skip != 0) != (params.skip != nullptr))
        throw py::value_error("grad_skip: expected an address where there is a skip and 0 elsewhere");
    params.grad_skip = optional("grad_skip", skip, 16);
}

}  // namespace learned_resizer
