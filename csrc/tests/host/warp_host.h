// The vocabulary of csrc/core/common/warp.cuh for a host compiler: a warp's joint operation is an exchange between
// fibers.
#pragma once

#include <cstring>

#include "device_host.h"
#include "tensor_core.h"

namespace learned_resizer {

inline void warp_barrier(int line = __builtin_LINE()) { host::warp_exchange(nullptr, 0, line); }

inline float shuffle(float x, int lane, int line = __builtin_LINE()) {
    return static_cast<const float*>(host::warp_exchange(&x, sizeof(x), line))[lane];
}
template <class T>
T shuffle_xor(T x, int mask, int line = __builtin_LINE()) {
    const int lane = thread_index() % 32;
    return static_cast<const T*>(host::warp_exchange(&x, sizeof(x), line))[lane ^ mask];
}

// Ties away from zero: half a unit is added to the magnitude, then the rest is cut off. Infinities and NaN stay.
inline float round_to_tf32(float x) {
    const uint32_t bits = bits_from_float(x);
    if ((bits & 0x7f800000u) == 0x7f800000u) return x;
    return float_from_bits((bits + 0x1000u) & 0xffffe000u);
}
inline uint32_t pack_half(float low, float high) {
    return static_cast<uint32_t>(float_to_half(high)) << 16 | float_to_half(low);
}
inline uint32_t pack_bfloat16(float low, float high) {
    return static_cast<uint32_t>(float_to_bfloat16(high)) << 16 | float_to_bfloat16(low);
}

inline void scale_unless_positive(float& x, float& y, uint32_t two, float factor) {
    if (!(half_to_float(static_cast<uint16_t>(two)) > 0.0f)) x *= factor;
    if (!(half_to_float(static_cast<uint16_t>(two >> 16)) > 0.0f)) y *= factor;
}

inline void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
    host::multiply(c, host::half_operands(a, b), line);
}
inline void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
    host::multiply(c, host::bfloat16_operands(a, b), line);
}
inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], int line = __builtin_LINE()) {
    host::multiply(c, host::tf32_operands(a, b), line);
}

inline void load_matrices(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
    require_aligned(row, 16);
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    const auto* rows = static_cast<const void* const*>(host::warp_exchange(&row, sizeof(row), line));
    for (int m = 0; m < 4; ++m) std::memcpy(&r[m], static_cast<const uint16_t*>(rows[8 * m + g]) + 2 * t, 4);
    // No lane overwrites what another still reads.
    warp_barrier(line);
}
template <int N>
void load_matrices_transposed(uint32_t (&r)[N], const void* row, int line = __builtin_LINE()) {
    require_aligned(row, 16);
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    const auto* rows = static_cast<const void* const*>(host::warp_exchange(&row, sizeof(row), line));
    for (int m = 0; m < N; ++m) {
        uint16_t low, high;
        std::memcpy(&low, static_cast<const uint16_t*>(rows[8 * m + 2 * t]) + g, 2);
        std::memcpy(&high, static_cast<const uint16_t*>(rows[8 * m + 2 * t + 1]) + g, 2);
        r[m] = static_cast<uint32_t>(high) << 16 | low;
    }
    // No lane overwrites what another still reads.
    warp_barrier(line);
}

}  // namespace learned_resizer
