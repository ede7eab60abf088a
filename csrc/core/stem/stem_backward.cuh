// The stem's adjoint. The features are computed again from the image, a few rows at a time; no tensor with n channels
// at input resolution exists here either.
//
//   forward   a = lrelu(W0 * x + b0),  c = lrelu(W1 a + b1),  z = R c,  mean and var of c over its M pixels
//   adjoint   dc  = R^T dz + dmean / M + 2 (c - mean) / M dvar
//             dc' = dc lrelu'(c),   dW1 = sum dc' a^T,   db1 = sum dc',   da = W1^T dc'
//             da' = da lrelu'(a),   dW0 = sum da' * x,   db0 = sum da',   dx = W0^T * da'
//
// Two kernels: the weights' gradients, and dx, which needs da' three pixels around and is rarely needed. Both walk
// down the image like the forward (stem_features.cuh). dW0 and dW1 are products whose terms are pixels: their operands
// go through shared memory, from which they are read transposed. Every block keeps its sums in registers and writes one
// row of partial results; their sum has a fixed order: bitwise reproducible for a given number of blocks.
#pragma once

#include "common/dispatch.h"
#include "stem/stem_adjoint.cuh"
#include "stem/stem_image_gradient.cuh"

namespace learned_resizer {

// dW0, db0, dW1, db1. A warp sums over its own 16 pixels for 16 filters; with 32 filters two neighbouring warps share
// their pixels, and each has half of the filters.
template <Arithmetic M, int n>
struct StemWeightGradients {
    static constexpr int kRows = kIs16Bit<M> && n == 16 ? 2 : 1;
    using Adjoint = StemAdjoint<M, n, kRows>;
    using Features = typename Adjoint::Features;
    using F = typename Adjoint::F;
    using S = typename Adjoint::S;
    using Terms = PixelTerms<M>;
    static constexpr int kTiles = n / 8, kHalves = n / 16;
    static constexpr int kStride = n + 8;            // elements of a pixel: transposed reads then have no bank conflict
    static constexpr int kMap = 16 * kStride;        // a row of a warp
    static constexpr int kStage = 3 * kRows * kMap;  // da', dc' and a of a warp

    const StemBackwardParams& p;
    Adjoint adjoint;
    S* stage;  // [warps][3][kRows][16][kStride]
    float dw0[7][4][4], dw1[kTiles][4];
    float db0[2], db1[2];  // of filters g and g + 8

    LR_HOST_DEVICE static constexpr int stage_offset(int warps) {
        return (Adjoint::shared_bytes(warps) + 15) / 16 * 16;
    }
    static int shared_bytes(const StemBackwardParams& params) {
        const int working = stage_offset(params.warps) + params.warps * kStage * static_cast<int>(sizeof(S));
        // At the end the same memory holds the block's sums.
        return std::max(working,
                        4 * static_cast<int>(stem_gradient_elements(params.weights.filters, params.image.channels)));
    }

    LR_DEVICE explicit StemWeightGradients(const StemBackwardParams& params)
        : p(params), adjoint(params), dw0{}, dw1{}, db0{}, db1{} {
        stage = reinterpret_cast<S*>(dynamic_shared() + stage_offset(warp_count()));
    }

    LR_DEVICE S* map(int warp, int which, int row) const {
        return stage + warp * kStage + (which * kRows + row) * kMap;
    }

    // The warps that exchange maps; with 16 filters a single warp.
    LR_DEVICE static void meet() {
        if constexpr (kHalves == 1)
            warp_barrier();
        else
            barrier();
    }

    LR_DEVICE void run_item(int64_t item) {
        int begin, end;
        adjoint.locate(item, StemGradient::kWeights, begin, end);
        const bool valid[2] = {adjoint.column_exists(0), adjoint.column_exists(1)};
        barrier();  // the ring of the item before is free
        adjoint.features.begin(begin);
        barrier();
        LR_NO_UNROLL
        for (int row = begin; row < end; row += kRows) {
            typename Adjoint::Features::Raw raw;
            if constexpr (kHalves == 1) adjoint.features.request(raw, Adjoint::Features::next(row));
            {
                float a[kRows][kTiles][4], c[kRows][kTiles][4];
                adjoint.features.compute(row, a, c);
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) {
                    float dc[kTiles][4], da[kTiles][4];
                    adjoint.derive(row + q, row + q < end, valid, a[q], c[q], dc, da);
                    Adjoint::put(map(warp_index(), 0, q), kStride, da);
                    Adjoint::put(map(warp_index(), 1, q), kStride, dc);
                    Adjoint::put(map(warp_index(), 2, q), kStride, a[q]);
                }
            }
            meet();  // the maps are complete
            LR_UNROLL
            for (int h = 0; h < kHalves; ++h) add(row, kHalves == 1 ? warp_index() : warp_index() / 2 * 2 + h);
            meet();  // and free again
            // With 32 filters no registers are left to hold them earlier.
            if constexpr (kHalves == 2) adjoint.features.request(raw, Adjoint::Features::next(row));
            adjoint.features.store(raw, Adjoint::Features::next(row));
            barrier();  // the new image rows are there
        }
    }

