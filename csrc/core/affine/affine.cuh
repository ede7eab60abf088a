// A batch normalisation with given statistics as one affine map per channel: one launch instead of several tiny ones.
//
//   forward   r = 1 / sqrt(var + eps),   scale = gamma r,   shift = beta - mean scale
//   adjoint   g = dscale - mean dshift
//             dgamma = r g,   dbeta = dshift,   dmean = -scale dshift,   dvar = -gamma r^3 g / 2
#pragma once

#include "affine/affine.h"
#include "common/device.cuh"

namespace learned_resizer {

LR_KERNEL(kAffineThreads) affine_kernel(const AffineParams p) {
    for (int64_t c = thread_index(); c < p.n; c += thread_count()) {
        const float scale = p.gamma[c] * inverse_root(p.var[c] + p.eps);
        p.scale[c] = scale;
        p.shift[c] = fused_multiply_add(-p.mean[c], scale, p.beta[c]);
    }
}

LR_KERNEL(kAffineThreads) affine_backward_kernel(const AffineParams p) {
    for (int64_t c = thread_index(); c < p.n; c += thread_count()) {
        const float r = inverse_root(p.var[c] + p.eps), scale = p.gamma[c] * r;
        const float g = fused_multiply_add(-p.mean[c], p.grad_shift[c], p.grad_scale[c]);
        p.grad_gamma[c] = r * g;
        p.grad_mean[c] = -scale * p.grad_shift[c];
        p.grad_var[c] = -0.5f * scale * r * r * g;
    }
}

}  // namespace learned_resizer
