// The vocabulary of csrc/core/common/device.cuh for a host compiler, on the fibers of fibers.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "fibers.h"

#define LR_DEVICE inline
#define LR_HOST_DEVICE
#define LR_KERNEL(threads) inline void
#define LR_KERNEL_RESIDENT(threads, blocks) inline void
#define LR_UNROLL
#define LR_NO_UNROLL
#define LR_UNROLL_BY(n)

namespace learned_resizer {

template <class T, int N>
struct Words;
struct Half;
struct BFloat16;

inline int thread_index() { return host::thread_index(); }
inline int thread_count() { return host::thread_count(); }
inline int64_t block_index() { return host::block_index(); }
inline int64_t block_count() { return host::block_count(); }
inline unsigned char* dynamic_shared() { return host::dynamic_shared(); }
inline void barrier(int line = __builtin_LINE()) { host::barrier(line); }
inline int opaque(int x) { return x; }
template <class T>
T* global(T* p) {
    return p;
}

// A GPU faults on a misaligned vector access, and so does this.
inline void require_aligned(const void* p, std::size_t bytes) {
    if (reinterpret_cast<uintptr_t>(p) % bytes == 0) return;
    std::fprintf(stderr, "misaligned %zu-byte access to %p\n", bytes, p);
    std::abort();
}

template <class T, int N>
Words<T, N> load_words(const T* p) {
    Words<T, N> r;
    require_aligned(p, std::min<std::size_t>(sizeof(r.word), 16));
    std::memcpy(r.word, p, sizeof(r.word));
    return r;
}

template <class T>
T load_element(const T* p) {
    require_aligned(p, sizeof(T));
    return *p;
}

inline const char* advance(const char* base, int32_t n, int32_t bytes) { return base + int64_t{n} * bytes; }
inline uint32_t select_byte(uint32_t word, int i) { return (word >> (8 * i) & 0xffu) << 16; }
inline float float_from_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}
inline uint32_t bits_from_float(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(x));
    return bits;
}
inline double double_from_words(uint32_t low, uint32_t high) {
    const uint64_t bits = static_cast<uint64_t>(high) << 32 | low;
    double x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
}

inline float half_to_float(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
    const int exponent = (bits >> 10) & 31;
    const uint32_t fraction = bits & 0x3ffu;
    if (exponent == 31) return float_from_bits(sign | 0x7f800000u | fraction << 13);
    const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                          : std::ldexp(static_cast<float>(fraction | 0x400u), exponent - 25);
    return sign ? -magnitude : magnitude;
}

// Round to nearest even. nearbyint in the default rounding mode does the rounding, at the spacing of the result.
inline uint16_t float_to_half(float x) {
    const uint16_t sign = static_cast<uint16_t>(bits_from_float(x) >> 16 & 0x8000u);
    const float a = std::fabs(x);
    if (std::isnan(x)) return sign | 0x7e00u;
    if (a >= 65520.0f) return sign | 0x7c00u;
    if (a == 0.0f) return sign;
    const int exponent = std::max(std::ilogb(a), -14);
    const auto units =
        static_cast<uint32_t>(std::nearbyint(std::ldexp(a, 10 - exponent)));  // 1024 ... 2048, less if subnormal
    return static_cast<uint16_t>(sign + (static_cast<uint32_t>(exponent + 14) << 10) + units);
}

inline uint16_t float_to_bfloat16(float x) {
    const uint32_t bits = bits_from_float(x);
    if (std::isnan(x)) return static_cast<uint16_t>(bits >> 16 | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline uint8_t float_to_uint8_floor(float x) {
    return x > 0.0f ? static_cast<uint8_t>(std::min(std::floor(x), 255.0f)) : uint8_t{0};
}

// As a GPU's: a NaN gives way to a number.
inline float maximum(float a, float b) { return std::fmax(a, b); }
inline float minimum(float a, float b) { return std::fmin(a, b); }
inline float fused_multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused_multiply_add(double a, double b, double c) { return std::fma(a, b, c); }
template <class A>
void add_weighted(A weight, A x, A& sum) {
    if (weight != A(0)) sum = std::fma(weight, x, sum);
}
inline float inverse_root(float x) { return 1.0f / std::sqrt(x); }

// Poison until the thread waits: host::copy_async.
inline void copy_async(void* target, const void* source, bool exists) {
    require_aligned(target, 16);
    require_aligned(source, 16);
    host::copy_async(target, exists ? source : nullptr, 16);
}
inline void commit_copies() { host::commit_copies(); }
template <int N>
void wait_copies() {
    host::wait_copies(N);
}

inline void copy_to_shared(void* target, const void* source, int bytes) {
    if (bytes % 16 != 0) {
        std::fprintf(stderr, "copy_to_shared of %d bytes, expected a multiple of 16\n", bytes);
        std::abort();
    }
    for (int i = thread_index(); i < bytes / 16; i += thread_count()) {
        require_aligned(static_cast<const char*>(source) + 16 * i, 16);
        std::memcpy(static_cast<char*>(target) + 16 * i, static_cast<const char*>(source) + 16 * i, 16);
    }
}

}  // namespace learned_resizer
