// Two convolutions of the trunk on one tile, the map between them in shared memory only. Inference: the statistics of
// every batch normalisation are known before the kernel starts, so nothing has to wait for the whole map.
//
//   block   output = W2 * lrelu(norm1(W1 * v))                      3x3 and 3x3, zero padding of v and of the lrelu
//   tail    result = W * (norm1(W1 * v) + skip_norm(u)) + bias + base    3x3 and 7x7
//   with    v = norm(t) [+ skip_norm(u)]
//
// There is no adjoint: training needs the batch's statistics between any two convolutions (conv.cuh, head.cuh).
//
// A block of 8 warps loads v for kTrunkGrid + 2 pixels square once, computes the first convolution on kTrunkGrid
// square and the second on what that leaves.
#pragma once

#include "common/dispatch.h"
#include "common/prologue.cuh"
#include "common/to_image.cuh"
#include "trunk/trunk.h"

namespace learned_resizer {

template <Arithmetic M, TrunkKernel K>
struct Trunk {
    static constexpr bool kTail = K == TrunkKernel::kTail;
    static constexpr int n = kTrunkFilters;
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    using First = Convolve3<M, n>;
    using Last = Convolve7<M, n>;
    using Skip = Prologue<M, n>;
    static constexpr int kGrid = kTrunkGrid, kSide = trunk_side(K);
    static constexpr int kAround = (kGrid - kSide) / 2;  // pixels that the second convolution reads around an output
    static constexpr int kSource = kGrid + 2;            // side of v's tile
    static constexpr int kRows = 4;                      // rows of sums that a warp holds
    static constexpr int kLane = First::kLane;
    static constexpr int kPitch = (kTail ? Last::pitch(kGrid) : kGrid) * n;  // elements of the middle map's row

    // Dynamic shared memory, in this order.
    Prologue<M, n> prologue;
    float* between;  // [2][n]: scale and shift of norm1, the tail's with skip_norm's shift
    float* bias;     // [4], of the tail
    S* source;       // [kSource][kSource][n]: v
    S* middle;       // [kGrid][kPitch]; the tail's columns as Convolve7 places them
    S* weight1;      // as in Convolve3
    S* weight2;      // block: likewise; tail: as in Convolve7

    const TrunkParams& p;

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        constexpr int maps = kSource * kSource * n + kGrid * kPitch;
        constexpr int weights = First::kWeights + (kTail ? Last::kWeights : First::kWeights);
        return (maps + weights) * static_cast<int>(sizeof(S)) + (5 * n + 4) * 4;
    }

    LR_DEVICE explicit Trunk(const TrunkParams& params)
        : prologue(params.prologue, reinterpret_cast<float*>(dynamic_shared())), p(params) {
        between = prologue.affine + 3 * n;
        bias = between + 2 * n;
        source = reinterpret_cast<S*>(bias + 4);
        middle = source + kSource * kSource * n;
        weight1 = middle + kGrid * kPitch;
        weight2 = weight1 + First::kWeights;
        const int filters = p.prologue.filters;
        for (int c = thread_index(); c < n; c += thread_count()) {
            const bool exists = c < filters;
            between[c] = exists ? scale_of(p.norm1, c) : 0.0f;
            between[n + c] = exists ? shift_of(p.norm1, c) + (kTail ? shift_of(p.prologue.skip_norm, c) : 0.0f) : 0.0f;
        }
        First::load_weights(weight1, p.weight1, filters);
        if constexpr (kTail) {
            Last::load_weights(weight2, p.weight, p.channels, filters);
            if (const int c = thread_index(); c < p.channels) bias[c] = load_parameter(p.bias, c);
        } else {
            First::load_weights(weight2, p.weight2, filters);
        }
    }

    LR_DEVICE void load(const MapTile& tile) const {
        TileLoader<M, n>::template load<kSource, kSource, 5>(
            source, prologue.source(), p.prologue, tile, kAround + 1,
            [](int y, int x, int c) { return y * kSource * n + Map::place(x, c); });
    }

    LR_DEVICE static int middle_column(int x) { return kTail ? Last::template place<kGrid>(x) : x; }

