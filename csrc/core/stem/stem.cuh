// The stem in one pass over the image: z = R c and the count, mean and M2 of c, with a and c of stem_features.cuh and R
// one band matrix per axis. No tensor with n channels at input resolution exists.
//
//   forward   z[b, y, x, f] = sum_i sum_j R_h[y, i] R_w[x, j] c[b, i, j, f]
//   adjoint   stem_backward.cuh
//
// An item of work is a strip of output rows of one column tile of one image. The block walks down the strip's image
// rows; each warp makes c of its 16 columns in registers and applies R_h there, in the layout of the product's result:
//   fold    (shrinking)  state[k] += weight[k] c for the output rows that are open, oldest first; a complete one leaves
//                        and the others move up.
//   gather  (enlarging)  state holds the last K rows of c; an output row is their weighted sum.
// Complete rows go to shared memory, and the block applies R_w from there. Which rows are open, complete and weighted
// at each step was decided on the host (stem_plan.cpp).
//
// Statistics count every pixel of the image once, in the item that owns it; each block merges its own.
#pragma once

#include "common/dispatch.h"
#include "common/statistics.cuh"
#include "stem/stem_features.cuh"

namespace learned_resizer {

template <Arithmetic M, int n, int K>
struct Stem {
    static constexpr int kRows = kIs16Bit<M> ? (n == 16 ? 3 : K == 2 ? 2 : 1) : (n == 16 ? 2 : 1);
    using Features = StemFeatures<M, n, kRows>;
    using F = typename Features::F;
    static constexpr int kTiles = Features::kTiles;
    static constexpr int kValues = 4 * kTiles;  // of a row of c that a lane holds
    // Floats between the pixels of a filtered row: with 8 to spare, neither the fragments' stores nor the filter's
    // loads have bank conflicts.
    static constexpr int kPitch = n + 8;

    const StemParams& p;
    Features features;
    // Dynamic shared memory behind that of the features.
    float* rows;     // [kStemBuffer][16 warps][kPitch]
    float* taps;     // [tile_outputs][taps]
    int32_t* first;  // [tile_outputs]
    float* partial;  // [strip_outputs][n], only if pieces > 1

    StemStrip strip;
    StemTile tile;
    int piece;
    int done, buffered;  // output rows of the strip that were filtered, and that wait in `rows`
    float state[K][kValues];

    LR_HOST_DEVICE static constexpr int shared_bytes(const StemPlanShape& plan) {
        return Features::shared_bytes(plan.warps) +
               4 * (kStemBuffer * kStemWarpColumns * plan.warps * kPitch + plan.tile_outputs * (plan.taps + 1) +
                    (plan.pieces > 1 ? plan.strip_outputs * n : 0));
    }

    LR_DEVICE explicit Stem(const StemParams& params)
        : p(params), features(dynamic_shared(), params.image, params.weights) {
        rows = reinterpret_cast<float*>(dynamic_shared() + Features::shared_bytes(warp_count()));
        taps = rows + kStemBuffer * kStemWarpColumns * warp_count() * kPitch;
        first = reinterpret_cast<int32_t*>(taps + p.plan.tile_outputs * p.plan.taps);
        partial = reinterpret_cast<float*>(first + p.plan.tile_outputs);
    }

    template <class T>
    LR_DEVICE const T* table(int64_t offset) const {
        return reinterpret_cast<const T*>(p.tables + offset);
    }

    LR_DEVICE void run_item(int64_t item, LaneMoments<n / 4>& moments) {
        const int64_t strips = p.plan.strips, tiles = p.plan.tiles;
        features.image = item / (strips * tiles);
        const int64_t within = item - features.image * (strips * tiles);
        strip = table<StemStrip>(p.plan.strip_table)[within / tiles];
        for (piece = 0; piece < p.plan.pieces; ++piece) {
            const int64_t at = within % tiles * p.plan.pieces + piece;
            tile = table<StemTile>(p.plan.tile_table)[at];
            features.column = tile.begin;
            barrier();  // the ring, the taps and the rows of the piece before are free
            load_taps(at);
            run_strip(moments);
        }
    }

