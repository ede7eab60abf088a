#include "common/launch.h"
#include "stem/stem_backward.cuh"

namespace learned_resizer {

bool fit_stem_backward(StemBackwardParams& params, StemGradient gradient, int arithmetic, int multiprocessors,
                       int64_t most_shared) {
    // The weights' gradients share work among a fixed number of warps; the image's take fewer where they must.
    const bool weights = gradient == StemGradient::kWeights;
    for (params.warps = weights ? kStemWarps : kStemMaxWarps; params.warps >= 2; params.warps -= 2) {
        int64_t resident = 0;
        int height = 1;
        with_stem_backward_kernel(
            params, gradient, static_cast<Arithmetic>(arithmetic), [&](auto, const StemBackwardInstance& k) {
                if (k.shared_bytes > most_shared) return;
                // A block may have a multiprocessor's memory but for the KiB that each reserves.
                resident = std::min<int64_t>(k.blocks, (most_shared + 1024) / (k.shared_bytes + 1024));
                height = k.height;
            });
        if (resident > 0) {
            plan_stem_backward(params, gradient, params.warps, height, resident * multiprocessors);
            return true;
        }
        if (weights) return false;
    }
    return false;
}

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int device,
                         void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_stem_backward_kernel(
        params, gradient, static_cast<Arithmetic>(arithmetic), [&](auto kernel, const StemBackwardInstance& k) {
            error = launch(kernel, params.blocks, 32 * params.warps, k.shared_bytes, stream, params);
        });
    return error;
}

}  // namespace learned_resizer
