// Device selection and launch, shared by all launchers. A host compiler gets csrc/tests/host/launch_host.h instead,
// which runs the kernel on fibers, so that the launchers and the bindings run there unchanged.
#pragma once

#if !defined(__CUDACC__)
#include "launch_host.h"
#else

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>

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

// Allows a kernel all of the shared memory that a block of the current device can have; without, a launch has 48 KiB.
// Once per kernel and device: a launch that set its own amount could take from another thread's.
inline cudaError_t allow_shared_memory(const void* kernel) {
    struct Allowed {
        const void* kernel;
        int device;
        const Allowed* next;
    };
    // Lists that only grow, of a device's few kernels: a launch reads one without a lock.
    static std::atomic<const Allowed*> lists[64] = {};
    static std::mutex mutex;
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
    std::atomic<const Allowed*>& list = lists[device % 64];
    const auto is_allowed = [&] {
        const Allowed* a = list.load(std::memory_order_acquire);
        while (a != nullptr && (a->kernel != kernel || a->device != device)) a = a->next;
        return a != nullptr;
    };
    if (is_allowed()) return cudaSuccess;
    const std::lock_guard<std::mutex> lock(mutex);
    if (is_allowed()) return cudaSuccess;
    cudaFuncAttributes attributes{};
    error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (error == cudaSuccess) error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     most - static_cast<int>(attributes.sharedSizeBytes));
    if (error == cudaSuccess)
        list.store(new Allowed{kernel, device, list.load(std::memory_order_relaxed)}, std::memory_order_release);
    return error;
}

// Launches `kernel` with `blocks` blocks, at most as many as a grid holds: the kernels' block loops handle the rest.
template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, void* stream,
                   Parameters... parameters) {
    if (blocks <= 0) return cudaSuccess;
    const void* entry = reinterpret_cast<const void*>(kernel);
    if (shared_bytes > 48 * 1024) {
        const cudaError_t error = allow_shared_memory(entry);
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
