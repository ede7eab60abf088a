#include "resample_fixed/resample_fixed.cuh"

#include "common/launch.h"

namespace learned_resizer {

int launch_resample_fixed(const ResampleFixedParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_resample_fixed_kernel(params, [&](auto kernel) {
        error = launch(kernel, fixed_blocks(params), kFixedThreads, fixed_shared_bytes(params), stream, params,
                       fixed_blocks(params), fixed_strips(params));
    });
    return error;
}

}  // namespace learned_resizer
