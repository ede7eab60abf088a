// Arguments from Python that several bindings share.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

#include "common/parameter.h"
#include "python.h"
#include "resample/resample.h"

namespace learned_resizer {

// An integer within bounds.
template <class T, T kLeast, T kMost = std::numeric_limits<T>::max()>
struct Within {
    T value;
    operator T() const { return value; }
    static Within from(const Value& value) {
        const T number = value.as<T>();
        if (number >= kLeast && number <= kMost) return {number};
        const bool open = kMost == std::numeric_limits<T>::max();
        value.refuse(std::to_string(number),
                     (open ? "at least " : "") + std::to_string(kLeast) + (open ? "" : " to " + std::to_string(kMost)));
    }
};
using Filters = Within<int, 1, 32>;

// A required device address, aligned.
inline void check_address(const char* name, uintptr_t value, uintptr_t alignment) {
    if (value == 0 || value % alignment != 0)
        throw std::invalid_argument(name + (": got address " + std::to_string(value)) + "; expected one aligned to " +
                                    std::to_string(alignment) + " bytes");
}
inline void* checked(const Value& value, uintptr_t at, uintptr_t alignment) {
    if (at == 0 || at % alignment != 0) check_address(value.name().c_str(), at, alignment);
    return reinterpret_cast<void*>(at);
}
template <class T, uintptr_t kAlignment = alignof(T), bool kOptional = false>
struct Pointer {
    T* at;
    operator T*() const { return at; }
    static Pointer from(const Value& value) {
        const auto at = value.as<uintptr_t>();
        return {kOptional && at == 0 ? nullptr : static_cast<T*>(checked(value, at, kAlignment))};
    }
};
using Features = Pointer<void, 16>;
template <class T, uintptr_t kAlignment = alignof(T)>
using Optional = Pointer<T, kAlignment, true>;  // 0 for none
using Stream = Optional<void, 1>;

// As Arithmetic of fragment.cuh.
struct Arithmetic {
    int mode;
    operator int() const { return mode; }
    static Arithmetic from(const Value& value) {
        const char* const names[] = {"bfloat16", "float16", "tf32", "float32"};
        const auto name = value.as<std::string_view>();
        for (int i = 0; i < 4; ++i)
            if (name == names[i]) return {i};
        value.refuse(value.shown(), "bfloat16, float16, tf32 or float32");
    }
};

template <>
struct From<Filter> {
    static Filter from(const Value& value) {
        return static_cast<Filter>(int{value.as<Within<int, 0, static_cast<int>(Filter::kLanczos)>>()});
    }
};

// Of a parameter.
template <>
struct From<DType> {
    static DType from(const Value& value) {
        const int dtype = value.as<int>();
        if (dtype < 1 || dtype > 3) value.refuse(std::to_string(dtype), "1, 2 or 3: float32, float16 or bfloat16");
        return static_cast<DType>(dtype);
    }
};
inline uintptr_t alignment_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// Of an image, channel, row and column; of five, a plane comes second.
template <size_t kCount>
struct Strides {
    int64_t at[kCount];
    static Strides from(const Value& value) {
        using Long = int64_t;
        if constexpr (kCount == 4)
            return unpack_as<Strides, Long, Long, Long, Long>(value, "(image, channel, row, column)");
        else
            return unpack_as<Strides, Long, Long, Long, Long, Long>(value, "(image, plane, channel, row, column)");
    }
};
template <size_t kCount>
void copy(const Strides<kCount>& from, int64_t (&to)[kCount]) {
    std::copy_n(from.at, kCount, to);
}

template <>
struct From<Vector> {
    static Vector from(const Value& value) {
        const auto [at, dtype] = unpack<uintptr_t, DType>(value, "(address, dtype)");
        return {checked(value, at, alignment_of(dtype)), dtype};
    }
};
template <>
struct From<Weight> {
    static Weight from(const Value& value) {
        const auto [at, dtype, strides] = unpack<uintptr_t, DType, Strides<4>>(value, "(address, dtype, strides)");
        Weight weight{checked(value, at, alignment_of(dtype)), dtype, {}};
        for (size_t i = 0; i < 4; ++i) {
            const int64_t stride = strides.at[i];
            if (stride <= -kMostWeightStride || stride >= kMostWeightStride)
                value.refuse("a stride of " + std::to_string(stride), "below " + std::to_string(kMostWeightStride));
            weight.stride[i] = static_cast<int32_t>(stride);
        }
        return weight;
    }
};
template <>
struct From<Norm> {
    static Norm from(const Value& value) {
        if (value.object == Py_None) return {};
        return unpack_as<Norm, Vector, Vector, Vector, Vector, float>(value, "(mean, var, gamma, beta, eps) or None");
    }
};

// The gradients of features' statistics, and the count of values.
struct Statistics {
    const float *mean, *grad_mean, *grad_var;
    int64_t count;
    static Statistics from(const Value& value) {
        using Floats = Pointer<float>;
        return unpack_as<Statistics, Floats, Floats, Floats, int64_t>(value, "(mean, grad_mean, grad_var, count)");
    }
};
template <class Params>
void set_statistics(Params& params, const std::optional<Statistics>& given) {
    if (!given) return;
    params.mean = given->mean, params.grad_mean = given->grad_mean, params.grad_var = given->grad_var;
    params.count = given->count;
}

inline void check_launch(const char* op, int error, int device) {
    if (error != 0)
        throw std::runtime_error(std::string(op) + ": the launch on cuda:" + std::to_string(device) +
                                 " failed: " + cuda_error_name(error) + ": " + cuda_error_text(error));
}

}  // namespace learned_resizer
