// Parameters and launcher of the stem's adjoint. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "bands/bands.h"
#include "stem/stem.h"

namespace learned_resizer {

constexpr int kStemWarps = 4;  // of a block of the weights' gradients

// The two parts of the adjoint: the gradients of the weights, and that of the image, which is rarely needed.
enum class StemGradient : int32_t { kWeights = 0, kImage = 1 };

// One axis of R transposed, in the tables: image row (column) i is read by outputs start[i] ... start[i] + count[i] - 1
// with weights weight[i * capacity] ... Neither start[i] nor start[i] + count[i] decreases with i.
struct StemTransposed {
    int64_t start, count, weight;  // byte offsets: int32 [in], int32 [in], float [in][capacity]
    int32_t capacity;
};

// How the images of a tensor are divided among blocks.
struct StemShare {
    int64_t item;  // its first, images, strips, tiles; the next tensor's where there are none
    int32_t tiles, strips, strip_rows;
};

// A tensor of images of one size, in the tables.
struct alignas(16) StemBackwardTensor {
    StemAxis rows, columns;
    StemTransposed transposed_rows, transposed_columns;
    int64_t image;       // its first, of the batch
    int64_t entry;       // its first of stem_backward_tables
    StemShare share[2];  // by StemGradient
};

// From make_stem_backward_plan (stem_plan.h).
struct StemBackwardShape {
    int32_t tensors;
    int32_t warps[2];  // by StemGradient
    int64_t items[2], blocks[2];
    int64_t out_height, out_width;
    int64_t entries;       // of stem_backward_tables
    int64_t tensor_table;  // byte offset of StemBackwardTensor [tensors]
};

// Where the gradient of a tensor's images is: element as in StemImage.
struct StemImageGrad {
    void* data;         // null: not wanted, and no item of the plan
    int64_t stride[4];  // in elements
};

struct StemBackwardParams {
    StemBackwardShape plan;
    const unsigned char* tables;  // as in StemParams
    const StemImage* images;
    StemImage image;
    StemFormat format;
    StemWeights weights;
    const void* dz;          // [batch][out_height][out_width][n], of the arithmetic's 16-bit type, else float32
    const float* mean;       // [filters]; null: no statistics
    const float* grad_mean;  // [filters]
    const float* grad_var;   // [filters]
    int64_t count;           // M, of the statistics

    float* partials;             // weights: [blocks][f C 49 + f + f f + f], f = filters: dW0, db0, dW1, db1 of a block
    const StemImageGrad* grads;  // image: [tensors]; null: `grad` is the only one
    StemImageGrad grad;
};

// Columns of the image that a block of `warps` warps writes.
LR_PLAN_DEVICE constexpr int64_t stem_backward_columns(int warps, StemGradient gradient) {
    return kStemWarpColumns * warps - (gradient == StemGradient::kImage ? 6 : 0);
}

// An instance of a kernel: bytes of shared memory, blocks that a multiprocessor's registers hold, rows of a step.
struct StemBackwardInstance {
    int shared_bytes, blocks, height;
};

// How an instance runs on a device: warps of a block, rows of a step, resident blocks.
struct StemBackwardFit {
    int32_t warps, height;
    int64_t resident;
};

LR_PLAN_DEVICE constexpr int64_t stem_gradient_elements(int filters, int channels) {
    return int64_t{filters} * (channels * 49 + 1 + filters + 1);
}

// For a GPU whose blocks have up to `most_shared` bytes of shared memory; false if they are too few.
bool fit_stem_backward(StemBackwardFit& fit, StemGradient gradient, int arithmetic, int filters, int channels,
                       int multiprocessors, int64_t most_shared);

// Fills the tables of a plan whose tensors and bands are there.
int launch_stem_backward_tables(const StemBackwardShape& plan, unsigned char* tables, int device, void* stream);

int launch_stem_backward(const StemBackwardParams& params, StemGradient gradient, int arithmetic, int device,
                         void* stream);

}  // namespace learned_resizer
