// The second stage of every reduction. The kernels of csrc/core write a row of partial results a block; here they are
// added in float64 in a fixed order, bitwise reproducible for a given number of rows, and every result goes where it
// belongs: one launch, no copies after it.
//
// Threads are [groups][columns]; a thread adds every groups-th row of its column, loads kLoads of them before it adds
// the first, and a tree adds the groups. A launch is as long as its round trips to L2: one for 264 rows, two blocks on
// each of 132 multiprocessors.
#pragma once

#include "common/parameter.cuh"
#include "reduce/reduce.h"

namespace learned_resizer {

// The place of this thread among kColumns columns, and sums over its groups.
template <int kColumns>
struct ReduceGroups {
    static constexpr int kGroups = kReduceThreads / kColumns;
    static constexpr int kLoads = (264 + kGroups - 1) / kGroups;
    static constexpr int kBytes = 8 * kReduceThreads;

    // The sum over the groups of each column, for all threads; overwrites `shared` [kGroups][kColumns].
    LR_DEVICE static void add(double value, double* shared) {
        shared[thread_index()] = value;
        barrier();
        LR_NO_UNROLL
        for (int half = kReduceThreads / 2; half >= kColumns; half /= 2) {
            if (thread_index() < half) shared[thread_index()] += shared[thread_index() + half];
            barrier();
        }
    }

    // Calls use(values) for this thread's rows, kLoads at a time: values[i][k] of load(row, k), 0 beyond the last row.
    template <int K, class Load, class Use>
    LR_DEVICE static void visit(int rows, const Load& load, const Use& use) {
        LR_NO_UNROLL
        for (int first = thread_index() / kColumns; first < rows; first += kLoads * kGroups) {
            float values[kLoads][K];
            LR_UNROLL
            for (int i = 0; i < kLoads; ++i) {
                const int row = first + i * kGroups;
                LR_UNROLL
                for (int k = 0; k < K; ++k) values[i][k] = row < rows ? load(row, k) : 0.0f;
            }
            LR_UNROLL
            for (int i = 0; i < kLoads; ++i) use(values[i]);
        }
    }
};

// A block has kReduceChannels channels. With count, mean and M2 of each row (Chan, Golub & LeVeque 1983):
//   mean = sum count_i mean_i / sum count_i,   M2 = sum M2_i + count_i (mean_i - mean)^2
LR_KERNEL(kReduceThreads) reduce_statistics_kernel(const ReduceStatisticsParams p) {
    using Groups = ReduceGroups<kReduceChannels>;
    double* shared = reinterpret_cast<double*>(dynamic_shared());
    const int lane = thread_index() % kReduceChannels;
    const int channel = static_cast<int>(block_index()) * kReduceChannels + lane;
    const int from = channel < p.channels ? channel : 0;
    const auto load = [&](int row, int k) {
        return load_element(p.partials + (int64_t{3} * row + k) * p.channels + from);
    };

    double count = 0.0, weighted = 0.0;
    Groups::visit<2>(p.rows, load, [&](const float (&v)[2]) {
        count += v[0];
        weighted += static_cast<double>(v[0]) * v[1];
    });
    Groups::add(count, shared);
    const double total = shared[lane];
    barrier();  // read before the next sum
    Groups::add(weighted, shared);
    const double mean = shared[lane] / (total > 1.0 ? total : 1.0);
    barrier();
    double squares = 0.0;
    Groups::visit<3>(p.rows, load, [&](const float (&v)[3]) {
        const double d = v[1] - mean;
        squares += v[2] + v[0] * d * d;
    });
    Groups::add(squares, shared);
    if (thread_index() >= kReduceChannels || channel >= p.filters) return;
    p.statistics[channel] = static_cast<float>(mean);
    p.statistics[p.filters + channel] = static_cast<float>(shared[lane] / (total > 1.0 ? total : 1.0));
    p.statistics[2 * p.filters + channel] = static_cast<float>(shared[lane] / (total > 2.0 ? total - 1.0 : 1.0));
}

struct ReduceGradients {
    static constexpr int kColumns = 32;
    using Groups = ReduceGroups<kColumns>;

    LR_HOST_DEVICE static int64_t elements(const ReduceGradientsParams& p) {
        int64_t sum = 0;
        LR_UNROLL
        for (int i = 0; i < kReduceTensors; ++i) sum += i < p.tensors ? p.tensor[i].elements : 0;
        return sum;
    }
    // Blocks of a prologue's channels come first: they have more to do.
    LR_HOST_DEVICE static int64_t prologue_blocks(const ReduceGradientsParams& p) {
        return (p.prologue.filters + kReduceChannels - 1) / kReduceChannels;
    }
    static int64_t blocks(const ReduceGradientsParams& p) {
        return prologue_blocks(p) + (elements(p) + kColumns - 1) / kColumns;
    }

    // Leaves the sums of 32 columns in shared[32].
    LR_DEVICE static void sum(const ReduceGradientsParams& p, int64_t column, double* shared) {
        double total = 0.0;
        const auto load = [&](int row, int) { return load_element(p.partials + row * p.pitch + column); };
        if (column >= 0) Groups::visit<1>(p.rows, load, [&](const float (&v)[1]) { total += v[0]; });
        Groups::add(total, shared);
    }

