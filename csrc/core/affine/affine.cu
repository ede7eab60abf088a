#include "affine/affine.cuh"
#include "common/launch.h"

namespace learned_resizer {

int launch_affine(const AffineParams& params, AffineKernel kernel, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    const auto instance = kernel == AffineKernel::kForward ? affine_kernel : affine_backward_kernel;
    return launch(instance, 1, kAffineThreads, 0, stream, params);
}

}  // namespace learned_resizer