    // The first convolution with its norm and skip or activation, into the middle map, whose first pixel is kAround
    // before the tile's; zero outside the image, as the second convolution pads.
    LR_DEVICE void fill_middle(const MapTile& tile) const {
        const int lane = opaque(lane_index()), g = lane / 4, c = lane % 4 * kLane;
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        // Two strips of 16 columns times eight groups of four rows.
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < 16; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            const int top = tile.top - kAround + y, left = tile.left - kAround + x + g;
            float sum[kRows][First::kTiles][4] = {};
            First::multiply(sum, source, kSource, y, x, weight1);
            const int64_t first = tile.pixel(p.prologue, top, left) * n + c;
            const int corner = ((tile.top - top) * width + tile.left - left) * n;  // the tile's first pixel
            // The skip of all pixels waits for memory together.
            typename Skip::Channels u[2 * kRows];
            bool inside[2 * kRows];
            LR_UNROLL
            for (int r = 0; r < 2 * kRows; ++r) {
                const int row = top + r / 2, column = left + r % 2 * 8;
                inside[r] = static_cast<uint32_t>(row) < static_cast<uint32_t>(height) &&
                            static_cast<uint32_t>(column) < static_cast<uint32_t>(width);
                if constexpr (kTail)
                    u[r] = Skip::load_lane(
                        Skip::place(p.prologue.skip, first, inside[r] ? (r / 2 * width + r % 2 * 8) * n : corner));
            }
            LR_UNROLL
            for (int r = 0; r < 2 * kRows; ++r) {
                float v[kLane];
                LR_UNROLL
                for (int i = 0; i < kLane; ++i) {
                    v[i] = fused_multiply_add(between[c + i], sum[r / 2][i / 2][r % 2 * 2 + i % 2], between[n + c + i]);
                    if constexpr (kTail)
                        v[i] = fused_multiply_add(prologue.affine[2 * n + c + i], Skip::element(u[r], i), v[i]);
                    else
                        v[i] = v[i] < 0.0f ? v[i] * p.negative_slope : v[i];
                }
                S* to = middle + (y + r / 2) * kPitch + Map::place(middle_column(x + g + r % 2 * 8), c);
                *reinterpret_cast<Pair<uint32_t>*>(to) =
                    Pair<uint32_t>{inside[r] ? F::pack(v[0], v[1]) : 0u, inside[r] ? F::pack(v[2], v[3]) : 0u};
            }
        }
    }

    LR_DEVICE void finish_block(const MapTile& tile) const {
        const int g = lane_index() / 4, c = lane_index() % 4 * kLane;
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        // The last strip and the last group of rows begin earlier instead of reading beyond the map: what they share
        // with the ones before is computed twice, to the same bits, and stored by both.
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < 16; unit += warp_count()) {
            const int x = unit % 2 * (kSide - 16),
                      y = unit / 2 * kRows < kSide - kRows ? unit / 2 * kRows : kSide - kRows;
            float sum[kRows][First::kTiles][4] = {};
            First::multiply(sum, middle, kGrid, y, x, weight2);
            const int top = tile.top + y, left = tile.left + x + g;
            S* to = static_cast<S*>(p.output) + tile.pixel(p.prologue, top, left) * n + c;
            LR_UNROLL
            for (int r = 0; r < 2 * kRows; ++r) {
                if (top + r / 2 >= height || left + r % 2 * 8 >= width) continue;
                float v[kLane];
                LR_UNROLL
                for (int i = 0; i < kLane; ++i) v[i] = sum[r / 2][i / 2][r % 2 * 2 + i % 2];
                prologue.store(to + (r / 2 * width + r % 2 * 8) * n, v);
            }
        }
    }

    LR_DEVICE void finish_tail(const MapTile& tile) const {
        constexpr int kLastPair = kSide / 2 - 1;
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < (kSide + kRows - 1) / kRows; unit += warp_count()) {
            const int y = unit * kRows < kSide - kRows ? unit * kRows : kSide - kRows;
            const ImageRows<M, kRows> rows(p, tile.image, tile.top + y, tile.left, p.prologue.height, p.prologue.width,
                                           kSide);
            float sum[kRows][4] = {};
            // Rows of the product beyond the tile's pairs repeat the last one and are not stored.
            Last::template multiply<kGrid>(
                sum, middle + y * kPitch, [](int r) { return r < kLastPair ? r : kLastPair; }, weight2);
            rows.store(sum, bias);
        }
    }
};

template <Arithmetic M, TrunkKernel K>
LR_KERNEL_RESIDENT(kTrunkThreads, 2)
trunk_kernel(const TrunkParams p) {
    using T = Trunk<M, K>;
    const T trunk(p);
    barrier();  // the vectors are there
    for (uint32_t i = MapTile::first(); i < p.tiles; i += MapTile::stride()) {
        const MapTile tile(p.prologue, i, T::kSide, T::kSide);
        trunk.load(tile);
        barrier();  // v is there, and the weights; nobody still reads the middle map of the tile before
        trunk.fill_middle(tile);
        barrier();  // the middle map is there, and v free
        if constexpr (T::kTail)
            trunk.finish_tail(tile);
        else
            trunk.finish_block(tile);
    }
}

// Calls launch(kernel, shared_bytes) with the instance.
template <class Launch>
void with_trunk_kernel(TrunkKernel kernel, bool bfloat16, const Launch& launch) {
    dispatch<TrunkKernel::kBlock, TrunkKernel::kTail>(kernel, [&](auto K) {
        if (bfloat16)
            launch(trunk_kernel<Arithmetic::kBFloat16, K>, Trunk<Arithmetic::kBFloat16, K>::shared_bytes());
        else
            launch(trunk_kernel<Arithmetic::kFloat16, K>, Trunk<Arithmetic::kFloat16, K>::shared_bytes());
        return true;
    });
}

}  // namespace learned_resizer
