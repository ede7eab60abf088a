// Parameters of a network as the kernels take them: each in its own dtype, so that no launch has to convert them first.
// Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

enum class DType : int32_t { kFloat64 = 0, kFloat32 = 1, kFloat16 = 2, kBFloat16 = 3, kUInt8 = 4 };

// A dense vector of float32, float16 or bfloat16. Null: none.
struct Vector {
    const void* data;
    DType dtype;
};

// The weight of a convolution, [filters][channels][rows][columns], of any strides below kMostWeightStride, in elements.
constexpr int64_t kMostWeightStride = 1 << 24;  // the place of any element then fits 32 bits
struct Weight {
    const void* data;
    DType dtype;
    int32_t stride[4];
};

// A batch normalisation with given statistics: t -> gamma (t - mean) / sqrt(var + eps) + beta. Without a mean: t -> t.
struct Norm {
    Vector mean, var, gamma, beta;  // [filters]
    float eps;
};

}  // namespace learned_resizer
