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

#include <algorithm>

#include "common/dispatch.h"
#include "stem/stem_adjoint.cuh"
#include "stem/stem_image_gradient.cuh"

namespace learned_resizer {

// dW0, db0, dW1, db1. dW0's operands are the image ring and a stage of da', kHeight rows of the block's four warps,
// whose pixels each warp sums over for a quarter of the columns (taps and channels): all of them would take 112
// registers. dW1 a warp sums over its own pixels.
template <Arithmetic M, int n>
struct StemWeightGradients {
    static constexpr bool kShort = kIs16Bit<M> && n == 16;
    // Rows of features at a time, and how often before the block meets.
    static constexpr int kRows = kShort ? 3 : 1;
    static constexpr int kTurns = !kIs16Bit<M> && n == 32 ? 1 : 2;
    static constexpr int kHeight = kRows * kTurns;
    static constexpr int kBlocks = kShort ? 3 : 2;  // on a multiprocessor
    using Adjoint = StemAdjoint<M, n, kRows>;
    using Features = typename Adjoint::Features;
    using F = typename Adjoint::F;
    using S = typename Adjoint::S;
    using Map = FeatureMap<M, n, n + 8>;
    static constexpr int kTiles = n / 8, kHalves = n / 16;
    static constexpr int kMap = 16 * Map::kStride;
    static constexpr int kOwn = 2 * kRows * kMap;

    const StemBackwardParams& p;
    Adjoint adjoint;
    S* stage;  // [kStemWarps][kHeight][16][Map::kStride]: da'
    S* own;    // [2][kRows][16][Map::kStride]: dc' and a, of this warp
    // Of filters 16 half() + g and g + 8, and the column tiles from first_tile() on.
    float dw0[7][kHalves][4];
    float dw1[kHalves][kTiles][4];
    // Columns 0 ... 3 of db[0] are db0 of the filters of half(), columns 4 ... 7 of db[h] db1 of half h.
    float db[kHalves][4];

    LR_HOST_DEVICE static constexpr int stage_offset() { return Adjoint::shared_bytes(kStemWarps); }
    static int shared_bytes(int filters, int channels) {
        const int working = stage_offset() + kStemWarps * (kHeight * kMap + kOwn) * static_cast<int>(sizeof(S));
        // At the end the same memory holds the block's sums.
        return std::max(working, 4 * static_cast<int>(stem_gradient_elements(filters, channels)));
    }

    LR_DEVICE explicit StemWeightGradients(const StemBackwardParams& params)
        : p(params), adjoint(params), dw0{}, dw1{}, db{} {
        stage = reinterpret_cast<S*>(dynamic_shared() + stage_offset());
        own = stage + kStemWarps * kHeight * kMap + warp_index() * kOwn;
    }
    LR_DEVICE static int half() { return warp_index() % kHalves; }
    LR_DEVICE static int first_tile() { return warp_index() / kHalves * kHalves; }

    LR_DEVICE void run_item(int64_t index) {
        adjoint.locate(index, StemGradient::kWeights);
        const int begin = adjoint.item.begin, end = adjoint.item.end;
        const auto last = [&](int y) { return (y + kRows < end ? y + kRows : end) - 1; };
        adjoint.features.pitch = kStemWarpColumns * kStemWarps + kStemPad;
        adjoint.features.begin(begin);
        typename Features::Raw raw[kTurns];
        request<kTurns - 1>(raw, first_new(begin - kHeight) + kRows);
        store<kTurns - 1>(raw, first_new(begin - kHeight) + kRows);
        adjoint.pull.request_ahead(begin, last(begin));
        barrier();
        LR_NO_UNROLL
        for (int row = begin; row < end; row += kHeight) {
            LR_NO_UNROLL
            for (int y = row; y < row + kHeight; y += kRows) {
                typename Adjoint::Row a[kRows];
                float dc[kRows][kTiles][4];
                adjoint.features_and_dc(y, end, a, dc);
                // A barrier of the warp lies behind what it read of `own` before.
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) {
                    const auto gradient = Adjoint::pack(dc[q]);
                    Adjoint::template put<Map>(own + q * kMap, gradient);
                    Adjoint::template put<Map>(stage + (warp_index() * kHeight + y - row + q) * kMap,
                                               adjoint.derive(a[q], gradient));
                    Adjoint::template put<Map>(own + (kRows + q) * kMap, a[q]);
                }
                warp_barrier();
                if (y + kRows < end) adjoint.pull.request_ahead(y + kRows, last(y + kRows));
                add_own();
            }
            request<kTurns>(raw, first_new(row));
            barrier();  // the stage is complete
            add(row);
            // The ring may have no room for rows that are still read.
            if constexpr (kNewest + 3 + kHeight > kStemRing) barrier();
            store<kTurns>(raw, first_new(row));
            barrier();  // the new image rows are there, and the stage is free
        }
    }

