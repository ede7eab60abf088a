// Parameters and launcher of the layers behind the stem at inference, two convolutions per kernel. Plain C++: no torch,
// no Python.
#pragma once

#include <cstdint>

#include "common/prologue.h"
#include "common/to_image.h"

namespace learned_resizer {

// Features are as in prologue.h, of 16 bits and with n = 16.
struct TrunkParams : ToImage {  // the tail's second convolution
    // v = norm(t) [+ skip_norm(u)]: no activation. For the tail the skip is the feature skip too, and required.
    PrologueParams prologue;
    Weight weight1;        // [filters][filters][3][3]
    Norm norm1;            // of the first convolution's result
    float negative_slope;  // between the block's convolutions

    // Block: output = W2 * lrelu(norm1(W1 * v)), [batch][height][width][n].
    Weight weight2;  // [filters][filters][3][3]
    void* output;

    uint32_t tiles;  // filled by the launcher
};

enum class TrunkKernel : int32_t { kBlock = 0, kTail = 1 };

constexpr int kTrunkThreads = kTileThreads;
constexpr int kTrunkFilters = 16;
constexpr int kTrunkGrid = 32;  // side of the tile that the first convolution computes
// Outputs of a tile: the second convolution reads one pixel around, the tail's 7x7 three.
constexpr int trunk_side(TrunkKernel kernel) { return kernel == TrunkKernel::kBlock ? kTrunkGrid - 2 : kTrunkGrid - 6; }

// `bfloat16`: bfloat16 arithmetic, else float16. Otherwise as launch_resample.
int launch_trunk(const TrunkParams& params, TrunkKernel kernel, bool bfloat16, int multiprocessors, int device,
                 void* stream);

}  // namespace learned_resizer
