#include "conv_variants.h"
#include "launch.h"

namespace learned_resizer {

int64_t conv_blocks_for(const ConvParams& params, ConvKernel kernel, int arithmetic, int num_filters,
                        int multiprocessors) {
    int64_t blocks = 0;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), num_filters, [&](auto, int, int rows) {
        blocks =
            conv_blocks(params.prologue.batch, params.prologue.height, params.prologue.width, rows, multiprocessors);
    });
    return blocks;
}

int launch_conv(const ConvParams& params, ConvKernel kernel, int arithmetic, int num_filters, int device,
                void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    ConvParams copy = params;
    void* arguments[] = {&copy};
    cudaError_t error = cudaErrorInvalidValue;
    with_conv_kernel(kernel, static_cast<Arithmetic>(arithmetic), num_filters,
                     [&](auto instance, int shared_bytes, int) {
                         error = launch(reinterpret_cast<const void*>(instance), params.blocks, kConvThreads,
                                        shared_bytes, arguments, stream);
                     });
    return error;
}

}  // namespace learned_resizer
