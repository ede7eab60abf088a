// The prologue of conv and head, and its adjoint.
//
//   forward   v = lrelu(scale t + shift [+ skip_scale u + skip_shift]),   scale and shift of a norm: parameter.cuh;
//             applied as a tile is loaded (tile.cuh)
//   adjoint   g' = dv lrelu'(v),   dt = scale g',   du = skip_scale g', each with that of earlier uses
//             sum g' t,   sum g',   sum g' u, of which the second stage makes the norms' gradients
#pragma once

#include "common/convolve.cuh"
#include "common/tile.cuh"

namespace learned_resizer {

template <Arithmetic M, int n>
struct Prologue {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr int kLane = Convolve3<M, n>::kLane;  // channels of a lane
    using Channels = Words<S, kLane>;

    const PrologueParams& p;
    float* affine;  // [3][n] in shared memory: scale, shift of both, skip_scale

    // The caller adds a barrier before `source` or `adjoint` are used.
    LR_DEVICE Prologue(const PrologueParams& params, float* shared) : p(params), affine(shared) {
        const bool skip = p.skip != nullptr;
        for (int c = thread_index(); c < n; c += thread_count()) {
            const bool exists = c < p.filters;
            affine[c] = exists ? scale_of(p.norm, c) : 0.0f;
            affine[n + c] = exists ? shift_of(p.norm, c) + (skip ? shift_of(p.skip_norm, c) : 0.0f) : 0.0f;
            affine[2 * n + c] = exists && skip ? scale_of(p.skip_norm, c) : 0.0f;
        }
    }
    LR_DEVICE TileSource source() const { return {p.input, p.skip, affine, p.negative_slope}; }

    LR_DEVICE static float element(const Channels& words, int i) { return TileLoader<M, n>::element(words.word, i); }
    LR_DEVICE static Channels load_lane(const S* from) { return load_words<S, kLane>(from); }
    // From shared memory, or of what this kernel writes: not through the read-only cache.
    LR_DEVICE static Channels load_written(const S* from) {
        struct alignas(sizeof(Channels) < 16 ? sizeof(Channels) : 16) Aligned {
            Channels words;
        };
        return reinterpret_cast<const Aligned*>(from)->words;
    }
    // A lane's channels of a pixel.
    LR_DEVICE static void store(S* to, const float (&v)[kLane]) {
        if constexpr (!kIs16Bit<M>) {
            LR_UNROLL
            for (int i = 0; i < kLane; i += 4)
                *reinterpret_cast<Quad<float>*>(to + i) = Quad<float>{{v[i], v[i + 1], v[i + 2], v[i + 3]}};
        } else if constexpr (kLane == 4) {
            *reinterpret_cast<Pair<uint32_t>*>(to) = Pair<uint32_t>{F::pack(v[0], v[1]), F::pack(v[2], v[3])};
        } else {
            *reinterpret_cast<Quad<uint32_t>*>(to) =
                Quad<uint32_t>{{F::pack(v[0], v[1]), F::pack(v[2], v[3]), F::pack(v[4], v[5]), F::pack(v[6], v[7])}};
        }
    }

    // What the adjoint reads of a pixel, at a lane's channels. Without a branch on whether the pixel exists, so that
    // the loads follow one another. Earlier gradients may be in the memory that this kernel writes.
    struct Reads {
        Channels t, u, earlier_input, earlier_skip;
    };
    LR_DEVICE void request_adjoint(Reads& r, int64_t first, int at) const {
        r.t = load_lane(place(p.input, first, at));
        if (p.skip != nullptr) r.u = load_lane(place(p.skip, first, at));
        if (p.earlier_input != nullptr) r.earlier_input = load_written(place(p.earlier_input, first, at));
        if (p.earlier_skip != nullptr) r.earlier_skip = load_written(place(p.earlier_skip, first, at));
    }
    LR_DEVICE static const S* place(const void* map, int64_t first, int at) {
        return static_cast<const S*>(map) + first + at;
    }
    LR_DEVICE static S* place(void* map, int64_t first, int at) { return static_cast<S*>(map) + first + at; }

    // Processes dv of a pixel at a lane's channels, from c on; `v` points to its v there, its place in memory is `at`
    // from `first` on. Stores dt and du and adds to the sums.
    LR_DEVICE void adjoint(const Reads& r, const float (&dv)[kLane], const S* v, int c, int64_t first, int at,
                           float (&sums)[kPrologueSums][kLane]) const {
        const Channels value = load_written(v);
        float d[kLane], total[kLane];
        LR_UNROLL
        for (int i = 0; i < kLane; ++i) {
            d[i] = element(value, i) > 0.0f ? dv[i] : dv[i] * p.negative_slope;
            sums[0][i] = fused_multiply_add(d[i], element(r.t, i), sums[0][i]);
            sums[1][i] += d[i];
            total[i] = affine[c + i] * d[i];
        }
        if (p.earlier_input != nullptr) {
            LR_UNROLL
            for (int i = 0; i < kLane; ++i) total[i] += element(r.earlier_input, i);
        }
        store(place(p.grad_input, first, at), total);
        if (p.skip == nullptr) return;
        LR_UNROLL
        for (int i = 0; i < kLane; ++i) {
            sums[2][i] = fused_multiply_add(d[i], element(r.u, i), sums[2][i]);
            total[i] = affine[2 * n + c + i] * d[i];
        }
        if (p.earlier_skip != nullptr) {
            LR_UNROLL
            for (int i = 0; i < kLane; ++i) total[i] += element(r.earlier_skip, i);
        }
        store(place(p.grad_skip, first, at), total);
    }

    // Adds up the lanes of a warp that hold the same channels.
    LR_DEVICE static void reduce(float (&sums)[kPrologueSums][kLane]) {
        LR_UNROLL
        for (int mask = 4; mask < 32; mask *= 2) {
            LR_UNROLL
            for (int k = 0; k < kPrologueSums; ++k) {
                LR_UNROLL
                for (int i = 0; i < kLane; ++i) sums[k][i] += shuffle_xor(sums[k][i], mask);
            }
        }
    }
    // Adds a warp's reduced sums to total [kPrologueSums][filters].
    LR_DEVICE void add(const float (&sums)[kPrologueSums][kLane], float* total) const {
        if (lane_index() >= 4) return;
        LR_UNROLL
        for (int k = 0; k < kPrologueSums; ++k) {
            LR_UNROLL
            for (int i = 0; i < kLane; ++i) {
                const int c = kLane * lane_index() + i;
                if (c < p.filters) total[k * p.filters + c] += sums[k][i];
            }
        }
    }
};

}  // namespace learned_resizer
