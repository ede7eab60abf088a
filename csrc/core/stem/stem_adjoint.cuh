// The common part of the stem's two backward kernels: the features again, R^T dz, and from them dc' and da'
// (formulas in stem_backward.cuh).
#pragma once

#include "common/pixel_terms.cuh"
#include "stem/stem_backward.h"
#include "stem/stem_features.cuh"

namespace learned_resizer {

// dc' and da' of R rows of the warp's 16 columns.
template <Arithmetic M, int n, int R>
struct StemAdjoint {
    using Features = StemFeatures<M, n, R>;
    using F = typename Features::F;
    using S = typename Features::S;
    static constexpr int kTiles = Features::kTiles, kSteps = Features::kSteps;
    static constexpr int kW1 = Features::kW1;

    const StemBackwardParams& p;
    Features features;
    float* statistics;  // [2][n]: the constant of c's gradient, and its factor of c
    S* w1;              // [kSteps][32 lanes][kTiles][4]: W1 transposed, chained terms

    LR_HOST_DEVICE static constexpr int shared_bytes(int warps) {
        return Features::shared_bytes(warps) + 2 * n * 4 + kW1 * static_cast<int>(sizeof(S));
    }

    LR_DEVICE explicit StemAdjoint(const StemBackwardParams& params)
        : p(params), features(dynamic_shared(), params.image, params.weights) {
        statistics = reinterpret_cast<float*>(dynamic_shared() + Features::shared_bytes(warp_count()));
        w1 = reinterpret_cast<S*>(statistics + 2 * n);
        for (int c = thread_index(); c < n; c += thread_count()) {
            float common = 0.0f, each = 0.0f;
            if (p.mean != nullptr && c < p.weights.filters) {
                const float pixels = static_cast<float>(p.count);
                each = 2.0f * p.grad_var[c] / pixels;
                common = p.grad_mean[c] / pixels - p.mean[c] * each;
            }
            statistics[c] = common;
            statistics[n + c] = each;
        }
        LR_NO_UNROLL
        for (int i = thread_index(); i < kW1; i += thread_count()) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles);
            const int from = 16 * step + chained_term(lane % 4, i % 4), to = 8 * tile + lane / 4;
            const bool exists = from < p.weights.filters && to < p.weights.filters;
            w1[i] = F::encode(exists ? load_weight(p.weights.w1, from, to, 0, 0) : 0.0f);
        }
    }

    // R^T dz at one image row of the warp's columns; zero where the pixel is outside the block's columns or the image.
    LR_DEVICE void pull(int y, bool row_valid, const bool (&valid)[2], float (&dc)[kTiles][4]) const {
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int i = 0; i < 4; ++i) dc[j][i] = 0.0f;
        }
        if (!row_valid) return;
        const int first = load_element(p.rows.start + y), begin = load_element(p.rows.offset + y);
        const int count = load_element(p.rows.offset + y + 1) - begin;
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            if (!valid[h]) continue;
            const int x = features.column + kStemWarpColumns * warp_index() + lane_index() / 4 + 8 * h;
            const int from = load_element(p.columns.start + x), taps = load_element(p.columns.offset + x);
            const int last = load_element(p.columns.offset + x + 1);
            LR_NO_UNROLL
            for (int r = 0; r < count; ++r) {
                const float down = load_element(p.rows.weight + begin + r);
                const int64_t row = (features.image * p.out_height + first + r) * p.out_width;
                LR_NO_UNROLL
                for (int tap = taps; tap < last; ++tap) {
                    const float weight = down * load_element(p.columns.weight + tap);
                    const int64_t at = (row + from + (tap - taps)) * n + lane_index() % 4 * 2;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        const auto two = load_cached<S, 2>(static_cast<const S*>(p.dz) + at + 8 * j);
                        LR_UNROLL
                        for (int i = 0; i < 2; ++i)
                            dc[j][2 * h + i] = fused_multiply_add(weight, element(two.word, i), dc[j][2 * h + i]);
                    }
                }
            }
        }
    }
    LR_DEVICE static float element(const uint32_t* words, int i) {
        if constexpr (kIs16Bit<M>)
            return F::decode(static_cast<uint16_t>(words[0] >> (16 * i)));
        else
            return float_from_bits(words[i]);
    }

    // a, dc' and da' of row y, from its a and c.
    LR_DEVICE void derive(int y, bool row_valid, const bool (&valid)[2], const float (&a)[kTiles][4],
                          const float (&c)[kTiles][4], float (&dc)[kTiles][4], float (&da)[kTiles][4]) const {
        pull(y, row_valid, valid, dc);
        const int lane = lane_index();
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int channel = 8 * j + lane % 4 * 2 + i % 2;
                float d = dc[j][i] + fused_multiply_add(statistics[n + channel], c[j][i], statistics[channel]);
                if (!(c[j][i] > 0.0f)) d *= features.slope;
                dc[j][i] = row_valid && valid[i / 2] ? d : 0.0f;
                da[j][i] = 0.0f;
            }
        }
        LR_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            const auto fragment = F::chain(dc[2 * s], dc[2 * s + 1]);
            LR_UNROLL
            for (int j = 0; j < kTiles; ++j)
                F::multiply(da[j], fragment, F::load_b(w1 + ((s * 32 + lane) * kTiles + j) * 4));
        }
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int i = 0; i < 4; ++i)
                if (!(a[j][i] > 0.0f)) da[j][i] *= features.slope;
        }
    }

    // A row of 16 pixels into a map [16][stride] in shared memory.
    LR_DEVICE static void put(S* map, int stride, const float (&v)[kTiles][4]) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                S* to = map + (g + 8 * h) * stride + 8 * j + 2 * t;
                if constexpr (kIs16Bit<M>)
                    *reinterpret_cast<uint32_t*>(to) = F::pack(v[j][2 * h], v[j][2 * h + 1]);
                else
                    *reinterpret_cast<Pair<float>*>(to) =
                        Pair<float>{F::encode(v[j][2 * h]), F::encode(v[j][2 * h + 1])};
            }
        }
    }

    LR_DEVICE void locate(int64_t item, StemGradient gradient, int& begin, int& end) {
        const int64_t each = int64_t{p.tiles} * p.strips;
        features.image = item / each;
        const int64_t within = item - features.image * each;
        features.column = static_cast<int>(within % p.tiles * stem_backward_columns(warp_count(), gradient)) -
                          (gradient == StemGradient::kImage ? 3 : 0);
        begin = static_cast<int>(within / p.tiles) * p.strip_rows;
        end = begin + p.strip_rows < p.image.height ? begin + p.strip_rows : static_cast<int>(p.image.height);
    }
    LR_DEVICE bool column_exists(int h) const {
        const int x = features.column + kStemWarpColumns * warp_index() + lane_index() / 4 + 8 * h;
        return x >= 0 && x < p.image.width;
    }
};

}  // namespace learned_resizer
