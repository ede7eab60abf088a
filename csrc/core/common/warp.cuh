// The part of the vocabulary that the threads of a warp execute together: shuffles and matrix products. nvcc gets the
// instructions; a host compiler gets csrc/tests/host/warp_host.h, where each is an exchange between fibers.
#pragma once

#include "common/device.cuh"

namespace learned_resizer {

LR_DEVICE int lane_index() { return thread_index() % 32; }
LR_DEVICE int warp_index() { return thread_index() / 32; }
LR_DEVICE int warp_count() { return thread_count() / 32; }

#if defined(__CUDACC__)

LR_DEVICE void warp_barrier() { __syncwarp(); }
LR_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
LR_DEVICE double shuffle_xor(double x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
// The value that `lane` holds.
LR_DEVICE float shuffle(float x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }

LR_DEVICE uint32_t bits_from_float(float x) { return __float_as_uint(x); }
// The nearest tf32 (10 bits of fraction), ties away from zero; as a float whose lower 13 bits are zero.
LR_DEVICE float round_to_tf32(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return __uint_as_float(r);
}
// Two values rounded to 16 bits each, `low` in the lower half.
LR_DEVICE uint32_t pack_half(float low, float high) {
    const __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&h);
}
LR_DEVICE uint32_t pack_bfloat16(float low, float high) {
    const __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&h);
}

// x and y times `factor` where the lower and the upper half of `two`, float16 or bfloat16, are not positive. bfloat16
// is compared as float16 too, for which sm_90 is not needed: its sign and zero are the same, and a number only from
// 2^121 on a NaN.
LR_DEVICE void scale_unless_positive(float& x, float& y, uint32_t two, float factor) {
    asm("{.reg .pred p, q;\n"
        "setp.gt.f16x2 p|q, %2, %3;\n"
        "@!p mul.f32 %0, %0, %4;\n"
        "@!q mul.f32 %1, %1, %4;}"
        : "+f"(x), "+f"(y)
        : "r"(two), "r"(0), "f"(factor));
}

// c += A B for A 16x16, B 16x8, c 16x8, of 16-bit elements; the lanes hold them as the PTX manual specifies for
// mma.m16n8k16: with g = lane / 4 and t = lane % 4,
//   a[0]: A[g][2t, 2t+1], a[1]: A[g+8][2t, 2t+1], a[2]: A[g][2t+8, 2t+9], a[3]: A[g+8][2t+8, 2t+9]
//   b[0]: B[2t, 2t+1][g], b[1]: B[2t+8, 2t+9][g];  c[0], c[1]: C[g][2t, 2t+1], c[2], c[3]: C[g+8][2t, 2t+1]
LR_DEVICE void mma_half(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LR_DEVICE void mma_bfloat16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same for A 16x8, B 8x8 of tf32, mma.m16n8k8:
//   a[0]: A[g][t], a[1]: A[g+8][t], a[2]: A[g][t+4], a[3]: A[g+8][t+4];  b[0]: B[t][g], b[1]: B[t+4][g];  c as above
LR_DEVICE void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
          "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

// Four 8x8 matrices of 16-bit elements from shared memory: lane 8m + i gives the 16-byte aligned address of row i of
// matrix m; r[m] receives elements [g][2t] and [g][2t+1] of matrix m.
LR_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
// Each matrix transposed: r[m] receives elements [2t][g] and [2t+1][g].
LR_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
// The same for two matrices, whose rows' addresses the lanes 0-15 give.
LR_DEVICE void load_matrices_transposed(uint32_t (&r)[2], const void* row) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
}

#endif

}  // namespace learned_resizer

#if !defined(__CUDACC__)
#include "warp_host.h"
#endif
