// Tables that travel as a kernel's parameters: no copy from host memory, which would wait for the device (pageable) or
// need the host's bytes to stay until a captured graph's last replay (pinned).
#pragma once

#include "common/device.cuh"
#include "tables/tables.h"

#if defined(__CUDACC__)
// Read where it is, never copied to local memory.
#define LR_IN_PLACE __grid_constant__
#else
#include <cuda_runtime_api.h>
#define LR_IN_PLACE
#endif

namespace learned_resizer {

// Parameters of a launch may take 4096 bytes, from CUDA 12.1 on 32,764 (CUDA C++ Programming Guide, "Function
// Parameters"); 12 of them are the kernel's other two.
constexpr int kStoreBytes = 4080;
constexpr int kLargeStoreBytes = CUDART_VERSION >= 12010 ? 32752 : kStoreBytes;
// A warp's lanes read different parameters, one after another, and each 64 bytes miss the constant cache once: small
// blocks spread the misses over the multiprocessors.
constexpr int kStoreThreads = 32;

template <int kBytes>
struct TableChunk {
    Quad<uint32_t> quads[kBytes / 16];
};

// target: [quads]
template <int kBytes>
LR_KERNEL(kStoreThreads)
store_tables_kernel(const LR_IN_PLACE TableChunk<kBytes> chunk, Quad<uint32_t>* target, int32_t quads) {
    const int64_t i = block_index() * thread_count() + thread_index();
    if (i < quads) target[i] = chunk.quads[i];
}

}  // namespace learned_resizer
