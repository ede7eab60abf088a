#include "common/launch.h"
#include "conv/conv.cuh"

namespace learned_resizer {

Needs conv_needs(const ConvParams& params, ConvKernel kernel, int arithmetic, int multiprocessors) {
    Needs needs;
    const PrologueParams& p = params.prologue;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), p.filters, [&](auto, int shared_bytes, int rows) {
        needs = {conv_blocks(p.batch, p.height, p.width, rows, multiprocessors), shared_bytes};
    });
    return needs;
}

int launch_conv(const ConvParams& params, ConvKernel kernel, int arithmetic, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), params.prologue.filters,
                     [&](auto instance, int shared_bytes, int) {
                         error = launch(instance, params.blocks, kConvThreads, shared_bytes, stream, params);
                     });
    return error;
}

}  // namespace learned_resizer
