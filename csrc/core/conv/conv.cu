#include "common/launch.h"
#include "conv/conv_backward.cuh"

namespace learned_resizer {

Needs conv_needs(const ConvParams& params, ConvKernel kernel, int arithmetic, int multiprocessors) {
    Needs needs;
    const PrologueParams& p = params.prologue;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), p.filters, [&](auto, int shared_bytes, int rows) {
        needs = {tile_blocks(tile_count(p, rows, kConvColumns), multiprocessors), shared_bytes};
    });
    return needs;
}

int launch_conv(const ConvParams& params, ConvKernel kernel, int arithmetic, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), params.prologue.filters,
                     [&](auto instance, int shared_bytes, int rows) {
                         ConvParams p = params;
                         p.tiles = tile_count(p.prologue, rows, kConvColumns);
                         if (p.tiles == 0) return;
                         error = launch(instance, p.blocks, kConvThreads, shared_bytes, stream, p);
                     });
    return error;
}

}  // namespace learned_resizer