    LR_DEVICE void load_taps(int64_t at) const {
        const int count = p.plan.tile_outputs * p.plan.taps;
        LR_NO_UNROLL
        for (int i = thread_index(); i < count; i += thread_count())
            taps[i] = table<float>(p.plan.tap_table)[at * count + i];
        LR_NO_UNROLL
        for (int i = thread_index(); i < p.plan.tile_outputs; i += thread_count())
            first[i] = table<int32_t>(p.plan.first_table)[at * p.plan.tile_outputs + i];
    }

    LR_DEVICE void run_strip(LaneMoments<n / 4>& moments) {
        done = buffered = 0;
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            LR_UNROLL
            for (int v = 0; v < kValues; ++v) state[k][v] = 0.0f;
        }
        features.begin(strip.begin);
        barrier();
        LR_NO_UNROLL
        for (int row = strip.begin; row < strip.end; row += kRows) {
            typename Features::Raw raw;
            // With 32 filters and six rows of them no registers are left to hold the pixels meanwhile.
            constexpr bool kEarly = n == 16 || K == 2;
            if constexpr (kEarly) features.request(raw, Features::next(row));
            float a[kRows][kTiles][4], c[kRows][kTiles][4];
            features.compute(row, a, c);
            if (p.partials != nullptr) count(row, c, moments);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q)
                if (row + q < strip.end) filter_rows(row + q, c[q]);
            if constexpr (!kEarly) features.request(raw, Features::next(row));
            features.store(raw, Features::next(row));
            barrier();  // the new rows are there
        }
    }

    LR_DEVICE void count(int row, const float (&c)[kRows][kTiles][4], LaneMoments<n / 4>& moments) const {
        bool valid[2 * kRows];
        LR_UNROLL
        for (int r = 0; r < 2 * kRows; ++r) {
            const int x = tile.begin + kStemWarpColumns * warp_index() + lane_index() / 4 + 8 * (r % 2);
            const int y = row + r / 2;
            valid[r] = y >= strip.own_begin && y < strip.own_end && x >= tile.own_begin && x < tile.own_end;
        }
        moments.template add<2 * kRows>(valid, [&](int r, int i) { return c[r / 2][i / 2][2 * (r % 2) + i % 2]; });
    }

    // R_h: adds row y of c and stores the output rows that it completes.
    LR_DEVICE void filter_rows(int y, const float (&c)[kTiles][4]) {
        const StemRow* work = table<StemRow>(p.plan.row_table) + strip.rows + (y - strip.begin);
        const int emits = load_element(&work->emits);
        if (p.plan.form == Form::kFold) {
            LR_UNROLL
            for (int k = 0; k < K; ++k)
                add(state[k], load_element(&work->weight[k]), [&](int v) { return c[v / 4][v % 4]; });
            for (int e = 0; e < emits; ++e) {
                emit(state[0]);
                LR_UNROLL
                for (int k = 0; k < K; ++k) {
                    LR_UNROLL
                    for (int v = 0; v < kValues; ++v) state[k][v] = k + 1 < K ? state[k + 1][v] : 0.0f;
                }
            }
        } else {
            LR_UNROLL
            for (int k = 0; k < K; ++k) {
                LR_UNROLL
                for (int v = 0; v < kValues; ++v) state[k][v] = k + 1 < K ? state[k + 1][v] : c[v / 4][v % 4];
            }
            const float* weight = table<float>(p.plan.gather_table) + int64_t{work->first_output} * kStemSlots;
            for (int e = 0; e < emits; ++e, weight += kStemSlots) {
                float sum[kValues] = {};
                LR_UNROLL
                for (int k = 0; k < K; ++k)
                    add(sum, load_element(weight + kStemSlots - K + k), [&](int v) { return state[k][v]; });
                emit(sum);
            }
        }
    }
    // A weight of zero is "not in the band" and never touches a sum.
    template <class Value>
    LR_DEVICE static void add(float (&sum)[kValues], float weight, const Value& value) {
        if (weight == 0.0f) return;
        LR_UNROLL
        for (int v = 0; v < kValues; ++v) sum[v] = fused_multiply_add(weight, value(v), sum[v]);
    }

    // Appends a complete row to the buffer, which is filtered when it is full or the strip ends.
    LR_DEVICE void emit(const float (&row)[kValues]) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        float* to = rows + (kStemWarpColumns * (buffered * warp_count() + warp_index()) + g) * kPitch + 2 * t;
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int h = 0; h < 2; ++h)
                *reinterpret_cast<Pair<float>*>(to + 8 * h * kPitch + 8 * j) =
                    Pair<float>{row[4 * j + 2 * h], row[4 * j + 2 * h + 1]};
        }
        ++buffered;
        if (buffered < kStemBuffer && done + buffered < strip.out_end - strip.out_begin) return;
        barrier();  // the rows are complete
        filter_columns();
        barrier();  // and free again
        done += buffered;
        buffered = 0;
    }

    // R_w: four channels of one output pixel per thread.
    LR_DEVICE void filter_columns() const {
        const int outputs = tile.out_end - tile.out_begin;
        LR_NO_UNROLL
        for (int i = thread_index(); i < buffered * outputs * (n / 4); i += thread_count()) {
            const int channel = i % (n / 4) * 4, pixel = i / (n / 4);
            const int r = pixel / outputs, o = pixel - r * outputs;
            float sum[4] = {};
            float* kept = partial + (done + r) * n + channel;
            if (piece > 0) {
                LR_UNROLL
                for (int v = 0; v < 4; ++v) sum[v] = kept[v];
            }
            const float* from = rows + (r * kStemWarpColumns * warp_count() + first[o]) * kPitch + channel;
            LR_NO_UNROLL
            for (int tap = 0; tap < p.plan.taps; ++tap, from += kPitch) {
                const float weight = taps[o * p.plan.taps + tap];
                if (weight == 0.0f) continue;
                const Quad<float> value = *reinterpret_cast<const Quad<float>*>(from);
                LR_UNROLL
                for (int v = 0; v < 4; ++v) sum[v] = fused_multiply_add(weight, value.v[v], sum[v]);
            }
            if (piece + 1 < p.plan.pieces) {
                LR_UNROLL
                for (int v = 0; v < 4; ++v) kept[v] = sum[v];
            } else {
                store(strip.out_begin + done + r, tile.out_begin + o, channel, sum);
            }
        }
    }
    LR_DEVICE void store(int y, int x, int channel, const float (&sum)[4]) const {
        const int64_t at = ((features.image * p.plan.out_height + y) * p.plan.out_width + x) * n + channel;
        if constexpr (kIs16Bit<M>) {
            Pair<uint32_t> words{F::pack(sum[0], sum[1]), F::pack(sum[2], sum[3])};
            *reinterpret_cast<Pair<uint32_t>*>(static_cast<uint16_t*>(p.z) + at) = words;
        } else {
            *reinterpret_cast<Quad<float>*>(static_cast<float*>(p.z) + at) =
                Quad<float>{{sum[0], sum[1], sum[2], sum[3]}};
        }
    }
};

