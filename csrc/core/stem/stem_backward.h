// Parameters and launcher of the stem's adjoint. Plain C++: no torch, no Python.
#pragma once

#include <algorithm>
#include <cstdint>

#include "stem/stem.h"

#if defined(__CUDACC__)
#define LR_PLAN_DEVICE __host__ __device__
#else
#define LR_PLAN_DEVICE
#endif

namespace learned_resizer {

constexpr int kStemWarps = 4;  // of a block of the weights' gradients

// One axis of R transposed: image row (column) i is read by outputs start[i] ... start[i] + count - 1,
// count = offset[i+1] - offset[i], with these weights. Neither start[i] nor start[i] + count decreases with i.
struct StemBands {
    const int32_t* start;   // [in]
    const int32_t* offset;  // [in + 1]
    const float* weight;    // [offset[in]]
};

struct StemBackwardParams {
    StemImage image;
    StemWeights weights;
    int64_t batch, out_height, out_width;
    StemBands rows, columns;
    const void* dz;          // [batch][out_height][out_width][n], of the arithmetic's 16-bit type, else float32
    const float* mean;       // [filters]; null: no statistics
    const float* grad_mean;  // [filters]
    const float* grad_var;   // [filters]
    int64_t count;           // M, of the statistics

    // How the image is divided among blocks; from plan_stem_backward.
    int32_t warps, tiles, strips, strip_rows;
    int64_t items, blocks;

    float* partials;       // weights: [blocks][f C 49 + f + f f + f], f = filters: dW0, db0, dW1, db1 of each block
    void* dx;              // image: element as in StemImage, of dx_dtype
    int64_t dx_stride[4];  // in elements
    DType dx_dtype;        // not float64, not uint8
};

// The two halves of the adjoint: the gradients of the weights, and that of the image, which is rarely needed.
enum class StemGradient : int32_t { kWeights = 0, kImage = 1 };

// Columns of the image that a block of `warps` warps writes.
LR_PLAN_DEVICE constexpr int64_t stem_backward_columns(int warps, StemGradient gradient) {
    return kStemWarpColumns * warps - (gradient == StemGradient::kImage ? 6 : 0);
}

// An instance of a kernel: bytes of shared memory, blocks that a multiprocessor's registers hold, rows of a step.
struct StemBackwardInstance {
    int shared_bytes, blocks, height;
};

// Fills warps ... blocks: as many blocks as can be resident together, each with about as many rows of the image, of
// which it takes `height` in a step.
inline void plan_stem_backward(StemBackwardParams& p, StemGradient gradient, int warps, int height, int64_t resident) {
    p.warps = warps;
    const int64_t columns = stem_backward_columns(warps, gradient);
    p.tiles = static_cast<int32_t>((p.image.width + columns - 1) / columns);
    // A strip begins with a wait for its first image rows, about as long as three rows take; for the image it computes
    // 6 rows twice.
    const int64_t more = gradient == StemGradient::kImage ? 9 : 3;
    int64_t best = p.image.height, least = INT64_MAX;
    for (int64_t strips = 1; strips <= std::min<int64_t>(p.image.height, 64); ++strips) {
        const int64_t rows = (p.image.height + strips * height - 1) / (strips * height) * height;
        const int64_t items = (p.image.height + rows - 1) / rows * p.tiles * p.batch;
        const int64_t cost = (items + resident - 1) / resident * (rows + more);
        if (cost < least) least = cost, best = rows;
    }
    p.strip_rows = static_cast<int32_t>(best);
    p.strips = static_cast<int32_t>((p.image.height + best - 1) / best);
    p.items = p.batch * p.tiles * p.strips;
    p.blocks = std::min<int64_t>(p.items, resident);
}

LR_PLAN_DEVICE constexpr int64_t stem_gradient_elements(int filters, int channels) {
    return int64_t{filters} * (channels * 49 + 1 + filters + 1);
}

// Plans for a GPU whose blocks have up to `most_shared` bytes of shared memory; false if they are too few.
bool fit_stem_backward(StemBackwardParams& params, StemGradient gradient, int arithmetic, int multiprocessors,
                       int64_t most_shared);

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int device,
                         void* stream);

}  // namespace learned_resizer
