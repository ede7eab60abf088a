// The last 7x7 convolution, to the C channels of the image, with its prologue, bias and image skip.
//
//   forward   v = lrelu(norm(t) [+ skip_norm(u)])
//             result = W * v + bias + base                        (7x7, zero padding of v)
//   adjoint   dW = sum dy * v,   dbias = sum dy,   dbase = dy (the caller's),   dv = W^T * dy
//             then the prologue's adjoint (prologue.cuh)
//
// C is 3 or so, and a matrix product has 8 columns and 16 rows to fill:
//
//   forward        a row of the product is a pair of neighbouring pixels, a column one of the pair's 2 C results. The
//                  sums run over 8 columns of taps instead of 7; a tap that a pixel does not have is zero.
//   adjoint, dv    4 taps of a row times the channels, padded to 4, are the 16 terms of a step.
//   adjoint, dW    the same 16 are the rows of a product whose terms are 16 pixels and whose columns are v's channels.
//
// The adjoint therefore reads v at its own pixels only and dy, which is narrow, with three pixels around.
#pragma once

#include "common/feature_map.cuh"
#include "common/pair_columns.cuh"
#include "common/prologue.cuh"
#include "head/head.h"

namespace learned_resizer {

template <Arithmetic M, int n>
struct HeadTraits {
    using Map = FeatureMap<M, n>;
    static constexpr int kStride = Map::kStride;
    static constexpr int kBytes = kStride * static_cast<int>(sizeof(typename Fragments<M>::S));
    static constexpr int kSteps = n / 16, kTiles = n / 8;
};

// A block's walk over the tiles, which both kernels share.
struct HeadTile {
    int64_t image;
    int top, left;

    LR_DEVICE HeadTile(const PrologueParams& p, int64_t tile, int rows) {
        const int64_t across = (p.width + kHeadColumns - 1) / kHeadColumns, down = (p.height + rows - 1) / rows;
        image = tile / (across * down);
        const int64_t within = tile - image * (across * down);
        top = static_cast<int>(within / across) * rows;
        left = static_cast<int>(within % across) * kHeadColumns;
    }
    LR_DEVICE static int64_t count(const PrologueParams& p, int rows) {
        return p.batch * ((p.height + rows - 1) / rows) * ((p.width + kHeadColumns - 1) / kHeadColumns);
    }
};

template <Arithmetic M>
LR_DEVICE float read_element(const HeadImage& image, int64_t at) {
    using F = Fragments<M>;
    if (kIs16Bit<M> && image.wide == 0) return F::decode(static_cast<const typename F::S*>(image.data)[at]);
    return static_cast<const float*>(image.data)[at];
}

template <Arithmetic M, int n>
struct HeadForward : HeadTraits<M, n> {
    using Traits = HeadTraits<M, n>;
    using F = Fragments<M>;
    using S = typename F::S;
    using Traits::kSteps;
    using Traits::kStride;
    using typename Traits::Map;
    static constexpr int kHeight = head_rows(HeadKernel::kForward, Traits::kBytes);
    static constexpr int kRows = kHeight / 8;        // rows of sums that a warp holds: each has one unit of a tile
    static constexpr int kPitch = kHeadColumns + 6;  // pixels of a row with those around
    static constexpr int kPairs = kPitch / 2;
    static constexpr int kPixels = kPitch * (kHeight + 6);
    static constexpr int kWeights = 7 * 8 * kSteps * 32 * 4;
    static constexpr int kChunk = Prologue<M, n>::kChunk, kChunks = Prologue<M, n>::kChunks;

    // Dynamic shared memory, in this order.
    Prologue<M, n> prologue;
    S* v;        // [kHeight + 6][kPitch][kStride]; a row's even columns before its odd ones
    S* weights;  // [7][8][kSteps][32 lanes][4]
    const HeadParams& p;

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        return (kPixels * kStride + kWeights) * static_cast<int>(sizeof(S)) + 3 * n * 4;
    }

    LR_DEVICE explicit HeadForward(const HeadParams& params)
        : prologue(params.prologue, reinterpret_cast<float*>(dynamic_shared())), p(params) {
        v = reinterpret_cast<S*>(prologue.affine + 3 * n);
        weights = v + kPixels * kStride;
        LR_NO_UNROLL
        for (int i = thread_index(); i < kWeights; i += thread_count()) {
            const int lane = i / 4 % 32, step = i / 128 % kSteps, tap = i / (128 * kSteps);
            const int channel = 16 * step + Map::term(lane % 4, i % 4);
            weights[i] =
                F::encode(pair_weight(p.weight, p.channels, p.prologue.filters, lane / 4, channel, tap / 8, tap % 8));
        }
    }

