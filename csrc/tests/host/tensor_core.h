// A warp's matrix products as a tensor core sums them, which NVIDIA does not document and others have measured: Fasi,
// Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021;
// Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores", arXiv:2512.07004, 2025, whose models agree with the
// GPUs bit for bit.
//   - The products are exact. Those of a block of terms and the accumulator are added at once, in fixed point: each is
//     cut off, towards zero, kGuardBits below the last bit of a float32 of the largest exponent among them. A product's
//     exponent is the sum of its operands', also where its significand is 2 or more.
//   - The sum is cut off to a float32, towards zero, and is the accumulator of the next block.
// Blocks and guard bits differ. This is the coarsest of the GPUs that we build for, which also cuts off most often:
//                                terms of a block, 16 bits / tf32    guard bits
//   8.0, 8.6, 8.9 (A100, L40S)   8 / 4                               1
//   9.0, 10.0, 12.0              16 / 8                              2
#pragma once

#include <cstdint>

namespace learned_resizer::host {

constexpr int kGuardBits = 1;

// What a lane holds of A and B, E elements in each of four and of two registers; how, csrc/core/common/warp.cuh says. A
// subnormal element has the exponent of its format's smallest normal one.
template <int E>
struct Operands {
    float a[4 * E], b[2 * E];
    int16_t exponent_a[4 * E], exponent_b[2 * E];
};
Operands<2> half_operands(const uint32_t (&a)[4], const uint32_t (&b)[2]);
Operands<2> bfloat16_operands(const uint32_t (&a)[4], const uint32_t (&b)[2]);
// A GPU ignores the lower 13 bits of its operands: a value that was not rounded is cut off, here as there.
Operands<1> tf32_operands(const float (&a)[4], const float (&b)[2]);

// c += A B for a lane, whose operands it exchanges with the other lanes of its warp.
template <int E>
void multiply(float (&c)[4], const Operands<E>& mine, int line);
extern template void multiply<1>(float (&c)[4], const Operands<1>& mine, int line);
extern template void multiply<2>(float (&c)[4], const Operands<2>& mine, int line);

}  // namespace learned_resizer::host
