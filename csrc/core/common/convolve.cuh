// The products of the two convolutions on a map in shared memory, and their weights: 3x3 to n channels, 7x7 to the few
// channels of an image.
#pragma once

#include "common/feature_map.cuh"
#include "common/parameter.cuh"
#include "common/prologue.h"

namespace learned_resizer {

// A warp holds sums of 16 pixels of a row by kRows rows below one another: a fragment of a map's row serves three of
// them, a fragment of the weights all.
template <Arithmetic M, int n>
struct Convolve3 {
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    static constexpr int kTiles = n / 8, kSteps = n / 16;
    static constexpr int kWeights = 9 * kSteps * 32 * kTiles * 4;

    // A lane's columns 2t and 2t + 1 of all tiles are kLane channels next to one another, from kLane t on: value 2j + i
    // of them is column i of tile j. They are read and written together.
    static constexpr int kLane = n / 4;
    LR_DEVICE static int channel(int j, int column) { return kLane * (column / 2) + 2 * j + column % 2; }

    // [9 taps][kSteps][32 lanes][kTiles][4] of weight [filters][filters][3][3]. Adjoint: the sum runs over filters, and
    // the taps in the other direction.
    LR_DEVICE static void load_weights(S* to, const Weight& weight, int filters, bool adjoint = false) {
        learned_resizer::load_weights<kWeights, 9>(to, weight, kTileThreads, F::encode, [&](uint32_t i) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles) % kSteps;
            const int tap = i / (128 * kTiles * kSteps);
            const int term = 16 * step + Map::term(lane % 4, i % 4), column = channel(tile, lane / 4);
            if (term >= filters || column >= filters) return -1;
            return adjoint ? weight_place(weight, term, column, 2 - tap / 3, 2 - tap % 3)
                           : weight_place(weight, column, term, tap / 3, tap % 3);
        });
    }

    // sum[q] += the convolution at row y + q, columns x ... x + 15, of `map` [][pitch][kStride], whose pixels (0 ... 2,
    // 0 ... 2) are those of the result's (0, 0).
    template <int kRows>
    LR_DEVICE static void multiply(float (&sum)[kRows][kTiles][4], const S* map, int pitch, int y, int x,
                                   const S* weights) {
        constexpr int kUnroll = kSteps == 1 && kIs16Bit<M> ? 3 : 1;
        (void)kUnroll;
        const S* first = map + y * pitch * Map::kStride;
        const S* of_lane = weights + lane_index() * kTiles * 4;
        LR_UNROLL_BY(kUnroll)
        for (int dx = 0; dx < 3; ++dx) {
            LR_UNROLL_BY(kUnroll)
            for (int s = 0; s < kSteps; ++s) {
                typename F::B b[3][kTiles];
                LR_UNROLL
                for (int dy = 0; dy < 3; ++dy) {
                    LR_UNROLL
                    for (int j = 0; j < kTiles; j += 2)
                        F::load_b(b[dy][j], b[dy][j + 1],
                                  of_lane + (((dy * 3 + dx) * kSteps + s) * 32 * kTiles + j) * 4);
                }
                const auto at = Map::reader(16 * s, [&](int r) { return x + dx + r; });
                LR_UNROLL
                for (int r = 0; r < kRows + 2; ++r) {
                    const auto a = Map::load(first + r * pitch * Map::kStride, at);
                    LR_UNROLL
                    for (int q = 0; q < kRows; ++q) {
                        if (r < q || r > q + 2) continue;
                        LR_UNROLL
                        for (int j = 0; j < kTiles; ++j) F::multiply(sum[q][j], a, b[r - q][j]);
                    }
                }
            }
        }
    }
};

// A row of the product is a pair of neighbouring pixels, a column one of the pair's 2 C results: 6 of 8 columns are
// filled, not 3. The sums run over 8 columns of taps instead of 7; a tap that a pixel does not have is zero.
template <Arithmetic M, int n>
struct Convolve7 {
    using F = Fragments<M>;
    using S = typename F::S;
    using Map = FeatureMap<M, n>;
    static constexpr int kSteps = n / 16;
    static constexpr int kWeights = 7 * 8 * kSteps * 32 * 4;

    // [7 rows][8 columns][kSteps][32 lanes][4] of weight [channels][filters][7][7]
    LR_DEVICE static void load_weights(S* to, const Weight& weight, int channels, int filters) {
        learned_resizer::load_weights<kWeights, 7>(to, weight, kTileThreads, F::encode, [&](uint32_t i) {
            const int lane = i / 4 % 32, step = i / 128 % kSteps, tap = i / (128 * kSteps);
            const int term = 16 * step + Map::term(lane % 4, i % 4), column = lane / 4;
            const int pixel = column >= channels ? 1 : 0, c = column - pixel * channels, x = tap % 8 - pixel;
            const bool exists = column < 2 * channels && term < filters && x >= 0 && x < 7;
            return exists ? weight_place(weight, c, term, tap / 8, x) : -1;
        });
    }

    // Every second pixel is a row of the product: a map of `width` columns keeps even columns before odd ones, so that
    // those are neighbours, and begins the odd ones where four neighbouring columns, as they are stored, are in
    // different banks.
    LR_HOST_DEVICE static constexpr int odd(int width) { return (width / 2 + 1) / 4 * 4 + 2; }
    LR_HOST_DEVICE static constexpr int pitch(int width) { return odd(width) + width / 2; }
    template <int kWidth>
    LR_DEVICE static int place(int x) {
        constexpr int kOdd = odd(kWidth);
        return x / 2 + x % 2 * kOdd;
    }

    // sum[q] += the convolution at row q and the pairs pair(0 ... 15) of a row. `first`: the map's row that tap (0, 0)
    // of row 0 reads.
    template <int kWidth, int kRows, class Pair>
    LR_DEVICE static void multiply(float (&sum)[kRows][4], const S* first, const Pair& pair, const S* weights) {
        constexpr int kPitch = pitch(kWidth) * Map::kStride;
        const S* of_lane = weights + lane_index() * 4;
        LR_NO_UNROLL
        for (int dx = 0; dx < 8; ++dx) {
            LR_NO_UNROLL
            for (int s = 0; s < kSteps; ++s) {
                typename F::B b[7];
                LR_UNROLL
                for (int dy = 0; dy < 7; ++dy) b[dy] = F::load_b(of_lane + ((dy * 8 + dx) * kSteps + s) * 128);
                const auto at = Map::reader(16 * s, [&](int r) { return place<kWidth>(dx) + pair(r); });
                LR_UNROLL
                for (int r = 0; r < kRows + 6; ++r) {
                    const auto a = Map::load(first + r * kPitch, at);
                    LR_UNROLL
                    for (int q = 0; q < kRows; ++q) {
                        if (r < q || r > q + 6) continue;
                        F::multiply(sum[q], a, b[r - q]);
                    }
                }
            }
        }
    }
};

}  // namespace learned_resizer
