// The prologue, which conv and head apply to their input as they load it. Plain C++: no torch, no Python.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

// v = lrelu(norm(t) [+ skip_norm(u)]). Features are [batch][height][width][n], dense, of the arithmetic's 16-bit type,
// else float32. n is 16 or 32; the channels from `filters` on are zero.
struct PrologueParams {
    int64_t batch, height, width;
    int32_t filters;
    const void* input;  // t
    Norm norm;
    const void* skip;  // u, or null
    Norm skip_norm;
    float negative_slope;  // 1: no activation
    // Adjoint. Of earlier uses of the same features, or null: added to this one's; may be the same memory.
    void* grad_input;  // dt
    const void* earlier_input;
    void* grad_skip;  // du; null without a skip
    const void* earlier_skip;
};

constexpr int64_t kMostWidth = 1 << 20;  // places within a tile are 32-bit

// Threads of a block that loads tiles (tile.cuh), and the tiles of `rows` by `columns` pixels of the features. 0: more
// than a launch has; the launchers refuse it, as no memory holds such features.
constexpr int kTileThreads = 256;
inline uint32_t tile_count(const PrologueParams& p, int64_t rows, int64_t columns) {
    const int64_t tiles = p.batch * ((p.height + rows - 1) / rows) * ((p.width + columns - 1) / columns);
    return tiles <= INT32_MAX ? static_cast<uint32_t>(tiles) : 0;
}
// About two blocks per multiprocessor, each with several tiles: it loads its weights once.
inline int64_t tile_blocks(uint32_t tiles, int multiprocessors) {
    return std::min<int64_t>(tiles, int64_t{2} * multiprocessors);
}

// Launch requirements of a kernel's instance.
struct Needs {
    int64_t blocks = 0;  // also the rows of its partial results; 0: the instance does not exist
    int shared_bytes = 0;
};

constexpr int kPrologueSums = 3;  // per channel: sum of g' t, of g', of g' u

}  // namespace learned_resizer
