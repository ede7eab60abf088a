// The features of the stem at input resolution, a few rows at a time and never in memory:
//
//   a = lrelu(W0 * x + b0)   7x7, zero padding        c = lrelu(W1 a + b1)   1x1
//
// A block owns 16 columns per warp and walks down the image. Its image rows are in a ring in shared memory, four
// channels per pixel. The 7x7 is a matrix product for each kernel row: 8 taps (the last with zero weights) of 4
// channels are 32 terms. With 16-bit elements a pixel is kept with its right neighbour behind it: 16 bytes are two
// taps, a row of a matrix as ldmatrix reads it, for the features and, transposed, for the gradient of their weights. A
// lane keeps the fragments of kRows image rows and moves on by a row for each kernel row, so every image row and every
// weight is read once for kRows rows of c. Non-finite pixels reach four columns to the left, not three: 0 * inf is NaN
// in the eighth tap.
#pragma once

#include "common/fragment.cuh"
#include "common/parameter.cuh"
#include "stem/stem.h"

namespace learned_resizer {

// n: channels of the maps. R: rows that a warp makes together, 1 ... 3, as many as the registers of the kernel leave
// room for.
template <Arithmetic M, int n, int R>
struct StemFeatures {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr int kRows = R;
    static constexpr int kTiles = n / 8;  // column tiles of a product
    static constexpr int kSteps = n / 16;
    static constexpr int kPixel = kIs16Bit<M> ? 8 : 4;  // elements of a pixel in the ring
    // Kernel rows: with several rows the window's slots must be constants; with one, unrolling would only take
    // registers.
    static constexpr int kUnroll = R == 1 ? 1 : 7;
    // Pixels that a thread loads for R rows: R (16 w + kStemPad) / 32 w of them, w >= 2 warps.
    static constexpr int kLoads = (R + 2) / 2;
    static constexpr int kW0 = 7 * 2 * 32 * kTiles * 4;
    static constexpr int kW1 = kSteps * 32 * kTiles * 4;

    S* ring;             // [kStemRing][16 warps + kStemPad][kPixel]
    S* w0;               // [7 kernel rows][2 steps][32 lanes][kTiles][4]
    S* w1;               // [kSteps][32 lanes][kTiles][4], chained terms
    float* bias;         // [2][n]: b0, b1
    float* map;          // [2][4]: of a uint8 image's channels, scale and shift
    const StemImage& x;  // in shared memory: the one image of the item
    const StemFormat& format;
    float slope;
    int pitch;   // pixels of a ring row
    int column;  // of the image, of the block's first
    // Of each pixel that the thread loads: its place in the ring, row << 16 | column, negative where the column is
    // outside the image; and its address in the next rows.
    int32_t place[kLoads];
    int64_t from[kLoads];

    LR_HOST_DEVICE static constexpr int shared_bytes(int warps) {
        return static_cast<int>(sizeof(S)) * (kStemRing * (kStemWarpColumns * warps + kStemPad) * kPixel + kW0 + kW1) +
               (2 * n + 8) * static_cast<int>(sizeof(float));
    }