// Two blocks per multiprocessor where the registers allow it.
template <Arithmetic M, int n, int K>
struct StemResidency {
    static constexpr int kBlocks = kIs16Bit<M> && n == 16 && K == 2 ? 2 : 1;
};

template <Arithmetic M, int n, int K>
LR_KERNEL_RESIDENT(32 * kStemMaxWarps, (StemResidency<M, n, K>::kBlocks))
stem_kernel(const StemParams p) {
    Stem<M, n, K> stem(p);
    LaneMoments<n / 4> moments;
    for (int64_t item = block_index(); item < p.plan.items; item += block_count()) stem.run_item(item, moments);
    if (p.partials != nullptr)
        store_moments(moments, stem.rows, p.partials + block_index() * 3 * p.weights.filters, p.weights.filters);
}

// Calls launch(kernel, shared_bytes) with the instance; false if it does not exist.
template <class Launch>
bool with_stem_kernel(const StemPlanShape& plan, Arithmetic arithmetic, int filters, const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        if (plan.slots == 2)
            launch(stem_kernel<M, n, 2>, Stem<M, n, 2>::shared_bytes(plan));
        else
            launch(stem_kernel<M, n, kStemSlots>, Stem<M, n, kStemSlots>::shared_bytes(plan));
    });
}

}  // namespace learned_resizer