    // The first of the kHeight image rows that the step after `row` adds to the ring.
    static constexpr int kNewest = Features::next(0) + (kTurns - 1) * kRows;
    LR_DEVICE static int first_new(int row) { return row + kNewest; }
    // kTimes times kRows image rows.
    template <int kTimes>
    LR_DEVICE void request(typename Features::Raw (&raw)[kTurns], int row) {
        LR_UNROLL
        for (int i = 0; i < kTimes; ++i) adjoint.features.request(raw[i], row + i * kRows);
    }
    template <int kTimes>
    LR_DEVICE void store(typename Features::Raw (&raw)[kTurns], int row) {
        LR_UNROLL
        for (int i = 0; i < kTimes; ++i) adjoint.features.store(raw[i], row + i * kRows);
    }

    // dW1 and db1 of the warp's pixels.
    LR_DEVICE void add_own() {
        const int lane = phase_lane();
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            LR_UNROLL
            for (int h = 0; h < kHalves; ++h) {
                const auto dc = Map::load_pixels_a(own + q * kMap, 0, 16 * h, lane);
                F::multiply(db[h], dc, F::columns(lane / 16 == 1));
                LR_UNROLL
                for (int j = 0; j < kTiles; j += 2) {
                    typename F::B a[2];
                    Map::load_pixels_b(a, own + (kRows + q) * kMap, 0, 8 * j, lane);
                    F::multiply(dw1[h][j], dc, a[0]);
                    F::multiply(dw1[h][j + 1], dc, a[1]);
                }
            }
        }
    }

    // This warp's part of dW0 and db0, of the block's pixels in rows row ... row + kHeight - 1.
    LR_DEVICE void add(int row) {
        const int lane = phase_lane();
        LR_NO_UNROLL
        for (int w = 0; w < kStemWarps; ++w) {
            typename F::A da[kHeight];
            LR_UNROLL
            for (int q = 0; q < kHeight; ++q)
                da[q] = Map::load_pixels_a(stage + (w * kHeight + q) * kMap, 0, 16 * half(), lane);
            if (w / kHalves == warp_index() / kHalves) {
                LR_UNROLL
                for (int q = 0; q < kHeight; ++q) F::multiply(db[0], da[q], F::columns(lane / 16 == 0));
            }
            // An image row serves all rows of features that it is within three of.
            constexpr int kTogether = kShort ? 2 : 1;
            LR_UNROLL
            for (int r = 0; r < kHeight + 6; r += kTogether) {
                typename F::B x[2];
                load_taps(x, row - 3, r, w, lane);
                LR_UNROLL
                for (int q = 0; q < kHeight; ++q) {
                    LR_UNROLL
                    for (int i = 0; i < kTogether * kHalves; ++i) {
                        const int dy = r - q + (kShort ? i : 0);
                        if (dy >= 0 && dy <= 6) F::multiply(dw0[dy][kShort ? 0 : i], da[q], x[i]);
                    }
                }
            }
        }
    }

    // The terms are the 16 pixels of warp w in image row `first` + r. Column g of tile j is channel g % 4 of the pixel
    // 2j + g / 4 to the right. Two operands: of 16-bit elements and 16 filters, rows r and r + 1; otherwise the warp's
    // tiles.
    LR_DEVICE void load_taps(typename F::B (&x)[2], int first, int r, int w, int lane) const {
        const int column = kStemWarpColumns * w + 2 * first_tile();
        const auto pixel = [&](int row, int at) {
            return adjoint.features.ring +
                   (Features::ring_row(first + row) * adjoint.features.pitch + at) * Features::kPixel;
        };
        if constexpr (kIs16Bit<M>) {
            const int second = lane / 16, below = r + second < kHeight + 6 ? r + second : r;
            uint32_t m[4];
            load_matrices_transposed(
                m, kShort ? pixel(below, column + lane % 16) : pixel(r, column + lane % 16 + 2 * second));
            x[0] = {{m[0], m[1]}};
            x[1] = {{m[2], m[3]}};
        } else {
            LR_UNROLL
            for (int j = 0; j < kHalves; ++j)
                x[j] = PixelTerms<M>::gather(pixel(r, column) + 8 * j + lane / 4, Features::kPixel, lane);
        }
    }

    // The block's sums, warp after warp, in the order of the weights themselves.
    LR_DEVICE void finish(float* partial) {
        const int channels = p.format.channels, filters = p.weights.filters;
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const int elements = static_cast<int>(stem_gradient_elements(filters, channels));
        sum_warps(reinterpret_cast<float*>(dynamic_shared()), elements, partial, [&](float* sum0) {
            // sum0: [filters][channels][7][7]
            float* bias0 = sum0 + filters * channels * 49;  // [filters]
            float* sum1 = bias0 + filters;                  // [filters][filters]
            float* bias1 = sum1 + filters * filters;        // [filters]
            LR_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int row = g + i / 2 * 8, f0 = 16 * half() + row;
                LR_UNROLL
                for (int v = 0; v < 7 * kHalves; ++v) {
                    const int dy = v / kHalves, j = v % kHalves;
                    const int column = 8 * (first_tile() + j) + 2 * t + i % 2, dx = column / 4, c = column % 4;
                    if (f0 < filters && dx < 7 && c < channels)
                        sum0[((f0 * channels + c) * 7 + dy) * 7 + dx] += dw0[dy][j][i];
                }
                if (i % 2 == 0 && t == 0 && f0 < filters) bias0[f0] += db[0][i];
                LR_UNROLL
                for (int h = 0; h < kHalves; ++h) {
                    const int f = 16 * h + row;
                    if (f >= filters) continue;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        const int from = 8 * j + 2 * t + i % 2;
                        if (from < filters) sum1[f * filters + from] += dw1[h][j][i];
                    }
                    if (i % 2 == 0 && t == 2) bias1[f] += db[h][i];
                }
            }
        });
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(32 * kStemWarps, (StemWeightGradients<M, n>::kBlocks))
stem_weights_kernel(const StemBackwardParams p) {
    StemWeightGradients<M, n> gradients(p);
    for (int64_t item = block_index(); item < p.plan.items[0]; item += block_count()) gradients.run_item(item);
    gradients.finish(p.partials + block_index() * stem_gradient_elements(p.weights.filters, p.format.channels));
}

// Calls launch(kernel, StemBackwardInstance) with the instance for a block's `warps`; false if it does not exist.
template <class Launch>
bool with_stem_backward_kernel(int warps, StemGradient gradient, Arithmetic arithmetic, int filters, int channels,
                               const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        using Weights = StemWeightGradients<M, n>;
        using Image = StemImageGradient<M, n>;
        if (gradient == StemGradient::kWeights)
            launch(stem_weights_kernel<M, n>,
                   StemBackwardInstance{Weights::shared_bytes(filters, channels), Weights::kBlocks, Weights::kHeight});
        else
            launch(stem_image_kernel<M, n>, StemBackwardInstance{Image::shared_bytes(warps), Image::kBlocks, 1});
    });
}

}  // namespace learned_resizer
