// Parameters and launcher of a batch normalisation with given statistics as an affine map, and of its adjoint. Plain
// C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

// All vectors are float32, [n].
struct AffineParams {
    int64_t n;
    const float* mean;
    const float* var;
    const float* gamma;
    float eps;

    // Forward.
    const float* beta;
    float* scale;
    float* shift;

    // Adjoint; dbeta is dshift.
    const float* grad_scale;
    const float* grad_shift;
    float* grad_mean;
    float* grad_var;
    float* grad_gamma;
};

enum class AffineKernel : int32_t { kForward = 0, kBackward = 1 };

constexpr int kAffineThreads = 128;

int launch_affine(const AffineParams& params, AffineKernel kernel, int device, void* stream);

}  // namespace learned_resizer
