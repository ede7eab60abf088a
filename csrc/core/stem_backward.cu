#include "launch.h"
#include "stem_backward_variants.h"

namespace learned_resizer {

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int num_filters,
                         int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_stem_backward_kernel(
        params, gradient, static_cast<Arithmetic>(arithmetic), num_filters, [&](auto kernel, int shared_bytes) {
            error = launch(kernel, params.blocks, 32 * params.warps, shared_bytes, stream, params);
        });
    return error;
}

}  // namespace learned_resizer
