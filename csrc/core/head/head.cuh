// The last 7x7 convolution, to the C channels of the image, with its prologue, bias and image skip.
//
//   forward   v = lrelu(norm(t) [+ skip_norm(u)])
//             result = W * v + bias + base                        (7x7, zero padding of v)
//   adjoint   head_backward.cuh
//
// A block takes tiles of 32 columns; each warp makes some of their rows.
#pragma once

#include "common/prologue.cuh"
#include "common/to_image.cuh"
#include "head/head.h"

namespace learned_resizer {

template <Arithmetic M, int n, HeadKernel K>
struct HeadTraits {
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    static constexpr int kStride = Map::kStride;
    static constexpr int kHeight = head_rows(K, kStride* static_cast<int>(sizeof(S)));
    // Two blocks per multiprocessor where the registers allow it.
    static constexpr int kResident = kIs16Bit<M> && n == 16 ? 2 : 1;
};

template <Arithmetic M, int n>
struct HeadForward : HeadTraits<M, n, HeadKernel::kForward> {
    using Traits = HeadTraits<M, n, HeadKernel::kForward>;
    using Product = Convolve7<M, n>;
    using Traits::kHeight;
    using typename Traits::Map;
    using typename Traits::S;
    static constexpr int kRows = kHeight / 8;        // rows of sums that a warp holds: each has one unit of a tile
    static constexpr int kWidth = kHeadColumns + 6;  // pixels of a row with those around
    static constexpr int kPitch = Product::pitch(kWidth) * Traits::kStride;

    // Dynamic shared memory, in this order.
    Prologue<M, n> prologue;
    float* bias;  // [4]
    S* v;         // [kHeight + 6][kPitch], columns as Convolve7 places them
    S* weights;   // as in Convolve7
    const HeadParams& p;

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        return ((kHeight + 6) * kPitch + Product::kWeights) * static_cast<int>(sizeof(S)) + (3 * n + 4) * 4;
    }

    LR_DEVICE explicit HeadForward(const HeadParams& params)
        : prologue(params.prologue, reinterpret_cast<float*>(dynamic_shared())), p(params) {
        bias = prologue.affine + 3 * n;
        v = reinterpret_cast<S*>(bias + 4);
        weights = v + (kHeight + 6) * kPitch;
        Product::load_weights(weights, p.weight, p.channels, p.prologue.filters);
        if (const int c = thread_index(); c < p.channels) bias[c] = load_parameter(p.bias, c);
    }

    LR_DEVICE void load(const MapTile& tile) const {
        TileLoader<M, n>::template load<kHeight + 6, kWidth, 5>(
            v, prologue.source(), p.prologue, tile, 3,
            [](int y, int x, int c) { return y * kPitch + Map::place(Product::template place<kWidth>(x), c); });
    }

    LR_DEVICE void convolve(const MapTile& tile) const {
        const int y = warp_index() * kRows;
        const ImageRows<M, kRows> rows(p, tile.image, tile.top + y, tile.left, p.prologue.height, p.prologue.width,
                                       kHeadColumns);
        float sum[kRows][4] = {};
        Product::template multiply<kWidth>(sum, v + y * kPitch, [](int r) { return r; }, weights);
        rows.store(sum, bias);
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(kHeadThreads, (HeadTraits<M, n, HeadKernel::kForward>::kResident))
head_kernel(const HeadParams p) {
    using H = HeadForward<M, n>;
    const H head(p);
    barrier();  // the vectors are there
    for (uint32_t i = MapTile::first(); i < p.tiles; i += MapTile::stride()) {
        const MapTile tile(p.prologue, i, H::kHeight, kHeadColumns);
        head.load(tile);
        barrier();  // v is there
        head.convolve(tile);
        barrier();  // and free again
    }
}

}  // namespace learned_resizer
