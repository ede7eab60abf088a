// The 3x3 convolution before a batch normalisation, with its prologue and the statistics of its result.
//
//   forward   v = lrelu(norm(t) [+ skip_norm(u)]),   raw = W * v  (zero padding of v)
//             mean and var of raw over its M pixels
//   adjoint   g  = draw + dmean / M + 2 (raw - mean) / M dvar,   dW = sum g * v,   dv = W^T * g
//             then the prologue's adjoint (prologue.cuh)
//
// A block takes tiles of 32 columns. The prologue is applied once per pixel, on its way into shared memory, where
// nine taps then read it. A warp takes 16 pixels of a row and four rows below one another (two where registers are
// short), so that a fragment of v's row serves three of the four sums and a fragment of the weights all four. The
// adjoint loads v and g with a pixel around and makes dv and dW from the same tiles; dW stays in registers until the
// block has done all of its tiles. One row of partial results per block, added in a fixed order: bitwise reproducible
// for a given number of blocks.
#pragma once

#include "common/dispatch.h"
#include "common/feature_map.cuh"
#include "common/prologue.cuh"
#include "common/statistics.cuh"
#include "conv/conv.h"

namespace learned_resizer {

template <Arithmetic M, int n, ConvKernel K>
struct Conv {
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    static constexpr int kTiles = n / 8, kSteps = n / 16;
    static constexpr int kStride = Map::kStride;
    static constexpr int kHeight = conv_rows(K, kStride* static_cast<int>(sizeof(S)));
    static constexpr int kRows = kIs16Bit<M> || n == 16 ? 4 : 2;  // rows of sums that a warp holds
    static constexpr int kPitch = kConvColumns + 2;               // pixels of a row with those around
    static constexpr int kPixels = kPitch * (kHeight + 2);
    static constexpr int kWeights = 9 * kSteps * 32 * kTiles * 4;
    static constexpr int kChunk = Prologue<M, n>::kChunk, kChunks = Prologue<M, n>::kChunks;
    static constexpr int kUnits = kConvColumns / 16 * (kHeight / kRows);

    // Dynamic shared memory, in this order; the prologue's vectors are second.
    float* statistics;  // [2][n]: adjoint: g's constant, and its factor of raw
    Prologue<M, n> prologue;
    S* v;        // [kHeight + 2][kPitch][kStride]
    S* g;        // adjoint only: the same
    S* weights;  // [9][kSteps][32 lanes][kTiles][4]

    const ConvParams& p;
    int64_t image;
    int top, left;

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        constexpr int maps = K == ConvKernel::kForward ? 1 : 2;
        constexpr int working = (maps * kPixels * kStride + kWeights) * static_cast<int>(sizeof(S)) + 5 * n * 4;
        // At the end the same memory holds the block's moments or sums.
        constexpr int last = 4 * (K == ConvKernel::kForward ? 8 * 3 * n : n * n * 9 + kPrologueSums * n);
        return working > last ? working : last;
    }

    LR_DEVICE int filters() const { return p.prologue.filters; }
    LR_DEVICE int elements() const { return (filters() * 9 + kPrologueSums) * filters(); }

