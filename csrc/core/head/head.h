// Parameters and launchers of the 7x7 convolution to the image's channels with its prologue, bias and image skip, and
// of its adjoint. Plain C++: no torch, no Python.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/prologue.h"

namespace learned_resizer {

// An image: element (b, c, y, x) at b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3], in elements.
struct HeadImage {
    const void* data;
    int64_t stride[4];
    int32_t wide;  // 1: float32; 0: of the arithmetic's type
};

// Features are as in prologue.h. Weights are rounded to the arithmetic as they load.
struct HeadParams {
    PrologueParams prologue;
    int32_t channels;  // C, 1 ... 4
    Weight weight;     // [C][filters][7][7]

    // Forward: result = W * v + bias + base, zero padding of v; result's type is base's.
    Vector bias;  // [C]
    HeadImage base;
    void* result;
    int64_t result_stride[4];

    // Adjoint.
    HeadImage grad;   // dy
    float* partials;  // [blocks][C filters 49 + C + 3 filters]: dW, dbias, sum g' t, sum g', sum g' u

    int64_t blocks;  // to launch; from head_blocks
};

enum class HeadKernel : int32_t { kForward = 0, kBackward = 1 };

constexpr int kHeadThreads = 256;
constexpr int kHeadColumns = 32;  // output columns of a tile
constexpr int kHeadChannels = 4;

// Output rows of a tile: as many as fit into shared memory at `bytes` per pixel.
constexpr int head_rows(HeadKernel kernel, int bytes) {
    return kernel == HeadKernel::kForward ? (bytes <= 32 ? 32 : bytes <= 64 ? 16 : 8) : (bytes <= 96 ? 16 : 8);
}
// About two blocks per multiprocessor.
inline int64_t head_blocks(int64_t batch, int64_t height, int64_t width, int rows, int multiprocessors) {
    const int64_t tiles = batch * ((height + rows - 1) / rows) * ((width + kHeadColumns - 1) / kHeadColumns);
    return std::min<int64_t>(tiles, int64_t{2} * multiprocessors);
}
// Of the instance for an arithmetic (Arithmetic of fragment.cuh, as a number) and the prologue's size and filters.
Needs head_needs(const HeadParams& params, HeadKernel kernel, int arithmetic, int multiprocessors);

int launch_head(const HeadParams& params, HeadKernel kernel, int arithmetic, int device, void* stream);

}  // namespace learned_resizer
