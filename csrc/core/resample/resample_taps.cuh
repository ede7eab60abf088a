// Horizontal taps of the resample kernel, for all rows of a batch at once: each weight is read once for R rows.
#pragma once

#include "common/device.cuh"

namespace learned_resizer {

// A: accumulator. R: rows of a batch. kOutputs: neighbouring outputs that a thread makes. E: elements from one row to
// the next.
template <class A, int R, int kOutputs, int E>
struct ColumnTaps {
    LR_DEVICE static Pair<A> pair(const A* p) { return *reinterpret_cast<const Pair<A>*>(p); }

    // Two taps of one output that are neighbours in memory; the planner made every first tap even.
    LR_DEVICE static void add_neighbours(A (&sum)[R][kOutputs], const A* from, const A* weight) {
        Pair<A> x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = pair(from + r * E);
        add_pair(sum, pair(weight), x);
    }
    // Two taps of one output that are a pixel of interleaved channels apart.
    LR_DEVICE static void add_strided(A (&sum)[R][kOutputs], const A* from, int step, const A* weight) {
        Pair<A> x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = {from[r * E], from[r * E + step]};
        add_pair(sum, pair(weight), x);
    }
    LR_DEVICE static void add_pair(A (&sum)[R][kOutputs], const Pair<A>& w, const Pair<A> (&x)[R]) {
        LR_UNROLL
        for (int r = 0; r < R; ++r) add_weighted(w.x, x[r].x, sum[r][0]);
        LR_UNROLL
        for (int r = 0; r < R; ++r) add_weighted(w.y, x[r].y, sum[r][0]);
    }
    // One tap that four neighbouring outputs share.
    LR_DEVICE static void add_shared(A (&sum)[R][kOutputs], const A* from, const A* weight) {
        const Quad<A> w = *reinterpret_cast<const Quad<A>*>(weight);
        A x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = from[r * E];
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            LR_UNROLL
            for (int o = 0; o < kOutputs; ++o) add_weighted(w.v[o], x[r], sum[r][o]);
        }
    }
};

}  // namespace learned_resizer
