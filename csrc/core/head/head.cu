#include "common/launch.h"
#include "head/head_backward.cuh"

namespace learned_resizer {

Needs head_needs(const HeadParams& params, HeadKernel kernel, int arithmetic, int multiprocessors) {
    Needs needs;
    const PrologueParams& p = params.prologue;
    with_head_kernel(kernel, static_cast<Arithmetic>(arithmetic), p.filters, [&](auto, int shared_bytes, int rows) {
        needs = {tile_blocks(tile_count(p, rows, kHeadColumns), multiprocessors), shared_bytes};
    });
    return needs;
}

int launch_head(const HeadParams& params, HeadKernel kernel, int arithmetic, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_head_kernel(kernel, static_cast<Arithmetic>(arithmetic), params.prologue.filters,
                     [&](auto instance, int shared_bytes, int rows) {
                         HeadParams p = params;
                         p.tiles = tile_count(p.prologue, rows, kHeadColumns);
                         if (p.tiles == 0) return;
                         error = launch(instance, p.blocks, kHeadThreads, shared_bytes, stream, p);
                     });
    return error;
}

}  // namespace learned_resizer
