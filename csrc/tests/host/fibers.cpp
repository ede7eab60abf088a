#include "fibers.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// AddressSanitizer must know which stack is in use, or it reports the switches themselves.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define LR_START_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define LR_FINISH_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define ASAN_UNPOISON_MEMORY_REGION(bottom, size) ((void)(bottom), (void)(size))
#define LR_START_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define LR_FINISH_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

namespace learned_resizer::host {
namespace {

constexpr std::size_t kStackBytes = 256 * 1024;
constexpr int kRunning = 0;    // `waits_at` of a thread that is not at a barrier
constexpr int kFinished = -1;  // and of one that has returned
constexpr int kWarp = 32;
constexpr std::size_t kExchangeBytes = 72;  // most that a lane publishes

// One of the stacks that run in turn. Most of a kernel's time here is spent switching. swapcontext makes two system
// calls for the signal mask, and the sanitizer clears the shadow of the whole stack at each: on x86-64 the registers
// are switched here instead, four times as fast overall.
#if defined(__x86_64__)
struct Context {
    void* stack_pointer = nullptr;
};
extern "C" void learned_resizer_switch(void** save, void* stack_pointer);
// The registers that a call must preserve; the others are the caller's. No code here changes the floating-point modes.
__asm__(
    ".text\n"
    ".type learned_resizer_switch, @function\n"
    "learned_resizer_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size learned_resizer_switch, . - learned_resizer_switch\n");
void switch_to(Context& from, const Context& to) { learned_resizer_switch(&from.stack_pointer, to.stack_pointer); }
void prepare(Context& context, unsigned char* stack, std::size_t bytes, void (*entry)()) {
    auto** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + bytes) / 16 * 16);
    // Six registers, the entry to "return" to, and where that would return to itself.
    std::memset(top - 8, 0, 8 * sizeof(void*));
    top[-2] = reinterpret_cast<void*>(entry);
    context.stack_pointer = top - 8;
}
// The lowest byte in use of a stack that has run, else its end.
unsigned char* in_use(const Context& context, unsigned char*, unsigned char* end) {
    return context.stack_pointer == nullptr ? end : static_cast<unsigned char*>(context.stack_pointer);
}
#else
using Context = ucontext_t;
void switch_to(Context& from, const Context& to) { swapcontext(&from, &to); }
void prepare(Context& context, unsigned char* stack, std::size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
unsigned char* in_use(const Context&, unsigned char* stack, unsigned char*) { return stack; }
#endif

struct Copy {
    void* target;
    const void* source;
    std::size_t bytes;
};

struct Fiber {
    Context context;
    std::unique_ptr<unsigned char[]> stack;
    int waits_at = kRunning;               // line of the barrier
    bool in_warp = false;                  // which is one of the warp, not of the block
    int exchanges = 0;                     // of the warp, so far
    std::vector<Copy> open;                // copies without a group
    std::deque<std::vector<Copy>> groups;  // not waited for, oldest first
    void* fake_stack = nullptr;
};

struct Block {
    Launch launch;
    int64_t index = 0;
    int current = 0;
    Fiber* fibers = nullptr;  // [launch.threads]
    Context scheduler;
    void* scheduler_fake_stack = nullptr;
    const void* scheduler_bottom = nullptr;
    std::size_t scheduler_size = 0;
    unsigned char* shared = nullptr;
    const std::function<void()>* kernel = nullptr;
    // What the lanes published, per warp: two sets, since a lane may publish anew while others still read.
    std::vector<unsigned char> published[2];
};

thread_local Block* block = nullptr;

void to_scheduler(bool finished) {
    Fiber& fiber = block->fibers[block->current];
    // A finished fiber passes no place to keep its fake stack, so that it is freed.
    LR_START_SWITCH(finished ? nullptr : &fiber.fake_stack, block->scheduler_bottom, block->scheduler_size);
    switch_to(fiber.context, block->scheduler);
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
    Fiber& fiber = block->fibers[block->current];
    fiber.waits_at = kFinished;
    fiber.in_warp = false;
    to_scheduler(true);
}

void resume(int thread) {
    block->current = thread;
    Fiber& fiber = block->fibers[thread];
    fiber.waits_at = kRunning;
    LR_START_SWITCH(&block->scheduler_fake_stack, fiber.stack.get(), kStackBytes);
    switch_to(block->scheduler, fiber.context);
    LR_FINISH_SWITCH(block->scheduler_fake_stack, nullptr, nullptr);
}

[[noreturn]] void mismatch(const char* what, int first, int other) {
    std::fprintf(stderr, "mismatched %s in block %lld: thread %d is at line %d, thread %d at line %d (%d: finished)\n",
                 what, static_cast<long long>(block->index), first, block->fibers[first].waits_at, other,
                 block->fibers[other].waits_at, kFinished);
    std::_Exit(1);  // not abort: a test that expects this message must not count as crashed
}

// Runs the threads begin ... end-1 up to the next barrier of the block.
void run_warp(int begin, int end) {
    const Fiber& first = block->fibers[begin];
    do {
        for (int i = begin; i < end; ++i) resume(block->launch.backwards ? begin + end - 1 - i : i);
        for (int i = begin + 1; i < end; ++i) {
            const Fiber& other = block->fibers[i];
            if (other.in_warp != first.in_warp || other.waits_at != first.waits_at)
                mismatch(first.in_warp || other.in_warp ? "exchange" : "barrier", begin, i);
        }
        if (first.in_warp && end - begin != kWarp) mismatch("exchange of an incomplete warp", begin, end - 1);
    } while (first.in_warp);
}

void run_block() {
    const int threads = block->launch.threads;
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = block->fibers[i];
        // The thread of the block before left its last frames there without returning.
        unsigned char* end = fiber.stack.get() + kStackBytes;
        unsigned char* begin = in_use(fiber.context, fiber.stack.get(), end);
        ASAN_UNPOISON_MEMORY_REGION(begin, end - begin);
        prepare(fiber.context, fiber.stack.get(), kStackBytes, fiber_main);
        fiber.exchanges = 0;
        fiber.open.clear();
        fiber.groups.clear();
    }
    const int warps = (threads + kWarp - 1) / kWarp;
    const Fiber& first = block->fibers[0];
    do {
        for (int i = 0; i < warps; ++i) {
            const int warp = block->launch.backwards ? warps - 1 - i : i;
            run_warp(warp * kWarp, std::min(threads, (warp + 1) * kWarp));
        }
        for (int i = kWarp; i < threads; i += kWarp)
            if (block->fibers[i].waits_at != first.waits_at) mismatch("barrier", 0, i);
    } while (first.waits_at != kFinished);
}

}  // namespace