    LR_DEVICE explicit Conv(const ConvParams& params)
        : statistics(reinterpret_cast<float*>(dynamic_shared())),
          prologue(params.prologue, statistics + 2 * n),
          p(params) {
        v = reinterpret_cast<S*>(statistics + 5 * n);
        g = v + kPixels * kStride;
        weights = K == ConvKernel::kForward ? g : g + kPixels * kStride;
        const float pixels = static_cast<float>(p.count);
        for (int c = thread_index(); c < n; c += thread_count()) {
            float common = 0.0f, each = 0.0f;
            if (K == ConvKernel::kBackward && p.mean != nullptr && c < filters()) {
                each = 2.0f * p.grad_var[c] / pixels;
                common = p.grad_mean[c] / pixels - p.mean[c] * each;
            }
            statistics[c] = common;
            statistics[n + c] = each;
        }
        LR_NO_UNROLL
        for (int i = thread_index(); i < kWeights; i += thread_count()) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles) % kSteps;
            const int tap = i / (128 * kTiles * kSteps);
            const int term = 16 * step + Map::term(lane % 4, i % 4), column = 8 * tile + lane / 4;
            // Adjoint: the sum runs over filters, and the taps in the other direction.
            float w = 0.0f;
            if (term < filters() && column < filters())
                w = K == ConvKernel::kForward ? load_weight(p.weight, column, term, tap / 3, tap % 3)
                                              : load_weight(p.weight, term, column, 2 - tap / 3, 2 - tap % 3);
            weights[i] = F::encode(w);
        }
    }

    LR_DEVICE int64_t offset(int64_t y, int64_t x) const { return prologue.offset(image, y, x); }
    LR_DEVICE static float element(const uint32_t* words, int i) { return Prologue<M, n>::element(words, i); }

    LR_DEVICE void locate(int64_t tile) {
        const int64_t across = (p.prologue.width + kConvColumns - 1) / kConvColumns,
                      down = (p.prologue.height + kHeight - 1) / kHeight;
        image = tile / (across * down);
        const int64_t within = tile - image * (across * down);
        top = static_cast<int>(within / across) * kHeight;
        left = static_cast<int>(within % across) * kConvColumns;
    }

    // v, and g in the adjoint, with a pixel around; zero outside the image.
    LR_DEVICE void load() {
        // The threads are a multiple of a pixel's chunks: a thread always has the same channels.
        const int c = thread_index() % kChunks * kChunk;
        LR_NO_UNROLL
        for (int i = thread_index(); i < kPixels * kChunks; i += thread_count()) {
            const int pixel = i / kChunks, y = pixel / kPitch, x = pixel - y * kPitch;
            const int64_t row = int64_t{top} - 1 + y, column = int64_t{left} - 1 + x;
            const bool inside = row >= 0 && row < p.prologue.height && column >= 0 && column < p.prologue.width;
            float value[kChunk] = {};
            if (inside) prologue.value(value, offset(row, column), c);
            Prologue<M, n>::store_chunk(v + y * kPitch * kStride + Map::place(x, c), value);
            if constexpr (K == ConvKernel::kBackward) {
                float grad[kChunk] = {};
                if (inside) {
                    const auto d = Prologue<M, n>::load_chunk(p.grad_raw, offset(row, column) + c);
                    LR_UNROLL
                    for (int j = 0; j < kChunk; ++j) grad[j] = element(d.word, j);
                    if (p.mean != nullptr) {
                        const auto r = Prologue<M, n>::load_chunk(p.raw, offset(row, column) + c);
                        LR_UNROLL
                        for (int j = 0; j < kChunk; ++j)
                            grad[j] += fused_multiply_add(statistics[n + c + j], element(r.word, j), statistics[c + j]);
                    }
                }
                Prologue<M, n>::store_chunk(g + y * kPitch * kStride + Map::place(x, c), grad);
            }
        }
    }

    // The 3x3 sums of `map` at rows y ... y + 3 and columns x ... x + 15 of the tile.
    LR_DEVICE void convolve(float (&sum)[kRows][kTiles][4], const S* map, int y, int x) const {
        const int lane = lane_index();
        const S* first = map + y * kPitch * kStride;
        constexpr int kUnroll = kSteps == 1 && kIs16Bit<M> ? 3 : 1;
        (void)kUnroll;
        LR_UNROLL_BY(kUnroll)
        for (int dx = 0; dx < 3; ++dx) {
            LR_UNROLL_BY(kUnroll)
            for (int s = 0; s < kSteps; ++s) {
                typename F::A a[kRows + 2];
                const auto at = Map::reader(16 * s, [&](int r) { return x + dx + r; });
                LR_UNROLL
                for (int r = 0; r < kRows + 2; ++r) a[r] = Map::load(first + r * kPitch * kStride, at);
                LR_UNROLL
                for (int dy = 0; dy < 3; ++dy) {
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        const auto b =
                            F::load_b(weights + ((((dy * 3 + dx) * kSteps + s) * 32 + lane) * kTiles + j) * 4);
                        LR_UNROLL
                        for (int q = 0; q < kRows; ++q) F::multiply(sum[q][j], a[q + dy], b);
                    }
                }
            }
        }
    }

    // The value as stored. Unlike F::rounded it keeps float32 for tf32, which only products round.
    LR_DEVICE static float stored(float x) {
        if constexpr (kIs16Bit<M>) return F::rounded(x);
        return x;
    }

    LR_DEVICE void forward(LaneMoments<n / 4>& moments) {
        const int row = lane_index() / 4, t = lane_index() % 4;
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < kUnits; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            float sum[kRows][kTiles][4] = {};
            convolve(sum, v, y, x);
            bool valid[2 * kRows];
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const int64_t at_y = int64_t{top} + y + q, at_x = int64_t{left} + x + row + 8 * h;
                    valid[2 * q + h] = at_y < p.prologue.height && at_x < p.prologue.width;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        float& low = sum[q][j][2 * h];
                        float& high = sum[q][j][2 * h + 1];
                        low = stored(low), high = stored(high);
                        if (valid[2 * q + h])
                            Prologue<M, n>::store_two(p.raw, offset(at_y, at_x) + 8 * j + 2 * t, low, high);
                    }
                }
            }
            if (p.moments != nullptr)
                moments.template add<2 * kRows>(valid,
                                                [&](int r, int i) { return sum[r / 2][i / 2][2 * (r % 2) + i % 2]; });
        }
    }

    // dt, du and the sums of the prologue's adjoint: of g' t, of g', of g' u.
    LR_DEVICE void backward_data(float (&sums)[3][kTiles][2]) {
        // A tile's corner is an int. float32 is short of registers: with 16 filters 32 bits compile without a spill on
        // every architecture, with 32 filters 64 bits do.
        using Position = std::conditional_t<M == Arithmetic::kFloat32 && n == 16, int, int64_t>;
        const int row = lane_index() / 4;
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < kUnits; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            float sum[kRows][kTiles][4] = {};
            convolve(sum, g, y, x);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const Position at_y = Position{top} + y + q, at_x = Position{left} + x + row + 8 * h;
                    if (at_y >= static_cast<Position>(p.prologue.height) ||
                        at_x >= static_cast<Position>(p.prologue.width))
                        continue;
                    const int column = x + row + 8 * h + 1;
                    const S* value = v + (y + q + 1) * kPitch * kStride;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j)
                        prologue.adjoint(j, {sum[q][j][2 * h], sum[q][j][2 * h + 1]},
                                         value + Map::place(column, 8 * j + lane_index() % 4 * 2), offset(at_y, at_x),
                                         sums);
                }
            }
        }
    }

    // 32 filters: four neighbouring warps share a row of pixels, and each has a quarter of the products.
    static constexpr int kShare = kSteps * kSteps;
    LR_DEVICE static int filter_half() { return kShare == 1 ? 0 : warp_index() % 2; }
    LR_DEVICE static int channel_half() { return kShare == 1 ? 0 : warp_index() / 2 % 2; }

    LR_DEVICE void backward_weights(float (&dw)[9][2][4]) const {
        LR_NO_UNROLL
        for (int unit = warp_index() / kShare; unit < kConvColumns / 16 * kHeight; unit += warp_count() / kShare) {
            const int x = unit % 2 * 16, y = unit / 2;
            const auto a = Map::load_pixels_a(g + (y + 1) * kPitch * kStride, x + 1, 16 * filter_half());
            LR_UNROLL
            for (int tap = 0; tap < 9; ++tap) {
                typename F::B b[2];
                Map::load_pixels_b(b, v + (y + tap / 3) * kPitch * kStride, x + tap % 3, 16 * channel_half());
                F::multiply(dw[tap][0], a, b[0]);
                F::multiply(dw[tap][1], a, b[1]);
            }
        }
    }

    // The block's sums, warp after warp.
    LR_DEVICE void finish(const float (&dw)[9][2][4], float (&sums)[3][kTiles][2], float* partial) {
        const int lane = lane_index(), row = lane / 4, t = lane % 4;
        float* total = reinterpret_cast<float*>(dynamic_shared());  // [filters][filters][9], then [3][filters]
        const int count = elements();
        Prologue<M, n>::reduce(sums);
        barrier();
        for (int i = thread_index(); i < count; i += thread_count()) total[i] = 0.0f;
        barrier();
        LR_NO_UNROLL
        for (int w = 0; w < warp_count(); ++w) {
            if (w == warp_index()) {
                LR_UNROLL
                for (int tap = 0; tap < 9; ++tap) {
                    LR_UNROLL
                    for (int j = 0; j < 2; ++j) {
                        LR_UNROLL
                        for (int i = 0; i < 4; ++i) {
                            const int filter = 16 * filter_half() + row + i / 2 * 8;
                            const int channel = 16 * channel_half() + 8 * j + 2 * t + i % 2;
                            if (filter < filters() && channel < filters())
                                total[(filter * filters() + channel) * 9 + tap] += dw[tap][j][i];
                        }
                    }
                }
                prologue.add(sums, total + filters() * filters() * 9);
            }
            barrier();
        }
        for (int i = thread_index(); i < count; i += thread_count()) partial[i] = total[i];
    }

    LR_DEVICE int64_t tiles() const {
        return p.prologue.batch * ((p.prologue.height + kHeight - 1) / kHeight) *
               ((p.prologue.width + kConvColumns - 1) / kConvColumns);
    }
};

