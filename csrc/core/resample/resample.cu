#include "common/launch.h"
#include "resample/resample.cuh"

namespace learned_resizer {

int launch_resample_tables(const ResampleShape& plan, unsigned char* tables, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    const ResampleTablesParams params{plan, tables};
    with_resample_tables_kernel(plan, [&](auto kernel) {
        error = launch(kernel, (plan.entries + kTableThreads - 1) / kTableThreads, kTableThreads, 0, stream, params);
    });
    return error;
}

int launch_resample(const ResampleParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_resample_kernel(params.plan, [&](auto kernel) {
        error = launch(kernel, params.plan.blocks, params.plan.threads, params.plan.shared_bytes, stream, params);
    });
    return error;
}

const char* cuda_error_name(int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); }
const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace learned_resizer
