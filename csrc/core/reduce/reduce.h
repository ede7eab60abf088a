// Parameters and launchers of the second stage of every reduction. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

constexpr int kReduceThreads = 512;
constexpr int kReduceTensors = 4;   // most gradients of parameters that one launch writes
constexpr int kReduceChannels = 8;  // channels of a block where several values belong to one: a sector of memory
constexpr int kRunningNorms = 64;   // most norms that one launch updates
constexpr int kRunningThreads = 32;

// Joint statistics of P blocks' channels.
struct ReduceStatisticsParams {
    const float* partials;  // [P][3][N]: count, mean, M2
    int rows;               // P
    int channels, filters;  // N, and how many of them are written
    float* statistics;      // [3][filters]: mean, biased variance, unbiased variance
};

// A gradient to be written: [size[0]][size[1]][size[2]][size[3]], of any strides, in elements.
struct GradientTensor {
    void* data;
    DType dtype;
    int32_t size[4];
    int64_t stride[4];
    int64_t elements;  // the product of the sizes
};

// A vector of float32, float16 or bfloat16 to be written.
struct GradientVector {
    void* data;
    DType dtype;
};

// The sums of a prologue's adjoint. Vectors of float32 unless they say their dtype; [filters].
struct PrologueSumsParams {
    int channels, filters;  // N, the channels in memory, and the ones that are there
    // Of the input; without a mean nothing is written.
    Norm norm;
    const float* input_before;  // [2][filters]: sum g, sum g t of earlier uses, or null
    float* grad_mean;
    float* grad_var;
    GradientVector grad_gamma, grad_beta;
    // Of the skip, or null.
    const float* skip_before;  // [2][filters]: sum g, sum g u of earlier uses, or null
    float* skip_sums;          // [2][filters], with those
};

struct ReduceGradientsParams {
    // [P][pitch]. A row has the elements of each tensor, in its logical order, one tensor after another; then, with a
    // prologue, [3][N]: sum g t, sum g, sum g u.
    const float* partials;
    int rows, tensors;
    int64_t pitch;
    GradientTensor tensor[kReduceTensors];
    PrologueSumsParams prologue;  // channels 0: without
};

// A batch normalisation's running statistics.
struct RunningNorm {
    GradientVector mean, var;
    int64_t* tracked;         // batches so far
    float momentum;           // negative: 1 / batches
    const float* statistics;  // [3][filters], rows row_stride apart: mean, biased variance, unbiased variance
};

struct RunningStatisticsParams {
    int64_t row_stride;
    int norms, filters;
    RunningNorm norm[kRunningNorms];
};

int launch_reduce_statistics(const ReduceStatisticsParams& params, int device, void* stream);
int launch_reduce_gradients(const ReduceGradientsParams& params, int device, void* stream);
int launch_running_statistics(const RunningStatisticsParams& params, int device, void* stream);

}  // namespace learned_resizer
