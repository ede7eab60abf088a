// Device selection and launch, shared by all launchers. A host compiler gets csrc/tests/host/launch_host.h instead,
// which runs the kernel on fibers, so that the launchers and the bindings run there unchanged.
#pragma once

#if !defined(__CUDACC__)
#include "launch_host.h"
#else

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

namespace learned_resizer {

// Makes a device current within a scope.
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

// Launches `kernel` with `blocks` blocks, at most as many as a grid holds: the kernels' block loops handle the rest.
// Beyond 48 KiB of shared memory a kernel needs permission, once per device.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, void* stream,
                   Parameters... parameters) {
    if (blocks <= 0) return cudaSuccess;
    const void* entry = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error =
            cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
        if (error != cudaSuccess) return error;
    }
    const auto grid = static_cast<unsigned>(std::min<int64_t>(blocks, INT32_MAX));
    void* arguments[] = {&parameters...};
    // The call's own error code: cudaPeekAtLastError could report an earlier failure of other code.
    return cudaLaunchKernel(entry, dim3(grid), dim3(static_cast<unsigned>(threads)), arguments,
                            static_cast<size_t>(shared_bytes), static_cast<cudaStream_t>(stream));
}

}  // namespace learned_resizer

#endif
