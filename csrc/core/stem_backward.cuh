// The stem's adjoint. The features are computed again from the image, a few rows at a time; no tensor with n channels
// at input resolution exists here either.
//
//   forward   a = lrelu(W0 * x + b0),  c = lrelu(W1 a + b1),  z = R c,  mean and var of c over its M pixels
//   adjoint   dc  = R^T dz + dmean / M + 2 (c - mean) / M dvar
//             dc' = dc lrelu'(c),   dW1 = sum dc' a^T,   db1 = sum dc',   da = W1^T dc'
//             da' = da lrelu'(a),   dW0 = sum da' * x,   db0 = sum da',   dx = W0^T * da'
//
// Two kernels: the weights' gradients, and dx, which needs da' three pixels around and is rarely asked for. Both walk
// down the image like the forward (stem_features.cuh). dW0 and dW1 are products whose terms are pixels: their operands
// go through shared memory, from which they are read transposed. Every block keeps its sums in registers and writes one
// row of partial results; their sum has a fixed order: bitwise reproducible for a given number of blocks.
#pragma once

#include "pixel_terms.cuh"
#include "stem_backward.h"
#include "stem_features.cuh"

namespace learned_resizer {

// What both kernels do: dc' and da' of R rows of the warp's 16 columns.
template <Arithmetic M, int n, int R>
struct StemAdjoint {
    using Features = StemFeatures<M, n, R>;
    using F = typename Features::F;
    using S = typename Features::S;
    static constexpr int kTiles = Features::kTiles, kSteps = Features::kSteps;
    static constexpr int kW1 = Features::kW1;

    const StemBackwardParams& p;
    Features features;
    float* statistics;  // [2][n]: what c's gradient has in common, and what it has for each unit of c
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
            if (p.mean != nullptr) {
                const float pixels = static_cast<float>(p.batch * p.image.height * p.image.width);
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
            w1[i] = F::encode(p.weights.w1[from * n + to]);
        }
    }

    // R^T dz at one image row of the warp's columns; zero where the pixel is not this block's or not the image's.
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

    // a, dc' and da' of row y, of which a and c are known.
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

// dW0, db0, dW1, db1. A warp sums over its own 16 pixels for 16 filters; with 32 filters two neighbouring warps share
// their pixels, and each has half of the filters.
template <Arithmetic M, int n>
struct StemWeightGradients {
    static constexpr int kRows = kIs16Bit<M> && n == 16 ? 2 : 1;
    using Adjoint = StemAdjoint<M, n, kRows>;
    using Features = typename Adjoint::Features;
    using F = typename Adjoint::F;
    using S = typename Adjoint::S;
    using Terms = PixelTerms<M>;
    static constexpr int kTiles = n / 8, kHalves = n / 16;
    static constexpr int kStride = n + 8;            // elements of a pixel: transposed reads then meet in no bank
    static constexpr int kMap = 16 * kStride;        // a row of a warp
    static constexpr int kStage = 3 * kRows * kMap;  // da', dc' and a of a warp

    const StemBackwardParams& p;
    Adjoint adjoint;
    S* stage;  // [warps][3][kRows][16][kStride]
    float dw0[7][4][4], dw1[kTiles][4];
    float db0[2], db1[2];  // of filters g and g + 8

    LR_HOST_DEVICE static constexpr int stage_offset(int warps) {
        return (Adjoint::shared_bytes(warps) + 15) / 16 * 16;
    }
    static int shared_bytes(const StemBackwardParams& params) {
        const int working = stage_offset(params.warps) + params.warps * kStage * static_cast<int>(sizeof(S));
        // At the end the same memory holds the block's sums.
        return std::max(working, 4 * static_cast<int>(stem_gradient_elements(n, params.image.channels)));
    }

    LR_DEVICE explicit StemWeightGradients(const StemBackwardParams& params)
        : p(params), adjoint(params), dw0{}, dw1{}, db0{}, db1{} {
        stage = reinterpret_cast<S*>(dynamic_shared() + stage_offset(warp_count()));
    }

    LR_DEVICE S* map(int warp, int which, int row) const {
        return stage + warp * kStage + (which * kRows + row) * kMap;
    }

    // The warps that exchange maps; a warp alone with 16 filters.
    LR_DEVICE static void meet() {
        if constexpr (kHalves == 1)
            warp_barrier();
        else
            barrier();
    }