void run(const Launch& launch, const std::function<void()>& kernel) {
    Block state;
    state.launch = launch;
    state.kernel = &kernel;
    // Kept between launches: the sanitizer takes longer to allocate the stacks than a small kernel runs.
    static thread_local std::vector<Fiber> fibers;
    while (fibers.size() < static_cast<std::size_t>(launch.threads)) {
        fibers.emplace_back();
        fibers.back().stack.reset(new unsigned char[kStackBytes]);
    }
    state.fibers = fibers.data();
    for (auto& set : state.published) set.resize((launch.threads + kWarp) * kExchangeBytes);
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
    Fiber& fiber = block->fibers[block->current];
    fiber.waits_at = line;
    fiber.in_warp = false;
    to_scheduler(false);
}
const void* warp_exchange(const void* data, std::size_t bytes, int line) {
    Fiber& fiber = block->fibers[block->current];
    if (bytes > kExchangeBytes) {
        std::fprintf(stderr, "an exchange of %zu bytes; the host has room for %zu\n", bytes, kExchangeBytes);
        std::abort();
    }
    const int warp = block->current / kWarp;
    unsigned char* lanes = block->published[fiber.exchanges++ % 2].data() + warp * kWarp * kExchangeBytes;
    if (bytes > 0) std::memcpy(lanes + block->current % kWarp * bytes, data, bytes);
    fiber.waits_at = line;
    fiber.in_warp = true;
    to_scheduler(false);
    return lanes;
}

void copy_async(void* target, const void* source, std::size_t bytes) {
    std::memset(target, 0xFF, bytes);
    block->fibers[block->current].open.push_back({target, source, bytes});
}
void commit_copies() {
    Fiber& fiber = block->fibers[block->current];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}
void wait_copies(int groups) {
    auto& waiting = block->fibers[block->current].groups;
    for (; waiting.size() > static_cast<std::size_t>(groups); waiting.pop_front())
        for (const Copy& copy : waiting.front()) {
            if (copy.source == nullptr)
                std::memset(copy.target, 0, copy.bytes);
            else
                std::memcpy(copy.target, copy.source, copy.bytes);
        }
}

}  // namespace learned_resizer::host

// For Python, through ctypes: the number of launches so far, and whether further ones run their kernels.
extern "C" __attribute__((visibility("default"))) int64_t learned_resizer_host_launches(bool stubbed) {
    learned_resizer::host::launches.stubbed = stubbed;
    return learned_resizer::host::launches.count;
}
