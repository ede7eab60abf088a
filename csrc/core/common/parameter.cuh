// Access to parameters in their own dtype (parameter.h). They are read once a block: a branch on the dtype costs
// nothing.
#pragma once

#include "common/device.cuh"
#include "common/parameter.h"

namespace learned_resizer {

LR_DEVICE float load_parameter(const void* data, DType dtype, int64_t at) {
    if (dtype == DType::kFloat32) return load_element(static_cast<const float*>(data) + at);
    if (dtype == DType::kFloat16) return Decode<Half>::of(load_element(static_cast<const Half*>(data) + at));
    return Decode<BFloat16>::of(load_element(static_cast<const BFloat16*>(data) + at));
}
LR_DEVICE float load_parameter(const Vector& vector, int64_t at) {
    return load_parameter(vector.data, vector.dtype, at);
}
// The place of weight[f][c][y][x].
LR_DEVICE int weight_place(const Weight& w, int f, int c, int y, int x) {
    return f * w.stride[0] + c * w.stride[1] + y * w.stride[2] + x * w.stride[3];
}

// to[i] = encode(the element at place(i)), zero where that is negative, for i < kCount; all `threads` threads of the
// block. kTogether loads of a thread are on their way together.
template <class T, int kCount, int kTogether, class S, class Encode, class Place>
LR_DEVICE void load_weights_of(S* to, const Weight& weight, uint32_t threads, const Encode& encode,
                               const Place& place) {
    LR_NO_UNROLL
    for (uint32_t first = thread_index(); first < kCount; first += kTogether * threads) {
        int at[kTogether];
        T element[kTogether];
        LR_UNROLL
        for (int k = 0; k < kTogether; ++k) {
            const uint32_t i = first + k * threads;
            at[k] = i < kCount ? place(i) : -1;
            element[k] = load_element(static_cast<const T*>(weight.data) + (at[k] < 0 ? 0 : at[k]));
        }
        LR_UNROLL
        for (int k = 0; k < kTogether; ++k) {
            const uint32_t i = first + k * threads;
            if (i < kCount) to[i] = encode(at[k] < 0 ? 0.0f : Decode<T>::of(element[k]));
        }
    }
}
template <int kCount, int kTogether, class S, class Encode, class Place>
LR_DEVICE void load_weights(S* to, const Weight& weight, int threads, const Encode& encode, const Place& place) {
    if (weight.dtype == DType::kFloat32)
        load_weights_of<float, kCount, kTogether>(to, weight, threads, encode, place);
    else if (weight.dtype == DType::kFloat16)
        load_weights_of<Half, kCount, kTogether>(to, weight, threads, encode, place);
    else
        load_weights_of<BFloat16, kCount, kTogether>(to, weight, threads, encode, place);
}

// Rounds once, on the way into a parameter's gradient.
LR_DEVICE void store_parameter(void* data, DType dtype, int64_t at, float value) {
    if (dtype == DType::kFloat32)
        static_cast<float*>(data)[at] = value;
    else if (dtype == DType::kFloat16)
        static_cast<Half*>(data)[at] = Encode<Half>::of(value);
    else
        static_cast<BFloat16*>(data)[at] = Encode<BFloat16>::of(value);
}

// Scale and shift of channel c; 1 and 0 without a norm.
LR_DEVICE float scale_of(const Norm& norm, int c) {
    if (norm.mean.data == nullptr) return 1.0f;
    return load_parameter(norm.gamma, c) * inverse_root(load_parameter(norm.var, c) + norm.eps);
}
LR_DEVICE float shift_of(const Norm& norm, int c) {
    if (norm.mean.data == nullptr) return 0.0f;
    return fused_multiply_add(-load_parameter(norm.mean, c), scale_of(norm, c), load_parameter(norm.beta, c));
}

}  // namespace learned_resizer
