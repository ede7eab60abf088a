// Parameters and launcher of the layers behind the stem at inference, two convolutions per kernel. Plain C++: no torch,
// no Python.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

// Features are [batch][height][width][n], dense, of the arithmetic's 16-bit type; n is 16, and the channels from
// `filters` on are zero. Weights are rounded to that type as they load.
struct TrunkParams {
    int64_t batch, height, width;
    int32_t filters;
    const void* input;  // t
    Norm norm;
    const void* skip;  // u, or null; for the tail it is the feature skip too, and required
    Norm skip_norm;
    // v = norm(t) [+ skip_norm(u)]
    Weight weight1;        // [filters][filters][3][3]
    Norm norm1;            // of the first convolution's result
    float negative_slope;  // block only

    // Block: output = W2 * lrelu(norm1(W1 * v)), [batch][height][width][n].
    Weight weight2;  // [filters][filters][3][3]
    void* output;

    // Tail: result = W * (norm1(W1 * v) + skip_norm(u)) + bias + base.
    int32_t channels;        // 1 ... 4
    Weight weight;           // [channels][filters][7][7]
    Vector bias;             // [channels]
    const void* base;        // element (b, c, y, x) at b * base_stride[0] + c * [1] + y * [2] + x * [3]
    void* result;            // likewise with result_stride
    int64_t base_stride[4];  // in elements
    int64_t result_stride[4];
    int32_t wide;  // 1: base and result are float32; 0: of the arithmetic's type

    int64_t tiles, blocks;  // of the output; to launch; both from plan_trunk
};

enum class TrunkKernel : int32_t { kBlock = 0, kTail = 1 };

constexpr int kTrunkThreads = 256;
constexpr int kTrunkGrid = 32;                   // side of the tile that the first convolution computes
constexpr int kTrunkBlockSide = kTrunkGrid - 2;  // outputs of a block's tile: its 3x3 reads one pixel around
constexpr int kTrunkTailSide = kTrunkGrid - 6;   // outputs of the tail's tile: its 7x7 reads three
constexpr int kTrunkFilters = 16;

// Tiles of the output.
inline int64_t trunk_tiles(const TrunkParams& params, TrunkKernel kernel) {
    const int64_t side = kernel == TrunkKernel::kBlock ? kTrunkBlockSide : kTrunkTailSide;
    return params.batch * ((params.height + side - 1) / side) * ((params.width + side - 1) / side);
}
// About two blocks per multiprocessor: a block loads its weights once for all of its tiles.
inline void plan_trunk(TrunkParams& params, TrunkKernel kernel, int multiprocessors) {
    params.tiles = trunk_tiles(params, kernel);
    params.blocks = std::min<int64_t>(params.tiles, int64_t{2} * multiprocessors);
}
// Two maps and two sets of weights, of two bytes per element; then three norms' scales and shifts.
constexpr int trunk_affine_offset(TrunkKernel kernel) {
    constexpr int source = (kTrunkGrid + 2) * (kTrunkGrid + 2) * kTrunkFilters,
                  middle = kTrunkGrid * kTrunkGrid * kTrunkFilters;
    constexpr int three = 9 * kTrunkFilters * kTrunkFilters, seven = 7 * 8 * kTrunkFilters * 8;
    return 2 * (source + middle + three + (kernel == TrunkKernel::kBlock ? three : seven));
}
constexpr int trunk_shared_bytes(TrunkKernel kernel) {
    return trunk_affine_offset(kernel) + 6 * kTrunkFilters * static_cast<int>(sizeof(float));
}

// `bfloat16`: bfloat16 arithmetic, else float16. Otherwise as launch_resample.
int launch_trunk(const TrunkParams& params, TrunkKernel kernel, bool bfloat16, int device, void* stream);

}  // namespace learned_resizer
