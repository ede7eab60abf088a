#include "common/launch.h"
#include "head/head_backward.cuh"

namespace learned_resizer {

Needs head_needs(const HeadParams& params, HeadKernel kernel, int arithmetic, int multiprocessors) {
    Needs needs;
    const PrologueParams& p = params.prologue;
    with_head_kernel(kernel, static_cast<Arithmetic>(arithmetic), p.filters, [&](auto, int shared_bytes, int rows) {
        needs = {head_blocks(p.batch, p.height, p.width, rows, multiprocessors), shared_bytes};
    });
    return needs;
}

int launch_head(const HeadParams& params, HeadKernel kernel, int arithmetic, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_head_kernel(kernel, static_cast<Arithmetic>(arithmetic), params.prologue.filters,
                     [&](auto instance, int shared_bytes, int) {
                         error = launch(instance, params.blocks, kHeadThreads, shared_bytes, stream, params);
                     });
    return error;
}

}  // namespace learned_resizer
