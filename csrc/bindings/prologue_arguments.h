// The prologue's arguments, shared by the convolution, the head and the trunk.
#pragma once

#include "arguments.h"
#include "common/prologue.h"

namespace learned_resizer {

// An optional device address: 0 for none.
inline void* optional(const char* name, uintptr_t value, uintptr_t alignment) {
    if (value != 0) check_address(name, value, alignment);
    return address(value);
}

// size: (batch, height, width)
template <class Params>
void parse_size(Params& params, const py::tuple& size, int filters) {
    if (size.size() != 3) throw py::value_error("size: expected (batch, height, width)");
    params.batch = size[0].cast<int64_t>();
    params.height = size[1].cast<int64_t>();
    params.width = size[2].cast<int64_t>();
    if (params.batch < 1 || params.height < 1 || params.width < 1)
        throw py::value_error("size: expected a batch, height and width of at least 1");
    params.filters = check_filters(filters);
}

// (input, norm, skip, skip_norm, negative_slope): addresses, 0 for no skip, and norms as in parse_norm
template <class Params>
void parse_prologue(Params& params, const py::tuple& prologue) {
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

}  // namespace learned_resizer
