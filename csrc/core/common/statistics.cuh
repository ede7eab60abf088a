// Count, mean and M2 (the sum of squared deviations from the mean) per channel, merged in Chan's form (Chan, Golub &
// LeVeque 1983): M2 = M2a + M2b + d^2 na nb / (na + nb) with d = mean_b - mean_a. Sum c^2 - (sum c)^2 / M would lose
// the digits that a mean far from zero takes. The merges have a fixed order: bitwise reproducible.
#pragma once

#include "common/warp.cuh"

namespace learned_resizer {

// Statistics of the values that one lane has added for its C channels.
template <int C>
struct LaneMoments {
    float count = 0.0f;
    float mean[C] = {};
    float m2[C] = {};

    // Adds R values per channel, value(r, i) for channel i, those with valid[r] only: their mean first, then the
    // deviations from it, then the merge.
    template <int R, class Value>
    LR_DEVICE void add(const bool (&valid)[R], const Value& value) {
        float more = 0.0f;
        LR_UNROLL
        for (int r = 0; r < R; ++r) more += valid[r] ? 1.0f : 0.0f;
        const float inverse = more > 0.0f ? 1.0f / more : 0.0f;
        const float total = count + more;
        const float part = total > 0.0f ? more / total : 0.0f;
        LR_UNROLL
        for (int i = 0; i < C; ++i) {
            float sum = 0.0f;
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum += valid[r] ? value(r, i) : 0.0f;
            const float center = sum * inverse;
            float squares = 0.0f;
            LR_UNROLL
            for (int r = 0; r < R; ++r) {
                const float d = valid[r] ? value(r, i) - center : 0.0f;
                squares = fused_multiply_add(d, d, squares);
            }
            merge(i, center, squares, part);
        }
        count = total;
    }

    // Merges channel i with another set that makes up `part` of the two counts.
    LR_DEVICE void merge(int i, float other_mean, float other_m2, float part) {
        const float delta = other_mean - mean[i];
        mean[i] = fused_multiply_add(delta, part, mean[i]);
        m2[i] += fused_multiply_add(delta * delta, count * part, other_m2);
    }
};

// Channel of value i of the lanes t, t + 4, ..., as in a fragment.
struct FragmentChannel {
    LR_DEVICE int operator()(int t, int i) const { return 8 * (i / 2) + 2 * t + i % 2; }
};

// Merges all lanes of all warps of a block into partial[3][filters] (count, mean, M2), filters being at most 4C.
// `shared`: [warps][3][4C], free. All threads call it; it begins and ends with a barrier.
template <int C, class Channel = FragmentChannel>
LR_DEVICE void store_moments(LaneMoments<C>& lane, float* shared, float* partial, int filters = 4 * C,
                             const Channel& channel = {}) {
    constexpr int n = 4 * C;
    LR_UNROLL
    for (int mask = 4; mask < 32; mask *= 2) {
        const float count = shuffle_xor(lane.count, mask);
        const float total = lane.count + count;
        const float part = total > 0.0f ? count / total : 0.0f;
        LR_UNROLL
        for (int i = 0; i < C; ++i) {
            const float mean = shuffle_xor(lane.mean[i], mask);
            const float m2 = shuffle_xor(lane.m2[i], mask);
            lane.merge(i, mean, m2, part);
        }
        lane.count = total;
    }
    barrier();
    // Eight lanes now hold the same channels; the first one writes them.
    if (lane_index() < 4) {
        float* to = shared + warp_index() * 3 * n;
        LR_UNROLL
        for (int i = 0; i < C; ++i) {
            const int c = channel(lane_index(), i);
            to[c] = lane.count;
            to[n + c] = lane.mean[i];
            to[2 * n + c] = lane.m2[i];
        }
    }
    barrier();
    const int c = thread_index();
    if (c < filters) {
        LaneMoments<1> sum;
        for (int w = 0; w < warp_count(); ++w) {
            const float* from = shared + w * 3 * n + c;
            const float total = sum.count + from[0];
            sum.merge(0, from[n], from[2 * n], total > 0.0f ? from[0] / total : 0.0f);
            sum.count = total;
        }
        partial[c] = sum.count;
        partial[filters + c] = sum.mean[0];
        partial[2 * filters + c] = sum.m2[0];
    }
    barrier();
}

// What the gradients of mean and variance over `pixels` values add to the gradient of a value x: constant + factor x.
struct StatisticsGradient {
    float constant, factor;

    LR_DEVICE StatisticsGradient(float mean, float grad_mean, float grad_var, int64_t pixels) {
        factor = 2.0f * grad_var / static_cast<float>(pixels);
        constant = grad_mean / static_cast<float>(pixels) - mean * factor;
    }
};

// A block's row of partial results: each warp's add(total), one after another in a fixed order. `total`: [count] in
// shared memory, which may be in use until here. All threads call it.
template <class Add>
LR_DEVICE void sum_warps(float* total, int count, float* partial, const Add& add) {
    barrier();
    for (int i = thread_index(); i < count; i += thread_count()) total[i] = 0.0f;
    barrier();
    LR_NO_UNROLL
    for (int w = 0; w < warp_count(); ++w) {
        if (w == warp_index()) add(total);
        barrier();
    }
    for (int i = thread_index(); i < count; i += thread_count()) partial[i] = total[i];
}

}  // namespace learned_resizer
