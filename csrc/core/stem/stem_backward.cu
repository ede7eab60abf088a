#include "common/launch.h"
#include "stem/stem_backward.cuh"

namespace learned_resizer {

bool fit_stem_backward(StemBackwardParams& params, StemGradient gradient, int arithmetic, int multiprocessors,
                       int64_t most_shared) {
    for (int warps = kStemMaxWarps; warps >= 2; warps -= 2) {
        plan_stem_backward(params, gradient, multiprocessors, warps);
        bool fits = false;
        with_stem_backward_kernel(params, gradient, static_cast<Arithmetic>(arithmetic),
                                  [&](auto, int shared_bytes) { fits = shared_bytes <= most_shared; });
        if (fits) return true;
    }
    return false;
}

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int device,
                         void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_stem_backward_kernel(
        params, gradient, static_cast<Arithmetic>(arithmetic), [&](auto kernel, int shared_bytes) {
            error = launch(kernel, params.blocks, 32 * params.warps, shared_bytes, stream, params);
        });
    return error;
}

}  // namespace learned_resizer