    LR_DEVICE StemFeatures(unsigned char* shared, const StemImage& image, const StemFormat& images,
                           const StemWeights& weights)
        : x(image), format(images), slope(weights.negative_slope), pitch(kStemWarpColumns * warp_count() + kStemPad) {
        bias = reinterpret_cast<float*>(shared);
        map = bias + 2 * n;
        w0 = reinterpret_cast<S*>(map + 8);
        w1 = w0 + kW0;
        ring = w1 + kW1;
        load_weights<kW0, 7>(w0, weights.w0, thread_count(), F::encode, [&](uint32_t i) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles) % 2;
            const int term = kIs16Bit<M> ? chained_term(lane % 4, i % 4) : linear_term(lane % 4, i % 4), c = term % 4;
            const int dy = i / (256 * kTiles), dx = 4 * step + term / 4, filter = 8 * tile + lane / 4;
            const bool exists = dx < 7 && c < format.channels && filter < weights.filters;
            return exists ? weight_place(weights.w0, filter, c, dy, dx) : -1;
        });
        load_weights<kW1, 2>(w1, weights.w1, thread_count(), F::encode, [&](uint32_t i) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles);
            const int from = 16 * step + chained_term(lane % 4, i % 4), filter = 8 * tile + lane / 4;
            return filter < weights.filters && from < weights.filters ? weight_place(weights.w1, filter, from, 0, 0)
                                                                      : -1;
        });
        for (int i = thread_index(); i < 2 * n; i += thread_count())
            bias[i] = i % n < weights.filters ? load_parameter(i < n ? weights.b0 : weights.b1, i % n) : 0.0f;
        // (v / 255 - mean) / std
        if (const int c = thread_index(); c < 4 && format.dtype == DType::kUInt8) {
            const float inverse = c < format.channels ? 1.0f / load_parameter(format.std, c) : 0.0f;
            map[c] = inverse * (1.0f / 255.0f);
            map[4 + c] = c < format.channels ? -load_parameter(format.mean, c) * inverse : 0.0f;
        }
    }

    // Raw pixels on their way from global memory to the ring.
    struct Raw {
        uint32_t bits[kLoads][4];
    };

    // Requests image rows `row` ... row + kRows - 1, which follow those requested before.
    LR_DEVICE void request(Raw& raw, int row) {
        // One test for all pixels.
        if (format.dtype == DType::kFloat32)
            request_as<float>(raw, row);
        else if (format.dtype == DType::kUInt8)
            request_as<uint8_t>(raw, row);
        else
            request_as<Half>(raw, row);
    }
    template <class T>
    LR_DEVICE void request_as(Raw& raw, int row) {
        LR_UNROLL
        for (int l = 0; l < kLoads; ++l) {
            LR_UNROLL
            for (int c = 0; c < 4; ++c) raw.bits[l][c] = 0u;
            if (inside(l, row)) {
                int64_t at = from[l];
                LR_UNROLL
                for (int c = 0; c < 4; ++c, at += x.stride[1])
                    if (c == 0 || c < format.channels)
                        raw.bits[l][c] = bits_of(load_element(reinterpret_cast<const T*>(at)));
            }
            from[l] += kRows * x.stride[2];
        }
    }
    LR_DEVICE bool inside(int l, int row) const {
        const int y = kRows == 1 ? row : row + (place[l] >> 16);
        return place[l] >= 0 && static_cast<uint32_t>(y) < static_cast<uint32_t>(x.height);
    }
    // Stores them in the ring, converted; zero outside the image.
    LR_DEVICE void store(Raw& raw, int row) const {
        // Bits of the arithmetic's own type stay as they are.
        if (!kIs16Bit<M> || format.dtype != kStored) convert(raw, row);
        LR_UNROLL
        for (int l = 0; l < kLoads; ++l) {
            // R >= 2 rows have at least 32 w pixels.
            if ((l > 0 || kRows == 1) && thread_index() + l * thread_count() >= kRows * pitch) continue;
            const int spot = opaque(place[l]), at = spot & 0xffff, r = kRows == 1 ? 0 : spot >> 16 & 0x7fff;
            S* to = ring + (ring_row(row + r) * pitch + at) * kPixel;
            const uint32_t (&v)[4] = raw.bits[l];
            if constexpr (kIs16Bit<M>) {
                const Pair<uint32_t> words{v[0] | v[1] << 16, v[2] | v[3] << 16};
                *reinterpret_cast<Pair<uint32_t>*>(to) = words;
                if (at > 0) *reinterpret_cast<Pair<uint32_t>*>(to - 4) = words;
            } else {
                *reinterpret_cast<Quad<uint32_t>*>(to) = {{v[0], v[1], v[2], v[3]}};
            }
        }
    }
    LR_DEVICE void convert(Raw& raw, int row) const {
        if (format.dtype == DType::kFloat32)
            each(raw, [&](uint32_t bits, int, int) { return float_from_bits(bits); });
        else if (format.dtype == DType::kFloat16)
            each(raw, [&](uint32_t bits, int, int) { return half_to_float(static_cast<uint16_t>(bits)); });
        else if (format.dtype == DType::kBFloat16)
            each(raw, [&](uint32_t bits, int, int) { return float_from_bits(bits << 16); });
        else
            each(raw, [&](uint32_t bits, int l, int c) {
                return inside(l, opaque(row)) ? fused_multiply_add(static_cast<float>(bits), map[c], map[4 + c]) : 0.0f;
            });
    }
    template <class Value>
    LR_DEVICE static void each(Raw& raw, const Value& value) {
        LR_UNROLL
        for (int l = 0; l < kLoads; ++l) {
            LR_UNROLL
            for (int c = 0; c < 4; ++c) {
                const float v = value(raw.bits[l][c], l, c);
                if constexpr (kIs16Bit<M>)
                    raw.bits[l][c] = F::encode(v);
                else
                    raw.bits[l][c] = bits_from_float(F::encode(v));
            }
        }
    }
    LR_DEVICE static int ring_row(int row) { return row & (kStemRing - 1); }

    LR_DEVICE static uint32_t bits_of(float v) { return bits_from_float(v); }
    LR_DEVICE static uint32_t bits_of(uint8_t v) { return v; }
    LR_DEVICE static uint32_t bits_of(Half v) { return v.bits; }
    static constexpr DType kStored = M == Arithmetic::kBFloat16 ? DType::kBFloat16 : DType::kFloat16;

    // Where a lane reads the image for its part of a product's operand: of the warp's first pixel, in any ring row.
    // Step s of a kernel row is four pixels on.
    LR_DEVICE const S* window(int warp) const {
        const int lane = lane_index(), first = kStemWarpColumns * warp;
        // Matrices: pixels 0-7 and 8-15 of the first two taps, then of the next two.
        if constexpr (kIs16Bit<M>) return ring + (first + lane % 16 + lane / 16 * 2) * kPixel;
        return ring + (first + lane / 4 + lane % 4) * kPixel;
    }
    LR_DEVICE static typename F::A load_window(const S* at) {
        if constexpr (kIs16Bit<M>) {
            typename F::A a;
            load_matrices(a.r, at);
            return a;
        } else {
            return F::load_a(at, at + 8 * kPixel);
        }
    }

    // Fills the ring for the features of rows row ... row + kRows - 1; image rows are requested in order from here.
    LR_DEVICE void begin(int row) {
        LR_UNROLL
        for (int l = 0; l < kLoads; ++l) {
            const int i = thread_index() + l * thread_count(), r = i / pitch, at = i - r * pitch;
            const int64_t y = int64_t{row} - 3 + r, column_at = int64_t{column} - 3 + at;
            const bool reads = r < kRows && column_at >= 0 && column_at < x.width;
            place[l] = (reads ? 0 : INT32_MIN) | r << 16 | at;
            from[l] = reinterpret_cast<int64_t>(x.data) + y * x.stride[2] + column_at * x.stride[3];
        }
        LR_NO_UNROLL
        for (int r = -3; r < kRows + 3; r += kRows) {
            Raw raw;
            request(raw, row + r);
            store(raw, row + r);
        }
    }
    // First of the image rows that the step after `row` adds. `begin` has filled a multiple of kRows rows.
    LR_DEVICE static constexpr int next(int row) { return row - 3 + (kRows + 6 + kRows - 1) / kRows * kRows; }

    // LeakyReLU: the larger of v and slope v, or with a slope above 1 the smaller.
    LR_DEVICE void activate(float (&v)[kRows][kTiles][4]) const {
        if (slope <= 1.0f)
            each(v, [&](float x) { return maximum(x, x * slope); });
        else
            each(v, [&](float x) { return minimum(x, x * slope); });
    }
    template <class Map>
    LR_DEVICE static void each(float (&v)[kRows][kTiles][4], const Map& map) {
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            LR_UNROLL
            for (int j = 0; j < kTiles; ++j) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) v[q][j][i] = map(v[q][j][i]);
            }
        }
    }

    // Adds the products of every row's operand, operand(q), with the weights of a step, whose column tiles lie next to
    // each other: 16 bytes at a time.
    template <class Operand>
    LR_DEVICE static void multiply(float (&sum)[kRows][kTiles][4], const S* weights, const Operand& operand) {
        constexpr int kTogether = kIs16Bit<M> ? 2 : 1;
        LR_UNROLL
        for (int j = 0; j < kTiles; j += kTogether) {
            const auto words = *reinterpret_cast<const Quad<uint32_t>*>(weights + 4 * j);
            LR_UNROLL
            for (int i = 0; i < kTogether; ++i) {
                typename F::B b;
                if constexpr (kIs16Bit<M>)
                    b = {{words.v[2 * i], words.v[2 * i + 1]}};
                else
                    b = F::load_b(weights + 4 * j);
                LR_UNROLL
                for (int q = 0; q < kRows; ++q) F::multiply(sum[q][j + i], operand(q), b);
            }
        }
    }

    // A bias as the sums' first term.
    LR_DEVICE static void start(float (&sum)[kRows][kTiles][4], const float* from) {
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            const Pair<float> two = *reinterpret_cast<const Pair<float>*>(from + 8 * j + lane_index() % 4 * 2);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) sum[q][j][i] = i % 2 == 0 ? two.x : two.y;
            }
        }
    }

    // a and c of rows row ... row + kRows - 1 at the warp's columns, as fragments.
    LR_DEVICE void compute(int row, float (&a)[kRows][kTiles][4], float (&c)[kRows][kTiles][4]) const {
        const int lane = lane_index();
        const S* first = window(warp_index());
        start(a, bias);
        typename F::A taps[kRows][2];  // image row r is in slot r % kRows
        LR_UNROLL_BY(kUnroll)
        for (int dy = 0; dy < 7; ++dy) {
            LR_UNROLL
            for (int r = dy == 0 ? 0 : kRows - 1 + dy; r < kRows + dy; ++r) {
                const S* pixel = first + ring_row(row - 3 + r) * pitch * kPixel;
                LR_UNROLL
                for (int s = 0; s < 2; ++s) taps[r % kRows][s] = load_window(pixel + 4 * s * kPixel);
            }
            LR_UNROLL
            for (int s = 0; s < 2; ++s) {
                multiply(a, w0 + ((dy * 2 + s) * 32 + lane) * kTiles * 4,
                         [&](int q) -> const typename F::A& { return taps[(q + dy) % kRows][s]; });
            }
        }
        activate(a);
        start(c, bias + n);
        LR_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            multiply(c, w1 + (s * 32 + lane) * kTiles * 4,
                     [&](int q) { return F::chain(a[q][2 * s], a[q][2 * s + 1]); });
        }
        activate(c);
    }
};

}  // namespace learned_resizer
