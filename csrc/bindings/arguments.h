// Arguments from Python that several bindings share.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "common/parameter.h"
#include "resample/resample.h"

namespace learned_resizer {

namespace py = pybind11;

inline void* address(uintptr_t value) { return reinterpret_cast<void*>(value); }

// A required device address, aligned.
inline void check_address(const char* name, uintptr_t value, uintptr_t alignment) {
    if (value == 0 || value % alignment != 0)
        throw py::value_error(std::string(name) + ": got address " + std::to_string(value) +
                              "; expected one aligned to " + std::to_string(alignment) + " bytes");
}

// As Arithmetic of fragment.cuh.
inline int parse_arithmetic(const std::string& name) {
    const char* const names[] = {"bfloat16", "float16", "tf32", "float32"};
    for (int i = 0; i < 4; ++i)
        if (name == names[i]) return i;
    throw py::value_error("arithmetic: got '" + name + "'; expected bfloat16, float16, tf32 or float32");
}
inline int check_filters(int num_filters) {
    if (num_filters < 1 || num_filters > 32)
        throw py::value_error("num_filters: got " + std::to_string(num_filters) + "; expected 1 to 32");
    return num_filters;
}
inline void parse_strides(const char* argument, const py::tuple& strides, int64_t (&to)[4]) {
    if (strides.size() != 4)
        throw py::value_error(std::string(argument) + ": got " + std::to_string(strides.size()) +
                              " strides; expected 4: image, channel, row, column");
    for (size_t i = 0; i < 4; ++i) to[i] = strides[i].cast<int64_t>();
}

// As DType of parameter.h.
inline DType parse_parameter_dtype(const char* name, int dtype) {
    if (dtype < 1 || dtype > 3)
        throw py::value_error(std::string(name) + ": got dtype " + std::to_string(dtype) +
                              "; expected 1, 2 or 3: float32, float16 or bfloat16");
    return static_cast<DType>(dtype);
}
// (address, dtype)
inline Vector parse_vector(const char* name, const py::handle& value) {
    const auto pair = value.cast<py::tuple>();
    if (pair.size() != 2) throw py::value_error(std::string(name) + ": expected (address, dtype)");
    const DType dtype = parse_parameter_dtype(name, pair[1].cast<int>());
    const auto at = pair[0].cast<uintptr_t>();
    check_address(name, at, dtype == DType::kFloat32 ? 4 : 2);
    return {address(at), dtype};
}
// (address, dtype, strides)
inline Weight parse_weight(const char* name, const py::handle& value) {
    const auto triple = value.cast<py::tuple>();
    if (triple.size() != 3) throw py::value_error(std::string(name) + ": expected (address, dtype, strides)");
    const DType dtype = parse_parameter_dtype(name, triple[1].cast<int>());
    const auto at = triple[0].cast<uintptr_t>();
    check_address(name, at, dtype == DType::kFloat32 ? 4 : 2);
    Weight weight{address(at), dtype, {}};
    int64_t strides[4];
    parse_strides(name, triple[2].cast<py::tuple>(), strides);
    for (int i = 0; i < 4; ++i) {
        if (std::abs(strides[i]) >= kMostWeightStride)
            throw py::value_error(std::string(name) + ": got a stride of " + std::to_string(strides[i]) +
                                  "; expected below " + std::to_string(kMostWeightStride));
        weight.stride[i] = static_cast<int32_t>(strides[i]);
    }
    return weight;
}
// (mean, var, gamma, beta, eps), each vector as in parse_vector; or None
inline Norm parse_norm(const char* name, const py::handle& value) {
    if (value.is_none()) return {};
    const auto parts = value.cast<py::tuple>();
    if (parts.size() != 5)
        throw py::value_error(std::string(name) + ": expected (mean, var, gamma, beta, eps) or None");
    return {parse_vector(name, parts[0]), parse_vector(name, parts[1]), parse_vector(name, parts[2]),
            parse_vector(name, parts[3]), parts[4].cast<float>()};
}

// The gradients of features' statistics: the addresses of mean, grad_mean, grad_var, and the count of values; or None
template <class Params>
void parse_statistics(Params& params, const py::object& statistics) {
    if (statistics.is_none()) return;
    const auto given = statistics.cast<py::tuple>();
    if (given.size() != 4) throw py::value_error("statistics: expected (mean, grad_mean, grad_var, count) or None");
    const char* const names[] = {"mean", "grad_mean", "grad_var"};
    const float** const vectors[] = {&params.mean, &params.grad_mean, &params.grad_var};
    for (size_t i = 0; i < 3; ++i) {
        const auto value = given[i].cast<uintptr_t>();
        check_address(names[i], value, 4);
        *vectors[i] = static_cast<const float*>(address(value));
    }
    params.count = given[3].cast<int64_t>();
}

inline void check_launch(const char* op, int error, int device) {
    if (error != 0)
        throw std::runtime_error(std::string(op) + ": the launch on cuda:" + std::to_string(device) +
                                 " failed: " + cuda_error_name(error) + ": " + cuda_error_text(error));
}

}  // namespace learned_resizer
