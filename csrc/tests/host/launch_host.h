// csrc/core/common/launch.h for a host compiler: a launch runs the kernel on fibers, at once.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fibers.h"

namespace learned_resizer {

class DeviceGuard {
  public:
    // The only device has number 0.
    explicit DeviceGuard(int device) : error_(device == 0 ? cudaSuccess : cudaErrorInvalidDevice) {}
    cudaError_t error() const { return error_; }

  private:
    cudaError_t error_;
};

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int shared_bytes, void*,
                   Parameters... parameters) {
    if (blocks <= 0) return cudaSuccess;
    // An H100's limit for a block: a launch that asks for more fails there too.
    if (shared_bytes > 227 * 1024) return cudaErrorInvalidValue;
    ++host::launches.count;
    if (host::launches.stubbed) return cudaSuccess;
    host::run({blocks, threads, static_cast<std::size_t>(shared_bytes), false}, [&] { kernel(parameters...); });
    return cudaSuccess;
}

}  // namespace learned_resizer
