// The part of the CUDA runtime that the launchers and bindings use, for machines without it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#define CUDART_VERSION 13000

enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidDevice = 101,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone = 0, cudaStreamCaptureStatusActive = 1 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeRelaxed = 2 };
using cudaStream_t = struct CUstream_st*;

namespace learned_resizer::host {

// What a test decides about the runtime, and what it finds out.
struct Runtime {
    int driver = 0;
    bool capturing = false;  // the stream asked for
    std::size_t free_bytes = SIZE_MAX;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    cudaError_t last_error = cudaSuccess;
};
inline Runtime runtime;

}  // namespace learned_resizer::host

inline const char* cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorInvalidValue               ? "cudaErrorInvalidValue"
           : error == cudaErrorMemoryAllocation         ? "cudaErrorMemoryAllocation"
           : error == cudaErrorInvalidDevice            ? "cudaErrorInvalidDevice"
           : error == cudaErrorStreamCaptureUnsupported ? "cudaErrorStreamCaptureUnsupported"
                                                        : "cudaSuccess";
}
inline const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }
inline cudaError_t cudaGetLastError() {
    const cudaError_t error = learned_resizer::host::runtime.last_error;
    learned_resizer::host::runtime.last_error = cudaSuccess;
    return error;
}
inline cudaError_t cudaDriverGetVersion(int* version) {
    *version = learned_resizer::host::runtime.driver;
    return cudaSuccess;
}
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    const cudaStreamCaptureMode before = learned_resizer::host::runtime.mode;
    learned_resizer::host::runtime.mode = *mode;
    *mode = before;
    return cudaSuccess;
}
// As if another thread captured in the global mode.
inline cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
    learned_resizer::host::Runtime& runtime = learned_resizer::host::runtime;
    if (runtime.mode != cudaStreamCaptureModeRelaxed) return runtime.last_error = cudaErrorStreamCaptureUnsupported;
    if (bytes > runtime.free_bytes) return runtime.last_error = cudaErrorMemoryAllocation;
    *memory = std::aligned_alloc(256, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = learned_resizer::host::runtime.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
// A capturing stream refuses to tell.
inline cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* id) {
    if (learned_resizer::host::runtime.capturing) return cudaErrorStreamCaptureUnsupported;
    *id = reinterpret_cast<unsigned long long>(stream);
    return cudaSuccess;
}