    LR_DEVICE void run_item(int64_t item) {
        int begin, end;
        adjoint.locate(item, StemGradient::kWeights, begin, end);
        const bool valid[2] = {adjoint.column_exists(0), adjoint.column_exists(1)};
        barrier();  // nobody still uses the ring of the item before
        adjoint.features.begin(begin);
        barrier();
        LR_NO_UNROLL
        for (int row = begin; row < end; row += kRows) {
            typename Adjoint::Features::Raw raw;
            if constexpr (kHalves == 1) adjoint.features.request(raw, Adjoint::Features::next(row));
            {
                float a[kRows][kTiles][4], c[kRows][kTiles][4];
                adjoint.features.compute(row, a, c);
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) {
                    float dc[kTiles][4], da[kTiles][4];
                    adjoint.derive(row + q, row + q < end, valid, a[q], c[q], dc, da);
                    Adjoint::put(map(warp_index(), 0, q), kStride, da);
                    Adjoint::put(map(warp_index(), 1, q), kStride, dc);
                    Adjoint::put(map(warp_index(), 2, q), kStride, a[q]);
                }
            }
            meet();  // the maps are complete
            LR_UNROLL
            for (int h = 0; h < kHalves; ++h) add(row, kHalves == 1 ? warp_index() : warp_index() / 2 * 2 + h);
            meet();  // and free again
            // With 32 filters there is no register left to hold them earlier.
            if constexpr (kHalves == 2) adjoint.features.request(raw, Adjoint::Features::next(row));
            adjoint.features.store(raw, Adjoint::Features::next(row));
            barrier();  // the new image rows are there
        }
    }

    // Adds the products over the pixels of `warp` for this warp's filters.
    LR_DEVICE void add(int row, int warp) {
        const int half = kHalves == 1 ? 0 : warp_index() % 2;
        typename F::A da[kRows];
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            da[q] = Terms::load_a(map(warp, 0, q) + 16 * half, kStride);
            const auto dc = Terms::load_a(map(warp, 1, q) + 16 * half, kStride);
            F::add_terms(db0, da[q]);
            F::add_terms(db1, dc);
            LR_UNROLL
            for (int j = 0; j < kTiles; j += 2) {
                typename F::B a[2];
                Terms::load_b(a, map(warp, 2, q) + 8 * j, kStride);
                F::multiply(dw1[j], dc, a[0]);
                F::multiply(dw1[j + 1], dc, a[1]);
            }
        }
        // An image row serves all rows of features that it is within three of.
        const S* first = adjoint.features.ring + kStemWarpColumns * Features::kPixel * warp;
        LR_UNROLL
        for (int r = 0; r < kRows + 6; ++r) {
            const S* from = first + Features::ring_row(row - 3 + r) * adjoint.features.pitch * Features::kPixel;
            LR_UNROLL
            for (int m = 0; m < 2; ++m) {
                typename F::B x[2];
                load_taps(x, from + 4 * m * Features::kPixel);
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) {
                    const int dy = r - q;
                    if (dy < 0 || dy > 6) continue;
                    F::multiply(dw0[dy][2 * m], da[q], x[0]);
                    F::multiply(dw0[dy][2 * m + 1], da[q], x[1]);
                }
            }
        }
    }

    // Two column tiles whose terms are 16 pixels: column 8j + g is channel g % 4 of the pixel 2j + g / 4 to the right.
    LR_DEVICE static void load_taps(typename F::B (&x)[2], const S* from) {
        const int lane = lane_index();
        if constexpr (kIs16Bit<M>) {
            uint32_t r[4];
            load_matrices_transposed(r, from + (lane / 8 % 2 * 8 + lane % 8 + lane / 16 * 2) * Features::kPixel);
            x[0] = {{r[0], r[1]}};
            x[1] = {{r[2], r[3]}};
        } else {
            LR_UNROLL
            for (int j = 0; j < 2; ++j) x[j] = Terms::gather(from + 8 * j + lane / 4, Features::kPixel);
        }
    }

    // The block's sums, warp after warp, in the order of the weights themselves.
    LR_DEVICE void finish(float* partial) {
        const int channels = p.image.channels, lane = lane_index(), g = lane / 4, t = lane % 4;
        const int elements = static_cast<int>(stem_gradient_elements(n, channels));
        float* sum0 = reinterpret_cast<float*>(dynamic_shared());  // [n][channels][7][7]
        float* bias0 = sum0 + n * channels * 49;                   // [n]
        float* sum1 = bias0 + n;                                   // [n][n]
        float* bias1 = sum1 + n * n;                               // [n]
        LR_UNROLL
        for (int mask = 1; mask < 4; mask *= 2) {
            LR_UNROLL
            for (int i = 0; i < 2; ++i) {
                db0[i] += shuffle_xor(db0[i], mask);
                db1[i] += shuffle_xor(db1[i], mask);
            }
        }
        barrier();
        for (int i = thread_index(); i < elements; i += thread_count()) sum0[i] = 0.0f;
        barrier();
        const int filter = kHalves == 1 ? g : warp_index() % 2 * 16 + g;
        LR_NO_UNROLL
        for (int w = 0; w < warp_count(); ++w) {
            if (w == warp_index()) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int f = filter + i / 2 * 8;
                    LR_UNROLL
                    for (int dy = 0; dy < 7; ++dy) {
                        LR_UNROLL
                        for (int j = 0; j < 4; ++j) {
                            const int column = 8 * j + 2 * t + i % 2, dx = column / 4, c = column % 4;
                            if (dx < 7 && c < channels) sum0[((f * channels + c) * 7 + dy) * 7 + dx] += dw0[dy][j][i];
                        }
                    }
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) sum1[f * n + 8 * j + 2 * t + i % 2] += dw1[j][i];
                }
                if (t == 0) {
                    LR_UNROLL
                    for (int i = 0; i < 2; ++i) {
                        bias0[filter + 8 * i] += db0[i];
                        bias1[filter + 8 * i] += db1[i];
                    }
                }
            }
            barrier();
        }
        for (int i = thread_index(); i < elements; i += thread_count()) partial[i] = sum0[i];
    }
};

