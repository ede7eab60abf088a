// The prologue of conv and head, and its adjoint.
//
//   forward   v = lrelu(scale t + shift [+ skip_scale u + skip_shift]),   scale and shift of a norm: parameter.cuh
//   adjoint   g' = dv lrelu'(v),   dt = scale g',   du = skip_scale g', each with that of earlier uses
//             sum g' t,   sum g',   sum g' u, of which the second stage makes the norms' gradients
#pragma once

#include "common/fragment.cuh"
#include "common/parameter.cuh"
#include "common/prologue.h"

namespace learned_resizer {

template <Arithmetic M, int n>
struct Prologue {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr int kTiles = n / 8;
    static constexpr int kChunk = 16 / static_cast<int>(sizeof(S));  // channels of a 16-byte access
    static constexpr int kChunks = n / kChunk;
    struct alignas(2 * sizeof(S)) Two {
        uint32_t word[sizeof(S) / 2];
    };

    const PrologueParams& p;
    float* affine;  // [3][n] in shared memory: scale, shift of both, skip_scale

    // The caller adds a barrier before `value` or `adjoint`.
    LR_DEVICE Prologue(const PrologueParams& params, float* shared) : p(params), affine(shared) {
        const bool skip = p.skip != nullptr;
        for (int c = thread_index(); c < n; c += thread_count()) {
            const bool exists = c < p.filters;
            affine[c] = exists ? scale_of(p.norm, c) : 0.0f;
            affine[n + c] = exists ? shift_of(p.norm, c) + (skip ? shift_of(p.skip_norm, c) : 0.0f) : 0.0f;
            affine[2 * n + c] = exists && skip ? scale_of(p.skip_norm, c) : 0.0f;
        }
    }

    LR_DEVICE static float element(const uint32_t* words, int i) {
        if constexpr (kIs16Bit<M>)
            return F::decode(static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))));
        else
            return float_from_bits(words[i]);
    }
    LR_DEVICE static Words<S, kChunk> load_chunk(const void* map, int64_t at) {
        return load_words<S, kChunk>(static_cast<const S*>(map) + at);
    }
    LR_DEVICE static void store_chunk(S* to, const float (&v)[kChunk]) {
        if constexpr (kIs16Bit<M>) {
            *reinterpret_cast<Quad<uint32_t>*>(to) =
                Quad<uint32_t>{{F::pack(v[0], v[1]), F::pack(v[2], v[3]), F::pack(v[4], v[5]), F::pack(v[6], v[7])}};
        } else {
            *reinterpret_cast<Quad<float>*>(to) =
                Quad<float>{{F::encode(v[0]), F::encode(v[1]), F::encode(v[2]), F::encode(v[3])}};
        }
    }
    LR_DEVICE static void store_two(void* map, int64_t at, float low, float high) {
        if constexpr (kIs16Bit<M>)
            *reinterpret_cast<uint32_t*>(static_cast<S*>(map) + at) = F::pack(low, high);
        else
            *reinterpret_cast<Pair<float>*>(static_cast<float*>(map) + at) = Pair<float>{low, high};
    }

    // Adds what is at `earlier`, if anything: it may be `map`, so it does not go through the read-only cache.
    LR_DEVICE static void store_total(void* map, const void* earlier, int64_t at, float low, float high) {
        if (earlier != nullptr) {
            const auto e = *reinterpret_cast<const Two*>(static_cast<const S*>(earlier) + at);
            low += element(e.word, 0), high += element(e.word, 1);
        }
        store_two(map, at, low, high);
    }

    LR_DEVICE int64_t offset(int64_t image, int64_t y, int64_t x) const {
        return ((image * p.height + y) * p.width + x) * n;
    }

    // v at kChunk channels from c on, `at` being the offset of the pixel.
    LR_DEVICE void value(float (&v)[kChunk], int64_t at, int c) const {
        const auto t = load_chunk(p.input, at + c);
        LR_UNROLL
        for (int j = 0; j < kChunk; ++j)
            v[j] = fused_multiply_add(affine[c + j], element(t.word, j), affine[n + c + j]);
        if (p.skip != nullptr) {
            const auto u = load_chunk(p.skip, at + c);
            LR_UNROLL
            for (int j = 0; j < kChunk; ++j) v[j] = fused_multiply_add(affine[2 * n + c + j], element(u.word, j), v[j]);
        }
        LR_UNROLL
        for (int j = 0; j < kChunk; ++j)
            if (!(v[j] > 0.0f)) v[j] *= p.negative_slope;
    }

    // Processes dv of a pixel at a lane's channels 8j + 2t and 8j + 2t + 1, where `v` points; `at` is of the pixel.
    // Stores dt and du and adds to the sums.
    LR_DEVICE void adjoint(int j, const float (&dv)[2], const S* v, int64_t at,
                           float (&sums)[kPrologueSums][kTiles][2]) const {
        const int c = 8 * j + lane_index() % 4 * 2;
        const auto t = load_words<S, 2>(static_cast<const S*>(p.input) + at + c);
        float d[2];
        LR_UNROLL
        for (int i = 0; i < 2; ++i) {
            d[i] = F::decode(v[i]) > 0.0f ? dv[i] : dv[i] * p.negative_slope;
            sums[0][j][i] = fused_multiply_add(d[i], element(t.word, i), sums[0][j][i]);
            sums[1][j][i] += d[i];
        }
        store_total(p.grad_input, p.earlier_input, at + c, affine[c] * d[0], affine[c + 1] * d[1]);
        if (p.skip == nullptr) return;
        const auto u = load_words<S, 2>(static_cast<const S*>(p.skip) + at + c);
        LR_UNROLL
        for (int i = 0; i < 2; ++i) sums[2][j][i] = fused_multiply_add(d[i], element(u.word, i), sums[2][j][i]);
        store_total(p.grad_skip, p.earlier_skip, at + c, affine[2 * n + c] * d[0], affine[2 * n + c + 1] * d[1]);
    }

    // Adds up the lanes of a warp that hold the same channels.
    LR_DEVICE static void reduce(float (&sums)[kPrologueSums][kTiles][2]) {
        LR_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) {
            LR_UNROLL
            for (int k = 0; k < kPrologueSums; ++k) {
                LR_UNROLL
                for (int j = 0; j < kTiles; ++j) {
                    LR_UNROLL
                    for (int i = 0; i < 2; ++i) sums[k][j][i] += shuffle_xor(sums[k][j][i], mask);
                }
            }
        }
    }
    // Adds a warp's reduced sums to total [kPrologueSums][filters].
    LR_DEVICE void add(const float (&sums)[kPrologueSums][kTiles][2], float* total) const {
        if (lane_index() >= 4) return;
        LR_UNROLL
        for (int k = 0; k < kPrologueSums; ++k) {
            LR_UNROLL
            for (int j = 0; j < kTiles; ++j) {
                LR_UNROLL
                for (int i = 0; i < 2; ++i) {
                    const int c = 8 * j + 2 * lane_index() + i;
                    if (c < p.filters) total[k * p.filters + c] += sums[k][j][i];
                }
            }
        }
    }
};

}  // namespace learned_resizer
