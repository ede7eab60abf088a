// The adjoint of the 3x3 convolution:
//
//   g  = draw + dmean / M + 2 (raw - mean) / M dvar,   dW = sum g * v,   dv = W^T * g
//   then the prologue's adjoint (prologue.cuh)
//
// A block loads v and g with a pixel around and makes dv and dW from the same tiles. dW is complete when the block has
// done all of its tiles; where two blocks are to fit a multiprocessor, it waits in shared memory between them, else in
// registers. One row of partial results per block, added in a fixed order: bitwise reproducible for a given number of
// blocks.
#pragma once

#include "conv/conv.cuh"

namespace learned_resizer {

template <Arithmetic M, int n>
struct ConvBackward : ConvTraits<M, n, ConvKernel::kBackward> {
    using Traits = ConvTraits<M, n, ConvKernel::kBackward>;
    using Product = typename Traits::Product;
    using Traits::kHeight;
    using Traits::kPitch;
    using Traits::kRows;
    using Traits::kStride;
    using typename Traits::F;
    using typename Traits::Map;
    using typename Traits::S;
    static constexpr int kLane = Product::kLane;
    // Neighbouring warps share pixels: each has the products of 16 filters by 8 channels, for which there are
    // registers.
    static constexpr int kFilterParts = n / 16, kChannelParts = n / 8, kShare = kFilterParts * kChannelParts;
    // Where two blocks fit a multiprocessor, dW waits in shared memory while other phases need the registers.
    static constexpr bool kKept = Traits::kResident == 2;
    static constexpr int kTogether = M == Arithmetic::kFloat32 ? 1 : 3;  // TileLoader's
    using Grad = float[9][4];

    // Dynamic shared memory, in this order.
    float* statistics;  // [3][n]: g as a source: 1, its constant, its factor of raw
    Prologue<M, n> prologue;
    S* v;         // [kHeight + 2][kPitch][kStride]
    S* g;         // the same
    S* weights;   // as in Convolve3
    float* kept;  // [8 warps][9][32 lanes][4], if kKept

    const ConvParams& p;
    Grad dw = {};
    float sums[kPrologueSums][kLane] = {};  // of g' t, of g', of g' u

    LR_DEVICE int filters() const { return p.prologue.filters; }
    LR_DEVICE int elements() const { return (filters() * 9 + kPrologueSums) * filters(); }

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        constexpr int working = (2 * Traits::kMap + Product::kWeights) * static_cast<int>(sizeof(S)) + 6 * n * 4 +
                                (kKept ? kConvThreads * 9 * 16 : 0);
        // At the end the same memory holds the block's sums.
        constexpr int last = 4 * (n * n * 9 + kPrologueSums * n);
        return working > last ? working : last;
    }

    LR_DEVICE explicit ConvBackward(const ConvParams& params)
        : statistics(reinterpret_cast<float*>(dynamic_shared())),
          prologue(params.prologue, statistics + 3 * n),
          p(params) {
        v = reinterpret_cast<S*>(prologue.affine + 3 * n);
        g = v + Traits::kMap;
        weights = g + Traits::kMap;
        kept = reinterpret_cast<float*>(weights + Product::kWeights) + warp_index() * 9 * 128 + lane_index() * 4;
        if constexpr (kKept) keep();
        for (int c = thread_index(); c < n; c += thread_count()) {
            StatisticsGradient of(0.0f, 0.0f, 0.0f, 1);
            if (p.mean != nullptr && c < filters())
                of = StatisticsGradient(p.mean[c], p.grad_mean[c], p.grad_var[c], p.count);
            statistics[c] = 1.0f;
            statistics[n + c] = of.constant;
            statistics[2 * n + c] = of.factor;
        }
        Product::load_weights(weights, p.weight, filters(), true);
    }

    LR_DEVICE void load(const MapTile& tile) const {
        const TileSource grad{p.grad_raw, p.mean == nullptr ? nullptr : p.raw, statistics, 1.0f};
        const auto load = [&](S* to, const TileSource& source) {
            TileLoader<M, n>::template load<kHeight + 2, kPitch, kTogether>(to, source, p.prologue, tile, 1,
                                                                            Traits::place);
        };
        load(v, prologue.source());
        load(g, grad);
    }

