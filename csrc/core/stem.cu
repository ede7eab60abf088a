#include "launch.h"
#include "stem_variants.h"

namespace learned_resizer {

int launch_stem(const StemParams& params, int arithmetic, int num_filters, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_stem_kernel(params.plan, static_cast<Arithmetic>(arithmetic), num_filters, [&](auto kernel, int shared_bytes) {
        error = launch(kernel, params.plan.blocks, 32 * params.plan.warps, shared_bytes, stream, params);
    });
    return error;
}

}  // namespace learned_resizer
