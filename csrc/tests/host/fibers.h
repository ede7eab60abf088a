// Runs the threads of one block on the host: each thread is a fiber, a barrier is a yield, a warp's joint operation an
// exchange.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace learned_resizer::host {

struct Launch {
    int64_t blocks = 1;
    int threads = 1;
    std::size_t shared_bytes = 0;
    // Order in which the threads run between two barriers. A kernel that lacks a barrier gives another result in one of
    // them.
    bool backwards = false;
};

// For measurements of what is around the kernels.
struct Launches {
    int64_t count = 0;     // since the start
    bool stubbed = false;  // further launches run nothing
};
inline Launches launches;

// Runs `kernel` once per thread of every block, block after block. Dynamic shared memory is a heap block of exactly
// `shared_bytes`, filled with 0xFF (NaN as float or double) before each block. Ends the process with a message if the
// threads of a block do not all arrive at the same barrier, or those of a warp not at the same exchange.
void run(const Launch& launch, const std::function<void()>& kernel);

// For the code inside a fiber.
int thread_index();
int thread_count();
int64_t block_index();
int64_t block_count();
unsigned char* dynamic_shared();
void barrier(int line);
// Publishes `bytes` of this lane, waits for the whole warp, and returns what its 32 lanes published, one after another.
// Valid until the lane's next exchange but one. No data, no bytes: a barrier of the warp.
const void* warp_exchange(const void* data, std::size_t bytes, int line);
// A copy that this thread starts, zeros if there is no source. The target is filled with 0xFF now and receives the data
// when the thread waits for the copy's group, so that a kernel that lacks the wait, or the barrier after it, reads
// poison.
void copy_async(void* target, const void* source, std::size_t bytes);
// Ends a group of copies.
void commit_copies();
// Completes all of the thread's groups but the newest `groups`.
void wait_copies(int groups);

}  // namespace learned_resizer::host