// dx. The block's columns begin three before those it writes and end three after them; the rows of da' that an output
// row reads are in a second ring.
template <Arithmetic M, int n>
struct StemImageGradient {
    using Adjoint = StemAdjoint<M, n, 1>;
    using F = typename Adjoint::F;
    using S = typename Adjoint::S;
    static constexpr int kTiles = n / 8, kSteps = n / 16;
    static constexpr int kStride = n + 8;
    static constexpr int kRing = 8;  // rows of da'; seven are read
    static constexpr int kWeights = 49 * kSteps * 32 * 4;

    const StemBackwardParams& p;
    Adjoint adjoint;
    S* ring;     // [kRing][16 warps][kStride]: da'
    S* weights;  // [49 taps][kSteps][32 lanes][4]: W0 with its filters as terms and channels as columns

    LR_HOST_DEVICE static constexpr int ring_offset(int warps) { return (Adjoint::shared_bytes(warps) + 15) / 16 * 16; }
    static int shared_bytes(const StemBackwardParams& params) {
        return ring_offset(params.warps) +
               (kRing * kStemWarpColumns * params.warps * kStride + kWeights) * static_cast<int>(sizeof(S));
    }

    LR_DEVICE explicit StemImageGradient(const StemBackwardParams& params) : p(params), adjoint(params) {
        ring = reinterpret_cast<S*>(dynamic_shared() + ring_offset(warp_count()));
        weights = ring + kRing * kStemWarpColumns * warp_count() * kStride;
        const int channels = p.image.channels;
        LR_NO_UNROLL
        for (int i = thread_index(); i < kWeights; i += thread_count()) {
            const int lane = i / 4 % 32, step = i / 128 % kSteps, tap = i / (128 * kSteps);
            const int term = kIs16Bit<M> ? chained_term(lane % 4, i % 4) : linear_term(lane % 4, i % 4);
            const int filter = 16 * step + term, c = lane / 4;
            weights[i] = F::encode(c < channels ? p.weights.w0[(filter * channels + c) * 49 + tap] : 0.0f);
        }
    }

    LR_DEVICE S* ring_row(int row) const {
        return ring + (row & (kRing - 1)) * kStemWarpColumns * warp_count() * kStride;
    }