    // dt, du and the sums of the prologue's adjoint.
    LR_DEVICE void data(const MapTile& tile) {
        constexpr int kBatch = kIs16Bit<M> ? 2 : 1;  // pixels whose reads are on their way together
        const int column = lane_index() / 4, c = lane_index() % 4 * kLane;
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < Traits::kUnits; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            float sum[kRows][Product::kTiles][4] = {};
            Product::multiply(sum, g, kPitch, y, x, weights);
            const int top = tile.top + y, left = tile.left + x + column;
            const int64_t first = tile.pixel(p.prologue, tile.top, tile.left) * n;
            LR_UNROLL
            for (int from = 0; from < 2 * kRows; from += kBatch) {
                typename Prologue<M, n>::Reads reads[kBatch];
                bool valid[kBatch];
                int at[kBatch];
                LR_UNROLL
                for (int k = 0; k < kBatch; ++k) {
                    const int r = from + k;
                    valid[k] = top + r / 2 < height && left + r % 2 * 8 < width;
                    at[k] = (valid[k] ? ((y + r / 2) * width + x + column + r % 2 * 8) * n : 0) + c;
                    prologue.request_adjoint(reads[k], first, at[k]);
                }
                LR_UNROLL
                for (int k = 0; k < kBatch; ++k) {
                    const int r = from + k;
                    if (!valid[k]) continue;
                    float dv[kLane];
                    LR_UNROLL
                    for (int i = 0; i < kLane; ++i) dv[i] = sum[r / 2][i / 2][r % 2 * 2 + i % 2];
                    prologue.adjoint(reads[k], dv, v + Traits::place(y + r / 2 + 1, x + column + r % 2 * 8 + 1, c), c,
                                     first, at[k], sums);
                }
            }
        }
    }

    LR_DEVICE static int filter_part() { return warp_index() % kFilterParts; }
    LR_DEVICE static int channel_part() { return warp_index() / kFilterParts % kChannelParts; }

    LR_DEVICE void keep() {
        LR_UNROLL
        for (int tap = 0; tap < 9; ++tap)
            *reinterpret_cast<Quad<float>*>(kept + 128 * tap) =
                Quad<float>{{dw[tap][0], dw[tap][1], dw[tap][2], dw[tap][3]}};
    }
    LR_DEVICE void take() {
        LR_UNROLL
        for (int tap = 0; tap < 9; ++tap) {
            const auto sum = *reinterpret_cast<const Quad<float>*>(kept + 128 * tap);
            LR_UNROLL
            for (int i = 0; i < 4; ++i) dw[tap][i] = sum.v[i];
        }
    }

    LR_DEVICE void weight_products() {
        if constexpr (kKept) take();
        constexpr int kDown = kIs16Bit<M> ? 4 : 1;  // rows of g at a time: each row of v serves three of them
        LR_NO_UNROLL
        for (int unit = warp_index() / kShare; unit < kConvColumns / 16 * (kHeight / kDown);
             unit += warp_count() / kShare) {
            const int x = unit % 2 * 16, y = unit / 2 * kDown;
            typename F::A a[kDown];
            LR_UNROLL
            for (int q = 0; q < kDown; ++q)
                a[q] = Map::load_pixels_a(g + (y + q + 1) * kPitch * kStride, x + 1, 16 * filter_part());
            LR_UNROLL
            for (int r = 0; r < kDown + 2; ++r) {
                LR_UNROLL
                for (int dx = 0; dx < 3; ++dx) {
                    const auto b = Map::load_pixels_b(v + (y + r) * kPitch * kStride, x + dx, 8 * channel_part());
                    LR_UNROLL
                    for (int q = 0; q < kDown; ++q) {
                        const int dy = r - q;
                        if (dy < 0 || dy > 2) continue;
                        F::multiply(dw[3 * dy + dx], a[q], b);
                    }
                }
            }
        }
        if constexpr (kKept) keep();
    }

    // The block's sums, warp after warp.
    LR_DEVICE void finish(float* partial) {
        const int lane = lane_index(), row = lane / 4, t = lane % 4;
        Prologue<M, n>::reduce(sums);
        if constexpr (kKept) take();
        // [filters][filters][9], then [3][filters]
        sum_warps(reinterpret_cast<float*>(dynamic_shared()), elements(), partial, [&](float* total) {
            LR_UNROLL
            for (int tap = 0; tap < 9; ++tap) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int filter = 16 * filter_part() + row + i / 2 * 8;
                    const int channel = 8 * channel_part() + 2 * t + i % 2;
                    if (filter < filters() && channel < filters())
                        total[(filter * filters() + channel) * 9 + tap] += dw[tap][i];
                }
            }
            prologue.add(sums, total + filters() * filters() * 9);
        });
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(kConvThreads, (ConvTraits<M, n, ConvKernel::kBackward>::kResident))
conv_backward_kernel(const ConvParams p) {
    using C = ConvBackward<M, n>;
    C conv(p);
    barrier();  // the vectors are there
    for (uint32_t i = MapTile::first(); i < p.tiles; i += MapTile::stride()) {
        const MapTile tile(p.prologue, i, C::kHeight, kConvColumns);
        conv.load(tile);
        barrier();  // v and g are there
        conv.data(tile);
        conv.weight_products();
        barrier();  // and free again
    }
    conv.finish(p.partials + block_index() * conv.elements());
}

// Calls launch(kernel, shared_bytes, rows of a tile) with the instance; false if it does not exist.
template <class Launch>
bool with_conv_kernel(ConvKernel kernel, Arithmetic arithmetic, int filters, const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        if (kernel == ConvKernel::kForward)
            launch(conv_kernel<M, n>, Conv<M, n>::shared_bytes(), Conv<M, n>::kHeight);
        else
            launch(conv_backward_kernel<M, n>, ConvBackward<M, n>::shared_bytes(), ConvBackward<M, n>::kHeight);
    });
}

}  // namespace learned_resizer
