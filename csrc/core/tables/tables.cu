#include "tables/tables.cuh"

#include <algorithm>
#include <cstring>

#include "common/launch.h"

namespace learned_resizer {
namespace {

// A program built with CUDA 12.1 also runs on a driver for 12.0, which refuses launches with large parameters.
int64_t most_bytes() {
    int driver = 0;
    return cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12010 ? kLargeStoreBytes : kStoreBytes;
}

template <int kBytes>
cudaError_t store(const unsigned char* source, int64_t bytes, unsigned char* target, void* stream) {
    TableChunk<kBytes> chunk;
    const auto quads = static_cast<int32_t>((bytes + 15) / 16);
    std::memset(&chunk.quads[quads - 1], 0, 16);
    std::memcpy(chunk.quads, source, static_cast<size_t>(bytes));
    return launch(store_tables_kernel<kBytes>, (quads + kStoreThreads - 1) / kStoreThreads, kStoreThreads, 0, stream,
                  chunk, reinterpret_cast<Quad<uint32_t>*>(target), quads);
}

}  // namespace

int store_tables(const void* source, int64_t bytes, void* target, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    static const int64_t most = most_bytes();
    for (int64_t begin = 0; begin < bytes; begin += most) {
        const int64_t count = std::min(bytes - begin, most);
        const auto from = static_cast<const unsigned char*>(source) + begin;
        const auto to = static_cast<unsigned char*>(target) + begin;
        // Few bytes have cheaper launches.
        const cudaError_t error = count <= kStoreBytes ? store<kStoreBytes>(from, count, to, stream)
                                                       : store<kLargeStoreBytes>(from, count, to, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

int allocate_tables(int64_t bytes, int device, void** memory) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    // A capture of another stream in the global mode, torch's default, forbids this call to all threads.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
    if (error != cudaSuccess) return error;
    error = cudaMalloc(memory, static_cast<size_t>(bytes));
    // A failure is reported here; torch's next check must not find it.
    if (error != cudaSuccess) cudaGetLastError();
    const cudaError_t restored = cudaThreadExchangeStreamCaptureMode(&mode);
    return error != cudaSuccess ? error : restored;
}

int identify_stream(int device, void* stream, bool* captures, uint64_t* identity) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
    *captures = status != cudaStreamCaptureStatusNone;
    if (error != cudaSuccess || *captures) return error;
#if CUDART_VERSION >= 12000
    // A handle is used again once its stream is destroyed, and that stream's work may not be done then.
    unsigned long long id = 0;
    const cudaError_t failed = cudaStreamGetId(static_cast<cudaStream_t>(stream), &id);
    *identity = id;
    return failed;
#else
    // torch never destroys its streams.
    *identity = reinterpret_cast<uintptr_t>(stream);
    return cudaSuccess;
#endif
}

}  // namespace learned_resizer
