#include "common/launch.h"
#include "trunk/trunk.cuh"

namespace learned_resizer {

int launch_trunk(const TrunkParams& params, TrunkKernel kernel, bool bfloat16, int multiprocessors, int device,
                 void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_trunk_kernel(kernel, bfloat16, [&](auto instance, int shared_bytes) {
        const int side = trunk_side(kernel);
        TrunkParams p = params;
        p.tiles = tile_count(p.prologue, side, side);
        if (p.tiles == 0) return;
        error = launch(instance, tile_blocks(p.tiles, multiprocessors), kTrunkThreads, shared_bytes, stream, p);
    });
    return error;
}

}  // namespace learned_resizer
