#include "bands/bands.cuh"

#include "common/launch.h"

namespace learned_resizer {

int launch_bands(const BandsParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    const int64_t chunks = (int64_t{params.most_outputs} + kBandWarps - 1) / kBandWarps;
    return launch(bands_kernel, chunks * params.count, kBandThreads, 0, stream, params);
}

int launch_transposed_bands(const TransposeParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    const int64_t blocks = (int64_t{params.count} * params.most_pixels + kBandThreads - 1) / kBandThreads;
    return launch(transposed_bands_kernel, blocks, kBandThreads, 0, stream, params);
}

}  // namespace learned_resizer
