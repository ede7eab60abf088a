// The errors that the host's stand-in for a GPU must catch. Usage: test_fibers
// order|copies|missed_barrier|other_barrier|missed_exchange|overrun|stack

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/device.cuh"

namespace {

using namespace learned_resizer::host;

// A reversal through shared memory is right in both orders with its barrier, and wrong in one without.
int reverse(bool with_barrier, bool backwards, std::vector<int>& out) {
    constexpr int kCount = 32;
    out.assign(kCount, -1);
    run({1, kCount, kCount * sizeof(int), backwards}, [&] {
        int* shared = reinterpret_cast<int*>(dynamic_shared());
        shared[thread_index()] = thread_index();
        if (with_barrier) barrier(__LINE__);
        out[thread_index()] = shared[thread_count() - 1 - thread_index()];
    });
    int wrong = 0;
    for (int i = 0; i < kCount; ++i) wrong += out[i] != kCount - 1 - i;
    return wrong;
}

int test_order() {
    std::vector<int> forwards, backwards;
    if (reverse(true, false, forwards) != 0 || reverse(true, true, backwards) != 0) return 1;
    reverse(false, false, forwards);
    reverse(false, true, backwards);
    // Without the barrier poison is read, by other threads in each order.
    return forwards == backwards ? 1 : 0;
}

// Two groups of copies for each thread, its own number and, for odd threads, no source; then it waits for all but
// `outstanding` groups and reads its neighbour's. Returns how many words are not what they should be.
template <int kOutstanding>
int copy(bool with_barrier, bool backwards) {
    constexpr int kCount = 32;
    struct alignas(16) Piece {
        uint32_t word[4];
    };
    std::vector<Piece> source(kCount), got(2 * kCount);
    for (uint32_t i = 0; i < kCount; ++i) source[i] = {{4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3}};
    run({1, kCount, 2 * kCount * sizeof(Piece), backwards}, [&] {
        Piece* shared = reinterpret_cast<Piece*>(dynamic_shared());
        for (int group = 0; group < 2; ++group) {
            learned_resizer::copy_async(&shared[group * kCount + thread_index()], &source[thread_index()],
                                        thread_index() % 2 == 0);
            learned_resizer::commit_copies();
        }
        learned_resizer::wait_copies<kOutstanding>();
        if (with_barrier) barrier(__LINE__);
        for (int group = 0; group < 2; ++group)
            got[group * kCount + thread_index()] = shared[group * kCount + (thread_index() + 1) % kCount];
    });
    int wrong = 0;
    for (uint32_t i = 0; i < 2 * kCount; ++i)
        for (uint32_t w = 0; w < 4; ++w) {
            const uint32_t from = (i + 1) % kCount;
            wrong += got[i].word[w] != (from % 2 == 0 ? 4 * from + w : 0);
        }
    return wrong;
}

int test_copies() {
    constexpr int kGroup = 32 * 4;
    if (copy<0>(true, false) != 0 || copy<0>(true, true) != 0) return 1;
    // Nothing was waited for, or only the older group: the rest is poison, also where zeros should be.
    if (copy<2>(true, false) != 2 * kGroup || copy<1>(true, false) != kGroup) return 1;
    // Without the barrier a thread that runs before its neighbour reads poison, in each order another.
    return copy<0>(false, false) == 0 || copy<0>(false, true) == 0;
}

}  // namespace

int main(int argc, char** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    if (what == "order") return test_order();
    if (what == "copies") return test_copies();
    if (what == "missed_barrier") {
        run({1, 32, 0, false}, [] {
            if (thread_index() != 7) barrier(__LINE__);
        });
    } else if (what == "other_barrier") {
        run({1, 32, 0, false}, [] {
            if (thread_index() < 16) {
                barrier(__LINE__);
            } else {
                barrier(__LINE__);
            }
        });
    } else if (what == "missed_exchange") {
        run({1, 32, 0, false}, [] {
            const int mine = thread_index();
            if (mine != 7) warp_exchange(&mine, sizeof(mine), __LINE__);
        });
    } else if (what == "overrun") {
        run({1, 32, 32 * 4 - 4, false}, [] { std::memset(dynamic_shared() + 4 * thread_index(), 0, 4); });
    } else if (what == "stack") {
        // On a thread's own stack, after a switch. In the second block, whose stacks were used before.
        run({2, 32, 0, false}, [] {
            int local[4];
            barrier(__LINE__);
            std::memset(local, 0, block_index() == 1 ? sizeof(local) + 1 : sizeof(local));
        });
    }
    std::printf("%s: not caught\n", what.c_str());
    return 1;
}
