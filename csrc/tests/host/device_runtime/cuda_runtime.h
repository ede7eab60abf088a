// The part of the CUDA runtime that csrc/core/common/launch.h calls on a device, for test_launch: it counts and fails
// as the test says.
#pragma once

#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidDeviceFunction = 98 };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
struct cudaFuncAttributes {
    std::size_t sharedSizeBytes;
};
struct dim3 {
    unsigned x;
    explicit dim3(unsigned count) : x(count) {}
};
using cudaStream_t = struct Stream*;

namespace fake {
constexpr int kOptIn = 227 * 1024, kStatic = 512;
inline thread_local int device = 0;
inline std::mutex mutex;
struct Kernel {
    int calls = 0, most = 48 * 1024, launches = 0;
};
inline std::map<std::pair<const void*, int>, Kernel> kernels;  // by kernel and device
inline cudaError_t attribute_error = cudaSuccess;
inline Kernel& kernel(const void* entry) { return kernels[{entry, device}]; }
}  // namespace fake

inline cudaError_t cudaGetDevice(int* device) {
    *device = fake::device;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
    fake::device = device;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = fake::kOptIn;
    return cudaSuccess;
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    attributes->sharedSizeBytes = fake::kStatic;
    return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* entry, cudaFuncAttribute, int value) {
    const std::lock_guard<std::mutex> lock(fake::mutex);
    ++fake::kernel(entry).calls;
    if (fake::attribute_error == cudaSuccess) fake::kernel(entry).most = value;
    return fake::attribute_error;
}
inline cudaError_t cudaLaunchKernel(const void* entry, dim3, dim3, void**, std::size_t shared_bytes, cudaStream_t) {
    const std::lock_guard<std::mutex> lock(fake::mutex);
    if (static_cast<int>(shared_bytes) > fake::kernel(entry).most) return cudaErrorInvalidValue;
    ++fake::kernel(entry).launches;
    return cudaSuccess;
}
