// Parameters and launchers of the 7x7 convolution to the image's channels with its prologue, bias and image skip, and
// of its adjoint. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/prologue.h"
#include "common/to_image.h"

namespace learned_resizer {

// Features are as in prologue.h. Weights are rounded to the arithmetic as they load.
struct HeadParams : ToImage {
    PrologueParams prologue;

    // Adjoint.
    ImageView grad;   // dy
    float* partials;  // [blocks][C filters 49 + C + 3 filters]: dW, dbias, sum g' t, sum g', sum g' u

    uint32_t tiles;  // filled by the launcher
    int64_t blocks;  // to launch; from head_needs
};

enum class HeadKernel : int32_t { kForward = 0, kBackward = 1 };

constexpr int kHeadThreads = kTileThreads;
constexpr int kHeadColumns = 32;  // output columns of a tile

// Output rows of a tile: as many as fit into shared memory at `bytes` per pixel.
constexpr int head_rows(HeadKernel kernel, int bytes) {
    return kernel == HeadKernel::kForward ? (bytes <= 32 ? 32 : bytes <= 64 ? 16 : 8) : (bytes <= 96 ? 16 : 8);
}
// Of the instance for an arithmetic (Arithmetic of fragment.cuh, as a number) and the prologue's size and filters.
Needs head_needs(const HeadParams& params, HeadKernel kernel, int arithmetic, int multiprocessors);

int launch_head(const HeadParams& params, HeadKernel kernel, int arithmetic, int device, void* stream);

}  // namespace learned_resizer