    // Adds the products over the pixels of `warp` for this warp's filters.
    LR_DEVICE void add(int row, int warp) {
        const int half = kHalves == 1 ? 0 : warp_index() % 2;
        typename F::A da[kRows];
        // Rows outside the image are zero. float32 leaves them out for the branch: ptxas, which moves nothing across
        // it, otherwise begins more of its chains (fragment.cuh) at once than there are registers for. One comparison
        // of 32 bits: two of 64 take registers that the instance of 32 filters does not have.
        const auto outside = [&](int y) {
            return M == Arithmetic::kFloat32 && static_cast<uint32_t>(y) >= static_cast<uint32_t>(p.image.height);
        };
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            da[q] = Terms::load_a(map(warp, 0, q) + 16 * half, kStride);
            const auto dc = Terms::load_a(map(warp, 1, q) + 16 * half, kStride);
            F::add_terms(db0, da[q]);
            F::add_terms(db1, dc);
            LR_UNROLL
            for (int j = 0; j < kTiles; j += 2) {
                if (outside(row + q)) continue;
                typename F::B a[2];
                Terms::load_b(a, map(warp, 2, q) + 8 * j, kStride);
                F::multiply(dw1[j], dc, a[0]);
                F::multiply(dw1[j + 1], dc, a[1]);
            }
        }
        // An image row serves all rows of features that it is within three of.
        const S* first = adjoint.features.ring + kStemWarpColumns * Features::kPixel * warp;
        LR_UNROLL
        for (int r = 0; r < kRows + 6; ++r) {
            const S* from = first + Features::ring_row(row - 3 + r) * adjoint.features.pitch * Features::kPixel;
            LR_UNROLL
            for (int m = 0; m < 2; ++m) {
                if (outside(row - 3 + r)) continue;
                typename F::B x[2];
                load_taps(x, from + 4 * m * Features::kPixel);
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) {
                    const int dy = r - q;
                    if (dy < 0 || dy > 6) continue;
                    F::multiply(dw0[dy][2 * m], da[q], x[0]);
                    F::multiply(dw0[dy][2 * m + 1], da[q], x[1]);
                }
            }
        }
    }

    // Two column tiles whose terms are 16 pixels: column 8j + g is channel g % 4 of the pixel 2j + g / 4 to the right.
    LR_DEVICE static void load_taps(typename F::B (&x)[2], const S* from) {
        const int lane = lane_index();
        if constexpr (kIs16Bit<M>) {
            uint32_t r[4];
            load_matrices_transposed(r, from + (lane / 8 % 2 * 8 + lane % 8 + lane / 16 * 2) * Features::kPixel);
            x[0] = {{r[0], r[1]}};
            x[1] = {{r[2], r[3]}};
        } else {
            LR_UNROLL
            for (int j = 0; j < 2; ++j) x[j] = Terms::gather(from + 8 * j + lane / 4, Features::kPixel);
        }
    }

    // The block's sums, warp after warp, in the order of the weights themselves.
    LR_DEVICE void finish(float* partial) {
        const int channels = p.image.channels, filters = p.weights.filters;
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const int elements = static_cast<int>(stem_gradient_elements(filters, channels));
        float* sum0 = reinterpret_cast<float*>(dynamic_shared());  // [filters][channels][7][7]
        float* bias0 = sum0 + filters * channels * 49;             // [filters]
        float* sum1 = bias0 + filters;                             // [filters][filters]
        float* bias1 = sum1 + filters * filters;                   // [filters]
        LR_UNROLL
        for (int mask = 1; mask < 4; mask *= 2) {
            LR_UNROLL
            for (int i = 0; i < 2; ++i) {
                db0[i] += shuffle_xor(db0[i], mask);
                db1[i] += shuffle_xor(db1[i], mask);
            }
        }
        barrier();
        for (int i = thread_index(); i < elements; i += thread_count()) sum0[i] = 0.0f;
        barrier();
        const int filter = kHalves == 1 ? g : warp_index() % 2 * 16 + g;
        LR_NO_UNROLL
        for (int w = 0; w < warp_count(); ++w) {
            if (w == warp_index()) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int f = filter + i / 2 * 8;
                    if (f >= filters) continue;
                    LR_UNROLL
                    for (int dy = 0; dy < 7; ++dy) {
                        LR_UNROLL
                        for (int j = 0; j < 4; ++j) {
                            const int column = 8 * j + 2 * t + i % 2, dx = column / 4, c = column % 4;
                            if (dx < 7 && c < channels) sum0[((f * channels + c) * 7 + dy) * 7 + dx] += dw0[dy][j][i];
                        }
                    }
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        const int from = 8 * j + 2 * t + i % 2;
                        if (from < filters) sum1[f * filters + from] += dw1[j][i];
                    }
                }
                if (t == 0) {
                    LR_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        if (filter + 8 * i >= filters) continue;
                        bias0[filter + 8 * i] += db0[i];
                        bias1[filter + 8 * i] += db1[i];
                    }
                }
            }
            barrier();
        }
        for (int i = thread_index(); i < elements; i += thread_count()) partial[i] = sum0[i];
    }
};

template <Arithmetic M, int n>
LR_KERNEL(32 * kStemMaxWarps)
stem_weights_kernel(const StemBackwardParams p) {
    StemWeightGradients<M, n> gradients(p);
    for (int64_t item = block_index(); item < p.items; item += block_count()) gradients.run_item(item);
    gradients.finish(p.partials + block_index() * stem_gradient_elements(p.weights.filters, p.image.channels));
}

// Calls launch(kernel, shared_bytes) with the instance; false if it does not exist.
template <class Launch>
bool with_stem_backward_kernel(const StemBackwardParams& params, StemGradient gradient, Arithmetic arithmetic,
                               const Launch& launch) {
    return dispatch_tensor(arithmetic, params.weights.filters, [&](auto M, auto n) {
        if (gradient == StemGradient::kWeights)
            launch(stem_weights_kernel<M, n>, StemWeightGradients<M, n>::shared_bytes(params));
        else
            launch(stem_image_kernel<M, n>, StemImageGradient<M, n>::shared_bytes(params));
    });
}

}  // namespace learned_resizer
