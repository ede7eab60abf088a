// Products whose terms are pixels: the gradients of weights.
#pragma once

#include "common/fragment.cuh"

namespace learned_resizer {

// Operands whose terms are the 16 pixels of a map [16][stride] in shared memory, in chained order. `lane`: of the
// thread; a kernel short of registers passes one that is `opaque`.
template <Arithmetic M>
struct PixelTerms {
    using F = Fragments<M>;
    using S = typename F::S;

    // Rows of the product are 16 channels from `map` on.
    LR_DEVICE static typename F::A load_a(const S* map, int stride, int lane = lane_index()) {
        if constexpr (kIs16Bit<M>) {
            typename F::A a;
            // Matrices: pixels 0-7 and 8-15 (bit 4 of the lane) of channels 0-7 and 8-15 (bit 3).
            load_matrices_transposed(a.r, map + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
            return a;
        } else {
            float p[4], q[4];
            LR_UNROLL
            for (int i = 0; i < 4; ++i) {
                const S* pixel = map + chained_term(lane % 4, i) * stride + lane / 4;
                p[i] = pixel[0];
                q[i] = pixel[8];
            }
            return F::make(p, q);
        }
    }
    // Columns of the product are 8 channels from `map` on, and the 8 after them.
    LR_DEVICE static void load_b(typename F::B (&b)[2], const S* map, int stride, int lane = lane_index()) {
        if constexpr (kIs16Bit<M>) {
            uint32_t r[4];
            load_matrices_transposed(r, map + (lane / 8 % 2 * 8 + lane % 8) * stride + lane / 16 * 8);
            b[0] = {{r[0], r[1]}};
            b[1] = {{r[2], r[3]}};
        } else {
            LR_UNROLL
            for (int j = 0; j < 2; ++j) b[j] = gather(map + 8 * j + lane / 4, stride, lane);
        }
    }
    // The column that starts at `first`, a pixel every `stride` elements; 32-bit elements.
    LR_DEVICE static typename F::B gather(const S* first, int stride, int lane = lane_index()) {
        float v[4];
        LR_UNROLL
        for (int i = 0; i < 4; ++i) v[i] = first[chained_term(lane % 4, i) * stride];
        return F::make_b(v);
    }
};

}  // namespace learned_resizer
