// The 3x3 convolution before a batch normalisation, with its prologue and the statistics of its result.
//
//   forward   v = lrelu(norm(t) [+ skip_norm(u)]),   raw = W * v  (zero padding of v)
//             mean and var of raw over its M pixels
//   adjoint   conv_backward.cuh
//
// A block takes tiles of 32 columns. The prologue is applied once per pixel, on its way into shared memory (tile.cuh),
// where nine taps then read it (convolve.cuh).
#pragma once

#include "common/dispatch.h"
#include "common/prologue.cuh"
#include "common/statistics.cuh"
#include "conv/conv.h"

namespace learned_resizer {

template <Arithmetic M, int n, ConvKernel K>
struct ConvTraits {
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    using Product = Convolve3<M, n>;
    static constexpr int kStride = Map::kStride;
    static constexpr int kHeight = conv_rows(K, kStride* static_cast<int>(sizeof(S)));
    static constexpr int kPitch = kConvColumns + 2;  // pixels of a row with those around
    static constexpr int kMap = (kHeight + 2) * kPitch * kStride;
    // Rows of sums that a warp holds; two where registers are short.
    static constexpr int kRows = kIs16Bit<M> || n == 16 ? 4 : 2;
    static constexpr int kUnits = kConvColumns / 16 * (kHeight / kRows);
    // Two blocks per multiprocessor where the registers allow it.
    static constexpr int kResident = kIs16Bit<M> && n == 16 ? 2 : 1;

    LR_DEVICE static int place(int y, int x, int c) { return y * kPitch * kStride + Map::place(x, c); }
};

template <Arithmetic M, int n>
struct Conv : ConvTraits<M, n, ConvKernel::kForward> {
    using Traits = ConvTraits<M, n, ConvKernel::kForward>;
    using Product = typename Traits::Product;
    using Traits::kHeight;
    using Traits::kRows;
    using typename Traits::F;
    using typename Traits::S;
    static constexpr int kLane = Product::kLane;

    // Dynamic shared memory, in this order.
    Prologue<M, n> prologue;
    S* v;        // [kHeight + 2][kPitch][kStride]
    S* weights;  // as in Convolve3

    const ConvParams& p;

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        constexpr int working = (Traits::kMap + Product::kWeights) * static_cast<int>(sizeof(S)) + 3 * n * 4;
        // At the end the same memory holds the warps' moments.
        constexpr int last = 4 * kConvThreads / 32 * 3 * n;
        return working > last ? working : last;
    }

    LR_DEVICE explicit Conv(const ConvParams& params)
        : prologue(params.prologue, reinterpret_cast<float*>(dynamic_shared())), p(params) {
        v = reinterpret_cast<S*>(prologue.affine + 3 * n);
        weights = v + Traits::kMap;
        Product::load_weights(weights, p.weight, p.prologue.filters);
    }

    LR_DEVICE void load(const MapTile& tile) const {
        TileLoader<M, n>::template load<kHeight + 2, Traits::kPitch, 5>(v, prologue.source(), p.prologue, tile, 1,
                                                                        Traits::place);
    }

    // The value as stored. Unlike F::rounded it keeps float32 for tf32, which only products round.
    LR_DEVICE static float stored(float x) {
        if constexpr (kIs16Bit<M>) return F::rounded(x);
        return x;
    }

    LR_DEVICE void convolve(const MapTile& tile, LaneMoments<kLane>& moments) const {
        const int column = lane_index() / 4, c = lane_index() % 4 * kLane;
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < Traits::kUnits; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            float sum[kRows][Product::kTiles][4] = {};
            Product::multiply(sum, v, Traits::kPitch, y, x, weights);
            const int top = tile.top + y, left = tile.left + x + column;
            S* raw = static_cast<S*>(p.raw) + tile.pixel(p.prologue, top, left) * n + c;
            float value[2 * kRows][kLane];
            bool valid[2 * kRows];
            LR_UNROLL
            for (int r = 0; r < 2 * kRows; ++r) {
                valid[r] = top + r / 2 < height && left + r % 2 * 8 < width;
                LR_UNROLL
                for (int i = 0; i < kLane; ++i) value[r][i] = stored(sum[r / 2][i / 2][r % 2 * 2 + i % 2]);
                if (valid[r]) prologue.store(raw + (r / 2 * width + r % 2 * 8) * n, value[r]);
            }
            if (p.moments != nullptr) moments.template add<2 * kRows>(valid, [&](int r, int i) { return value[r][i]; });
        }
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(kConvThreads, (ConvTraits<M, n, ConvKernel::kForward>::kResident))
conv_kernel(const ConvParams p) {
    using C = Conv<M, n>;
    const C conv(p);
    LaneMoments<C::kLane> moments;
    barrier();  // the vectors are there
    for (uint32_t i = MapTile::first(); i < p.tiles; i += MapTile::stride()) {
        const MapTile tile(p.prologue, i, C::kHeight, kConvColumns);
        conv.load(tile);
        barrier();  // v is there
        conv.convolve(tile, moments);
        barrier();  // and free again
    }
    if (p.moments != nullptr)
        store_moments(moments, reinterpret_cast<float*>(dynamic_shared()),
                      p.moments + block_index() * 3 * p.prologue.filters, p.prologue.filters,
                      [](int t, int i) { return C::kLane * t + i; });
}

}  // namespace learned_resizer
