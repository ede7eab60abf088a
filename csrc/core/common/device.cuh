// The vocabulary of the kernels. nvcc gets this file's definitions; a host compiler gets those of
// csrc/tests/host/device_host.h, which run each thread of a block as a fiber, so that the same kernel source runs
// anywhere.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define LR_DEVICE __device__ __forceinline__
#define LR_HOST_DEVICE __host__ __device__
// "1" lets the compiler take the registers it needs: left to its own choice it spills a few to fit one more block.
#define LR_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
// For `blocks` blocks on a multiprocessor: where that many fit into its registers without a spill.
#define LR_KERNEL_RESIDENT(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define LR_UNROLL _Pragma("unroll")
#define LR_NO_UNROLL _Pragma("unroll 1")
// By a constant of the kernel's instance.
#define LR_UNROLL_BY(n) LR_PRAGMA(unroll n)
#define LR_PRAGMA(text) _Pragma(#text)
#else
#include "device_host.h"
#endif

namespace learned_resizer {

// 16-bit floats travel as bits: the kernels only convert them, and a host compiler need not know the types.
struct Half {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

// N elements as the 32-bit words that hold them, aligned for one memory access (two for 32 bytes).
template <class T, int N>
struct Words {
    static constexpr int kCount = N * static_cast<int>(sizeof(T)) / 4;
    uint32_t word[kCount];
};

template <class A>
struct alignas(2 * sizeof(A)) Pair {
    A x, y;
};

template <class A>
struct alignas(16) Quad {
    A v[4];
};

#if defined(__CUDACC__)

LR_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LR_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
LR_DEVICE int64_t block_index() { return blockIdx.x; }
LR_DEVICE int64_t block_count() { return gridDim.x; }
LR_DEVICE void barrier() { __syncthreads(); }
// x, unknown to the compiler: what follows from it is computed again in a loop, instead of kept in registers.
LR_DEVICE int opaque(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

LR_DEVICE unsigned char* dynamic_shared() {
    extern __shared__ uint4 lr_dynamic_shared[];
    return reinterpret_cast<unsigned char*>(lr_dynamic_shared);
}

// Read-only data that no other block of this multiprocessor reads soon: do not displace the tables from L1.
LR_DEVICE uint32_t load_stream(const uint32_t* p) {
    uint32_t r;
    asm("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(r) : "l"(p));
    return r;
}
LR_DEVICE uint2 load_stream(const uint2* p) {
    uint2 r;
    asm("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(p));
    return r;
}
LR_DEVICE uint4 load_stream(const uint4* p) {
    uint4 r;
    asm("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
        : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
        : "l"(p));
    return r;
}

// Aligned load of N elements.
template <class T, int N>
LR_DEVICE Words<T, N> load_words(const T* p) {
    Words<T, N> r;
    if constexpr (Words<T, N>::kCount == 1) {
        r.word[0] = load_stream(reinterpret_cast<const uint32_t*>(p));
    } else if constexpr (Words<T, N>::kCount == 2) {
        const uint2 q = load_stream(reinterpret_cast<const uint2*>(p));
        r.word[0] = q.x, r.word[1] = q.y;
    } else {
#pragma unroll
        for (int i = 0; i < Words<T, N>::kCount / 4; ++i) {
            const uint4 q = load_stream(reinterpret_cast<const uint4*>(p) + i);
            r.word[4 * i] = q.x, r.word[4 * i + 1] = q.y, r.word[4 * i + 2] = q.z, r.word[4 * i + 3] = q.w;
        }
    }
    return r;
}

template <class T>
LR_DEVICE T load_element(const T* p) {
    return *p;
}
LR_DEVICE float load_element(const float* p) { return __ldg(p); }
LR_DEVICE double load_element(const double* p) { return __ldg(p); }
LR_DEVICE uint8_t load_element(const uint8_t* p) { return __ldg(p); }
LR_DEVICE Half load_element(const Half* p) { return {__ldg(&p->bits)}; }
LR_DEVICE BFloat16 load_element(const BFloat16* p) { return {__ldg(&p->bits)}; }

// A pointer that was itself in memory, to global memory, which the compiler cannot know.
template <class T>
LR_DEVICE T* global(T* p) {
    __builtin_assume(__isGlobal(p));
    return p;
}

// base + n * bytes in one instruction, which the compiler does not find where `bytes` is the same for many n.
LR_DEVICE const char* advance(const char* base, int32_t n, int32_t bytes) {
    const char* r;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(r) : "r"(n), "r"(bytes), "l"(base));
    return r;
}
LR_DEVICE float float_from_bits(uint32_t bits) { return __uint_as_float(bits); }
// Byte i of a word, in bits 16 to 23.
LR_DEVICE uint32_t select_byte(uint32_t word, int i) { return __byte_perm(word, 0, 0x4044 | i << 8); }
LR_DEVICE double double_from_words(uint32_t low, uint32_t high) {
    return __hiloint2double(static_cast<int>(high), static_cast<int>(low));
}
LR_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
LR_DEVICE uint16_t float_to_half(float x) { return __half_as_ushort(__float2half_rn(x)); }
LR_DEVICE uint16_t float_to_bfloat16(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
// Largest integer not above x, saturated to 0 ... 255.
LR_DEVICE uint8_t float_to_uint8_floor(float x) { return static_cast<uint8_t>(min(__float2uint_rd(x), 255u)); }
LR_DEVICE float maximum(float a, float b) { return fmaxf(a, b); }
LR_DEVICE float minimum(float a, float b) { return fminf(a, b); }
LR_DEVICE float fused_multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
LR_DEVICE double fused_multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
// Adds weight * x to the sum unless the weight is zero: under a predicate, where the compiler makes a branch of some
// ifs and repeats in each what they share.
LR_DEVICE void add_weighted(float weight, float x, float& sum) {
    asm("{.reg .pred p; setp.neu.f32 p, %1, 0f00000000; @p fma.rn.f32 %0, %1, %2, %0;}"
        : "+f"(sum)
        : "f"(weight), "f"(x));
}
LR_DEVICE void add_weighted(double weight, double x, double& sum) {
    if (weight != 0.0) sum = __fma_rn(weight, x, sum);
}
// 1 / sqrt(x) with two correct roundings: the approximate instruction would add an error that the formulas do not have.
LR_DEVICE float inverse_root(float x) { return __frcp_rn(__fsqrt_rn(x)); }

// Starts a copy of 16 aligned bytes from global to shared memory, past L1; zeros if the source does not `exist`. The
// target is undefined until its group was waited for: by the thread that copies, and for other threads a barrier after
// that.
LR_DEVICE void copy_async(void* target, const void* source, bool exists) {
    const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(target));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source), "r"(exists ? 16 : 0)
                 : "memory");
}
// Ends a group: this thread's copies since the group before.
LR_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all but this thread's newest `N` groups.
template <int N>
LR_DEVICE void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Copies `bytes` (a multiple of 16) from global to shared memory, all threads together; the caller adds the barrier.
LR_DEVICE void copy_to_shared(void* target, const void* source, int bytes) {
    LR_NO_UNROLL
    for (int i = thread_index(); i < bytes / 16; i += thread_count())
        static_cast<uint4*>(target)[i] = __ldg(static_cast<const uint4*>(source) + i);
}

#endif

template <class T>
struct Accumulator {
    using type = float;
};
template <>
struct Accumulator<double> {
    using type = double;
};

template <class T>
struct Decode;
template <>
struct Decode<double> {
    LR_DEVICE static double at(const uint32_t* w, int i) { return double_from_words(w[2 * i], w[2 * i + 1]); }
    LR_DEVICE static double of(double x) { return x; }
};
template <>
struct Decode<float> {
    LR_DEVICE static float at(const uint32_t* w, int i) { return float_from_bits(w[i]); }
    LR_DEVICE static float of(float x) { return x; }
};
template <>
struct Decode<Half> {
    LR_DEVICE static float at(const uint32_t* w, int i) {
        return half_to_float(static_cast<uint16_t>(w[i / 2] >> (16 * (i % 2))));
    }
    LR_DEVICE static float of(Half x) { return half_to_float(x.bits); }
};
template <>
struct Decode<BFloat16> {
    LR_DEVICE static float at(const uint32_t* w, int i) {
        return float_from_bits(i % 2 ? w[i / 2] & 0xffff0000u : w[i / 2] << 16);
    }
    LR_DEVICE static float of(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }
};

// The one rounding of a result. For uint8 the accumulator started at kRoundingBias, so that floor rounds half up.
template <class T>
struct Encode;
template <>
struct Encode<double> {
    static constexpr double kRoundingBias = 0.0;
    LR_DEVICE static double of(double x) { return x; }
};
template <>
struct Encode<float> {
    static constexpr float kRoundingBias = 0.0f;
    LR_DEVICE static float of(float x) { return x; }
};
template <>
struct Encode<Half> {
    static constexpr float kRoundingBias = 0.0f;
    LR_DEVICE static Half of(float x) { return {float_to_half(x)}; }
};
template <>
struct Encode<BFloat16> {
    static constexpr float kRoundingBias = 0.0f;
    LR_DEVICE static BFloat16 of(float x) { return {float_to_bfloat16(x)}; }
};
template <>
struct Encode<uint8_t> {
    static constexpr float kRoundingBias = 0.5f;
    LR_DEVICE static uint8_t of(float x) { return float_to_uint8_floor(x); }
};

}  // namespace learned_resizer
