#include <cuda_runtime.h>
#include <algorithm>
#include <cstdint>

#include "resample_variants.h"

namespace learned_resizer {
namespace {

// Makes a device current for a scope.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        error_ = cudaGetDevice(&previous_);
        if (error_ == cudaSuccess && previous_ != device) {
            error_ = cudaSetDevice(device);
            changed_ = error_ == cudaSuccess;
        }
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(previous_);
    }
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    cudaError_t error() const { return error_; }

  private:
    int previous_ = 0;
    bool changed_ = false;
    cudaError_t error_ = cudaSuccess;
};

}  // namespace

int launch_resample(const ResampleParams& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    // More blocks than a grid holds: the kernel's block loop takes the rest.
    const int64_t grid = std::min<int64_t>(params.plan.blocks, INT32_MAX);
    cudaError_t error = cudaErrorInvalidValue;
    with_resample_kernel(params.plan, [&](auto kernel) {
        ResampleParams copy = params;
        void* arguments[] = {&copy};
        error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(static_cast<unsigned>(grid)),
                                 dim3(static_cast<unsigned>(params.plan.threads)), arguments,
                                 static_cast<size_t>(params.plan.shared_bytes), static_cast<cudaStream_t>(stream));
    });
    // cudaLaunchKernel's own code; cudaPeekAtLastError could report somebody else's earlier failure as ours.
    return error;
}

const char* cuda_error_name(int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); }
const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace learned_resizer