    LR_DEVICE void run_item(int64_t item) {
        int begin, end;
        adjoint.locate(item, StemGradient::kImage, begin, end);
        const bool valid[2] = {adjoint.column_exists(0), adjoint.column_exists(1)};
        barrier();  // nobody still uses the rings of the item before
        adjoint.features.begin(begin - 3);
        barrier();
        LR_NO_UNROLL
        for (int row = begin - 3; row < end + 3; ++row) {
            typename Adjoint::Features::Raw raw;
            adjoint.features.request(raw, Adjoint::Features::next(row));
            float a[1][kTiles][4], c[1][kTiles][4], dc[kTiles][4], da[kTiles][4];
            adjoint.features.compute(row, a, c);
            adjoint.derive(row, row >= 0 && row < p.image.height, valid, a[0], c[0], dc, da);
            Adjoint::put(ring_row(row) + kStemWarpColumns * warp_index() * kStride, kStride, da);
            barrier();  // the row is complete
            if (row >= begin + 3) write_row(row - 3);
            adjoint.features.store(raw, Adjoint::Features::next(row));
            barrier();  // the new image rows are there; the oldest row of da' is free
        }
    }

    // dx[y, x, c] = sum over taps and filters of W0[f, c, dy, dx] da'[y + 3 - dy, x + 3 - dx, f].
    LR_DEVICE void write_row(int y) const {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const int columns = static_cast<int>(stem_backward_columns(warp_count(), StemGradient::kImage));
        // Columns of the product beyond those that the block writes read its last pixels and are not stored.
        const int first = kStemWarpColumns * warp_index();
        const auto column_of = [&](int r) { return first + r < columns ? first + r : columns - 1; };
        // 48 or 80 bytes from pixel to pixel: eight rows of a matrix do not meet in a bank.
        const int at = kIs16Bit<M> ? column_of(lane % 16) * kStride + lane / 16 * 8 : column_of(g) * kStride + 4 * t;
        const int at8 = column_of(g + 8) * kStride + 4 * t;
        constexpr int kUnroll = kIs16Bit<M> ? 7 : 1;
        (void)kUnroll;
        float sum[4] = {};
        LR_NO_UNROLL
        for (int dy = 0; dy < 7; ++dy) {
            const S* from = ring_row(y + 3 - dy);
            LR_UNROLL_BY(kUnroll)
            for (int dx = 0; dx < 7; ++dx) {
                LR_UNROLL
                for (int s = 0; s < kSteps; ++s) {
                    const S* pixel = from + (6 - dx) * kStride + 16 * s;
                    typename F::A a;
                    if constexpr (kIs16Bit<M>)
                        load_matrices(a.r, pixel + at);
                    else
                        a = F::load_a(pixel + at, pixel + at8);
                    F::multiply(sum, a, F::load_b(weights + (((dy * 7 + dx) * kSteps + s) * 32 + lane) * 4));
                }
            }
        }
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int c = 2 * t + i % 2, within = first + g + i / 2 * 8;
            const int64_t column = int64_t{adjoint.features.column} + 3 + within;
            if (c < p.image.channels && within < columns && column < p.image.width)
                store(adjoint.features.image * p.dx_stride[0] + c * p.dx_stride[1] + y * p.dx_stride[2] +
                          column * p.dx_stride[3],
                      sum[i]);
        }
    }
    LR_DEVICE void store(int64_t at, float value) const {
        if (p.dx_dtype == DType::kFloat32)
            static_cast<float*>(p.dx)[at] = value;
        else if (p.dx_dtype == DType::kFloat16)
            static_cast<uint16_t*>(p.dx)[at] = float_to_half(value);
        else
            static_cast<uint16_t*>(p.dx)[at] = float_to_bfloat16(value);
    }
};

template <Arithmetic M, int n>
LR_KERNEL(32 * kStemMaxWarps)
stem_weights_kernel(const StemBackwardParams p) {
    StemWeightGradients<M, n> gradients(p);
    for (int64_t item = block_index(); item < p.items; item += block_count()) gradients.run_item(item);
    gradients.finish(p.partials + block_index() * stem_gradient_elements(n, p.image.channels));
}

template <Arithmetic M, int n>
LR_KERNEL(32 * kStemMaxWarps)
stem_image_kernel(const StemBackwardParams p) {
    StemImageGradient<M, n> gradient(p);
    for (int64_t item = block_index(); item < p.items; item += block_count()) gradient.run_item(item);
}

}  // namespace learned_resizer
