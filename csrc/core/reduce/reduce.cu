#include "reduce/reduce.cuh"

#include "common/launch.h"

namespace learned_resizer {

int launch_reduce_statistics(const ReduceStatisticsParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    const int blocks = (params.filters + kReduceChannels - 1) / kReduceChannels;
    return launch(reduce_statistics_kernel, blocks, kReduceThreads, 8 * kReduceThreads, stream, params);
}

int launch_reduce_gradients(const ReduceGradientsParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    return launch(reduce_gradients_kernel, ReduceGradients::blocks(params), kReduceThreads, 8 * kReduceThreads, stream,
                  params);
}

int launch_running_statistics(const RunningStatisticsParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    return launch(running_statistics_kernel, params.norms, kRunningThreads, 0, stream, params);
}

}  // namespace learned_resizer
