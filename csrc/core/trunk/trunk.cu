#include "common/launch.h"
#include "trunk/trunk.cuh"

namespace learned_resizer {

int launch_trunk(const TrunkParams& params, TrunkKernel kernel, bool bfloat16, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_trunk_kernel(kernel, bfloat16, [&](auto instance) {
        error = launch(instance, params.blocks, kTrunkThreads, trunk_shared_bytes(kernel), stream, params);
    });
    return error;
}

}  // namespace learned_resizer
