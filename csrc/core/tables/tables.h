// Moves the tables of a launch plan to a device without a copy from host memory: a small kernel receives them as its
// parameters and writes them. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

// Stores `bytes` bytes at `target`, which is 16-byte aligned and holds a multiple of 16 bytes; the rest of the last 16
// becomes zero. `source` is free again on return. Neither waits for the device nor allocates, and a capture records it
// with its bytes. Otherwise as launch_resample.
int store_tables(const void* source, int64_t bytes, void* target, int device, void* stream);

// Device memory outside of torch's pools, for the life of the process. Also while another stream captures.
int allocate_tables(int64_t bytes, int device, void** memory);

// Whether a stream captures a CUDA graph, and if not, a number that no other stream has had or will have.
int identify_stream(int device, void* stream, bool* captures, uint64_t* identity);

}  // namespace learned_resizer
