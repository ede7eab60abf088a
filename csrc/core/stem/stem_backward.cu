#include "common/launch.h"
#include "stem/stem_backward.cuh"

namespace learned_resizer {

bool fit_stem_backward(StemBackwardFit& fit, StemGradient gradient, int arithmetic, int filters, int channels,
                       int multiprocessors, int64_t most_shared) {
    // The weights' gradients share work among a fixed number of warps; the image's take fewer where they must.
    const bool weights = gradient == StemGradient::kWeights;
    for (int warps = weights ? kStemWarps : kStemMaxWarps; warps >= 2; warps -= 2) {
        fit = {warps, 1, 0};
        with_stem_backward_kernel(warps, gradient, static_cast<Arithmetic>(arithmetic), filters, channels,
                                  [&](auto, const StemBackwardInstance& k) {
                                      if (k.shared_bytes > most_shared) return;
                                      // A block may have a multiprocessor's memory but for the KiB that each reserves.
                                      const auto resident =
                                          std::min<int64_t>(k.blocks, (most_shared + 1024) / (k.shared_bytes + 1024));
                                      fit = {warps, k.height, resident * multiprocessors};
                                  });
        if (fit.resident > 0) return true;
        if (weights) return false;
    }
    return false;
}

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int device,
                         void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    const int g = static_cast<int>(gradient), warps = params.plan.warps[g];
    with_stem_backward_kernel(warps, gradient, static_cast<Arithmetic>(arithmetic), params.weights.filters,
                              params.format.channels, [&](auto kernel, const StemBackwardInstance& k) {
                                  error =
                                      launch(kernel, params.plan.blocks[g], 32 * warps, k.shared_bytes, stream, params);
                              });
    return error;
}

}  // namespace learned_resizer