    LR_DEVICE static void store(const ReduceGradientsParams& p, int64_t column, float value) {
        LR_UNROLL
        for (int i = 0; i < kReduceTensors; ++i) {
            if (i >= p.tensors) return;
            const GradientTensor& t = p.tensor[i];
            if (column < t.elements) {
                const int e = static_cast<int>(column);
                const int x = e % t.size[3], y = e / t.size[3] % t.size[2];
                const int c = e / (t.size[3] * t.size[2]) % t.size[1], f = e / (t.size[3] * t.size[2] * t.size[1]);
                const int64_t at = f * t.stride[0] + c * t.stride[1] + y * t.stride[2] + x * t.stride[3];
                store_parameter(t.data, t.dtype, at, value);
                return;
            }
            column -= t.elements;
        }
    }

    // The norm's adjoint, as ops/prologue.py has it, in float64: mean sum g may be most of sum g t.
    LR_DEVICE static void store(const PrologueSumsParams& q, int c, double gt, double g, double gu) {
        if (q.norm.mean.data != nullptr) {
            double total = g, weighted = gt;
            if (q.input_before != nullptr) total += q.input_before[c], weighted += q.input_before[q.filters + c];
            const double r = inverse_root(load_parameter(q.norm.var, c) + q.norm.eps);
            const double scale = r * load_parameter(q.norm.gamma, c);
            const double grad_gamma = r * (weighted - load_parameter(q.norm.mean, c) * total);
            q.grad_mean[c] = static_cast<float>(-scale * total);
            q.grad_var[c] = static_cast<float>(-0.5 * scale * r * grad_gamma);
            store_parameter(q.grad_gamma.data, q.grad_gamma.dtype, c, static_cast<float>(grad_gamma));
            store_parameter(q.grad_beta.data, q.grad_beta.dtype, c, static_cast<float>(total));
        }
        if (q.skip_sums != nullptr) {
            if (q.skip_before != nullptr) g += q.skip_before[c], gu += q.skip_before[q.filters + c];
            q.skip_sums[c] = static_cast<float>(g);
            q.skip_sums[q.filters + c] = static_cast<float>(gu);
        }
    }
};

LR_KERNEL_RESIDENT(kReduceThreads, 2) reduce_gradients_kernel(const ReduceGradientsParams p) {
    using R = ReduceGradients;
    double* shared = reinterpret_cast<double*>(dynamic_shared());
    const int lane = thread_index() % R::kColumns;
    const int64_t first = R::elements(p), block = block_index() - R::prologue_blocks(p);
    if (block >= 0) {
        const int64_t column = block * R::kColumns + lane;
        R::sum(p, column < first ? column : -1, shared);
        if (thread_index() < R::kColumns && column < first) R::store(p, column, static_cast<float>(shared[lane]));
    } else {
        // A channel's three sums in one block.
        const int i = lane % kReduceChannels, k = lane / kReduceChannels;
        const int c = static_cast<int>(block_index()) * kReduceChannels + i;
        R::sum(p, k < 3 && c < p.prologue.filters ? first + k * p.prologue.channels + c : -1, shared);
        if (thread_index() < kReduceChannels && c < p.prologue.filters)
            R::store(p.prologue, c, shared[i], shared[kReduceChannels + i], shared[2 * kReduceChannels + i]);
    }
}

// old + w (new - old), as torch's lerp_ for a weight below 1/2, and new - (1 - w) (new - old) else; fused, as its
// kernels for a GPU are compiled, with `next` rounded to the running statistics' dtype first.
LR_DEVICE void move_towards(const GradientVector& running, int c, float next, float weight) {
    // Not load_parameter, which is for memory that nobody writes.
    float old;
    if (running.dtype == DType::kFloat32) {
        old = static_cast<const float*>(running.data)[c];
    } else {
        const uint16_t bits = static_cast<const uint16_t*>(running.data)[c];
        const bool half = running.dtype == DType::kFloat16;
        old = half ? half_to_float(bits) : Decode<BFloat16>::of({bits});
        next = half ? half_to_float(float_to_half(next)) : Decode<BFloat16>::of({float_to_bfloat16(next)});
    }
    const float moved = weight < 0.5f ? fused_multiply_add(weight, next - old, old)
                                      : fused_multiply_add(weight - 1.0f, next - old, next);
    store_parameter(running.data, running.dtype, c, moved);
}

// A block per norm.
LR_KERNEL(kRunningThreads) running_statistics_kernel(const RunningStatisticsParams p) {
    const RunningNorm& norm = p.norm[block_index()];
    const int64_t batches = *norm.tracked + 1;
    barrier();  // all have read
    if (thread_index() == 0) *norm.tracked = batches;
    const float weight = norm.momentum >= 0.0f ? norm.momentum : static_cast<float>(1.0 / static_cast<double>(batches));
    const float* statistics = norm.statistics;
    for (int c = thread_index(); c < p.filters; c += thread_count()) {
        move_towards(norm.mean, c, load_element(statistics + c), weight);
        move_towards(norm.var, c, load_element(statistics + 2 * p.row_stride + c), weight);
    }
}

}  // namespace learned_resizer
