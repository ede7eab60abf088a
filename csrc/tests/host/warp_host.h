// The vocabulary of csrc/core/common/warp.cuh for a host compiler: a warp's joint operation is an exchange between
// fibers.
#pragma once

#include <cmath>
#include <cstring>

#include "device_host.h"

namespace learned_resizer {

inline void warp_barrier(int line = __builtin_LINE()) { host::warp_exchange(nullptr, 0, line); }

inline float shuffle(float x, int lane, int line = __builtin_LINE()) {
    return static_cast<const float*>(host::warp_exchange(&x, sizeof(x), line))[lane];
}
inline float shuffle_xor(float x, int mask, int line = __builtin_LINE()) {
    const int lane = thread_index() % 32;
    return static_cast<const float*>(host::warp_exchange(&x, sizeof(x), line))[lane ^ mask];
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

namespace host {

// Operands of one lane in an m16n8k16 product.
struct Operands {
    uint32_t a[4];
    uint32_t b[2];
};

// The products are exact and summed in float64; a GPU sums them in float32, in an order that is not documented.
template <class Decode>
void multiply_16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Decode& decode, int line) {
    Operands mine;
    std::memcpy(mine.a, a, sizeof(a));
    std::memcpy(mine.b, b, sizeof(b));
    const auto* all = static_cast<const Operands*>(warp_exchange(&mine, sizeof(mine), line));
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    for (int i = 0; i < 4; ++i) {
        const int column = 2 * t + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; ++k) {
            const uint32_t from_a = all[4 * g + k % 8 / 2].a[2 * (k / 8) + i / 2];
            const uint32_t from_b = all[4 * column + k % 8 / 2].b[k / 8];
            sum += static_cast<double>(decode(static_cast<uint16_t>(from_a >> 16 * (k % 2)))) *
                   decode(static_cast<uint16_t>(from_b >> 16 * (k % 2)));
        }
        c[i] = static_cast<float>(sum);
    }
}

}  // namespace host

inline void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
    host::multiply_16(c, a, b, [](uint16_t x) { return half_to_float(x); }, line);
}
inline void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
    host::multiply_16(c, a, b, [](uint16_t x) { return float_from_bits(static_cast<uint32_t>(x) << 16); }, line);
}
// A GPU ignores the lower 13 bits of its operands: a value that was not rounded is cut off, here as there.
inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2], int line = __builtin_LINE()) {
    struct Lane {
        float a[4], b[2];
    } mine;
    for (int i = 0; i < 4; ++i) mine.a[i] = float_from_bits(bits_from_float(a[i]) & 0xffffe000u);
    for (int i = 0; i < 2; ++i) mine.b[i] = float_from_bits(bits_from_float(b[i]) & 0xffffe000u);
    const auto* all = static_cast<const Lane*>(host::warp_exchange(&mine, sizeof(mine), line));
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    for (int i = 0; i < 4; ++i) {
        double sum = c[i];
        for (int k = 0; k < 8; ++k)
            sum += static_cast<double>(all[4 * g + k % 4].a[2 * (k / 4) + i / 2]) *
                   all[4 * (2 * t + i % 2) + k % 4].b[k / 4];
        c[i] = static_cast<float>(sum);
    }
}

inline void load_matrices(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
    require_aligned(row, 16);
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    const auto* rows = static_cast<const void* const*>(host::warp_exchange(&row, sizeof(row), line));
    for (int m = 0; m < 4; ++m) std::memcpy(&r[m], static_cast<const uint16_t*>(rows[8 * m + g]) + 2 * t, 4);
    // No lane overwrites what another still reads.
    warp_barrier(line);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row, int line = __builtin_LINE()) {
    require_aligned(row, 16);
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    const auto* rows = static_cast<const void* const*>(host::warp_exchange(&row, sizeof(row), line));
    for (int m = 0; m < 4; ++m) {
        uint16_t low, high;
        std::memcpy(&low, static_cast<const uint16_t*>(rows[8 * m + 2 * t]) + g, 2);
        std::memcpy(&high, static_cast<const uint16_t*>(rows[8 * m + 2 * t + 1]) + g, 2);
        r[m] = static_cast<uint32_t>(high) << 16 | low;
    }
    // No lane overwrites what another still reads.
    warp_barrier(line);
}

}  // namespace learned_resizer