template <Arithmetic M, int n>
LR_KERNEL(kConvThreads)
conv_kernel(const ConvParams p) {
    Conv<M, n, ConvKernel::kForward> conv(p);
    LaneMoments<n / 4> moments;
    barrier();  // the vectors are there
    for (int64_t tile = block_index(); tile < conv.tiles(); tile += block_count()) {
        conv.locate(tile);
        conv.load();
        barrier();  // v is there
        conv.forward(moments);
        barrier();  // and free again
    }
    if (p.moments != nullptr)
        store_moments(moments, reinterpret_cast<float*>(dynamic_shared()),
                      p.moments + block_index() * 3 * conv.filters(), conv.filters());
}

template <Arithmetic M, int n>
LR_KERNEL(kConvThreads)
conv_backward_kernel(const ConvParams p) {
    using C = Conv<M, n, ConvKernel::kBackward>;
    C conv(p);
    float dw[9][2][4] = {}, sums[3][n / 8][2] = {};
    barrier();  // the vectors are there
    for (int64_t tile = block_index(); tile < conv.tiles(); tile += block_count()) {
        conv.locate(tile);
        conv.load();
        barrier();  // v and g are there
        conv.backward_data(sums);
        conv.backward_weights(dw);
        barrier();  // and free again
    }
    conv.finish(dw, sums, p.partials + block_index() * conv.elements());
}

// Calls launch(kernel, shared_bytes, rows of a tile) with the instance; false if it does not exist.
template <class Launch>
bool with_conv_kernel(ConvKernel kernel, Arithmetic arithmetic, int filters, const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        using Forward = Conv<M, n, ConvKernel::kForward>;
        using Backward = Conv<M, n, ConvKernel::kBackward>;
        if (kernel == ConvKernel::kForward)
            launch(conv_kernel<M, n>, Forward::shared_bytes(), Forward::kHeight);
        else
            launch(conv_backward_kernel<M, n>, Backward::shared_bytes(), Backward::kHeight);
    });
}

}  // namespace learned_resizer
