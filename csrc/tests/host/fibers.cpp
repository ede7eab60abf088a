#include "fibers.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <vector>

// AddressSanitizer must know which stack is in use, or it reports the switches themselves.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define LR_START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define LR_FINISH_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define LR_START_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define LR_FINISH_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

namespace learned_resizer::host {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr int kRunning = 0;    // `waits_at` of a thread that is not at a barrier
constexpr int kFinished = -1;  // and of one that has returned

struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    int waits_at = kRunning;  // line of the barrier
    void* fake_stack = nullptr;
};

struct Block {
    Launch launch;
    int64_t index = 0;
    int current = 0;
    std::vector<Fiber> fibers;
    ucontext_t scheduler;
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_bottom = nullptr;
    std::size_t scheduler_size = 0;
    unsigned char* shared = nullptr;
    const std::function<void()>* kernel = nullptr;
};

thread_local Block* block = nullptr;

void to_scheduler(bool finished) {
    Fiber& fiber = block->fibers[block->current];
    // A finished fiber passes no place to keep its fake stack, so that it is freed.
    LR_START_SWITCH(finished ? nullptr : &fiber.fake_stack, block->scheduler_bottom, block->scheduler_size);
    swapcontext(&fiber.context, &block->scheduler);
    LR_FINISH_SWITCH(fiber.fake_stack, &block->scheduler_bottom, &block->scheduler_size);
}

void fiber_main() {
    LR_FINISH_SWITCH(nullptr, &block->scheduler_bottom, &block->scheduler_size);
    try {
        (*block->kernel)();
    } catch (...) {
        std::fprintf(stderr, "device code threw an exception\n");
        std::abort();
    }
    block->fibers[block->current].waits_at = kFinished;
    to_scheduler(true);
}

void resume(int thread) {
    block->current = thread;
    Fiber& fiber = block->fibers[thread];
    fiber.waits_at = kRunning;
    LR_START_SWITCH(&block->scheduler_fake_stack, fiber.stack.get(), kStackBytes);
    swapcontext(&block->scheduler, &fiber.context);
    LR_FINISH_SWITCH(block->scheduler_fake_stack, nullptr, nullptr);
}

void run_block() {
    for (Fiber& fiber : block->fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStackBytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
    }
    const int threads = block->launch.threads;
    for (;;) {
        for (int i = 0; i < threads; ++i) resume(block->launch.backwards ? threads - 1 - i : i);
        const int first = block->fibers[0].waits_at;
        for (int i = 1; i < threads; ++i) {
            if (block->fibers[i].waits_at == first) continue;
            std::fprintf(
                stderr,
                "mismatched barrier in block %lld: thread 0 is at line %d, thread %d at line %d (%d: finished)\n",
                static_cast<long long>(block->index), first, i, block->fibers[i].waits_at, kFinished);
            std::_Exit(1);  // not abort: a test that expects this message must not count as crashed
        }
        if (first == kFinished) return;
    }
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& kernel) {
    Block state;
    state.launch = launch;
    state.kernel = &kernel;
    state.fibers.resize(launch.threads);
    for (Fiber& fiber : state.fibers) fiber.stack.reset(new unsigned char[kStackBytes]);
    block = &state;
    for (state.index = 0; state.index < launch.blocks; ++state.index) {
        // malloc, not a container: the sanitizer then guards exactly shared_bytes.
        state.shared = static_cast<unsigned char*>(std::malloc(launch.shared_bytes));
        if (launch.shared_bytes > 0) std::memset(state.shared, 0xFF, launch.shared_bytes);
        run_block();
        std::free(state.shared);
    }
    block = nullptr;
}

int thread_index() { return block->current; }
int thread_count() { return block->launch.threads; }
int64_t block_index() { return block->index; }
int64_t block_count() { return block->launch.blocks; }
unsigned char* dynamic_shared() { return block->shared; }
void barrier(int line) {
    block->fibers[block->current].waits_at = line;
    to_scheduler(false);
}

}  // namespace learned_resizer::host