    LR_DEVICE static int place(int x) { return x / 2 + x % 2 * kPairs; }

    // v of the tile with three pixels around; zero outside the image.
    LR_DEVICE void load(const HeadTile& tile) {
        // The threads are a multiple of a pixel's chunks: a thread always has the same channels.
        const int c = thread_index() % kChunks * kChunk;
        LR_NO_UNROLL
        for (int i = thread_index(); i < kPixels * kChunks; i += thread_count()) {
            const int pixel = i / kChunks, y = pixel / kPitch, x = pixel - y * kPitch;
            const int64_t row = int64_t{tile.top} - 3 + y, column = int64_t{tile.left} - 3 + x;
            float value[kChunk] = {};
            if (row >= 0 && row < p.prologue.height && column >= 0 && column < p.prologue.width)
                prologue.value(value, prologue.offset(tile.image, row, column), c);
            Prologue<M, n>::store_chunk(v + y * kPitch * kStride + Map::place(place(x), c), value);
        }
    }

    LR_DEVICE void convolve(const HeadTile& tile) const {
        const int lane = lane_index();
        const S* first = v + warp_index() * kRows * kPitch * kStride;
        float sum[kRows][4] = {};
        LR_NO_UNROLL
        for (int dx = 0; dx < 8; ++dx) {
            LR_NO_UNROLL
            for (int s = 0; s < kSteps; ++s) {
                typename F::A a[kRows + 6];
                const auto at = Map::reader(16 * s, [&](int r) { return place(dx) + r; });
                LR_UNROLL
                for (int r = 0; r < kRows + 6; ++r) a[r] = Map::load(first + r * kPitch * kStride, at);
                LR_UNROLL
                for (int dy = 0; dy < 7; ++dy) {
                    const auto b = F::load_b(weights + (((dy * 8 + dx) * kSteps + s) * 32 + lane) * 4);
                    LR_UNROLL
                    for (int q = 0; q < kRows; ++q) F::multiply(sum[q], a[q + dy], b);
                }
            }
        }
        store(tile, sum);
    }
    LR_DEVICE void store(const HeadTile& tile, const float (&sum)[kRows][4]) const {
        const int g = lane_index() / 4, y = warp_index() * kRows;
        const PairColumns columns(p.channels);
        int64_t from[2], to[2];
        float bias[2];
        LR_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int c = columns.channel[i];
            bias[i] = load_parameter(p.bias, c);
            from[i] = tile.image * p.base.stride[0] + c * p.base.stride[1];
            to[i] = tile.image * p.result_stride[0] + c * p.result_stride[1];
        }
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            const int64_t at_y = int64_t{tile.top} + y + q;
            if (at_y >= p.prologue.height) break;
            LR_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int64_t at_x = int64_t{tile.left} + 2 * (g + i / 2 * 8) + columns.pixel[i % 2];
                if (!columns.exists[i % 2] || at_x >= p.prologue.width) continue;
                const int64_t at = to[i % 2] + at_y * p.result_stride[2] + at_x * p.result_stride[3];
                const float result =
                    sum[q][i] + bias[i % 2] +
                    read_element<M>(p.base, from[i % 2] + at_y * p.base.stride[2] + at_x * p.base.stride[3]);
                if (kIs16Bit<M> && p.base.wide == 0)
                    static_cast<S*>(p.result)[at] = F::encode(result);
                else
                    static_cast<float*>(p.result)[at] = result;
            }
        }
    }
};

template <Arithmetic M, int n>
LR_KERNEL(kHeadThreads)
head_kernel(const HeadParams p) {
    using H = HeadForward<M, n>;
    H head(p);
    barrier();  // the vectors are there
    for (int64_t i = block_index(); i < HeadTile::count(p.prologue, H::kHeight); i += block_count()) {
        const HeadTile tile(p.prologue, i, H::kHeight);
        head.load(tile);
        barrier();  // v is there
        head.convolve(tile);
        barrier();  // and free again
    }
}

}  // namespace learned_resizer
