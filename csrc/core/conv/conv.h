// Parameters and launchers of the 3x3 convolution with its prologue, and of its adjoint. Plain C++.
#pragma once

#include <cstdint>

#include "common/prologue.h"

namespace learned_resizer {

// Maps are as in prologue.h. Weights are rounded to the arithmetic as they load.
struct ConvParams {
    PrologueParams prologue;
    Weight weight;  // [filters][filters][3][3]

    // Forward: raw = W * v, zero padding of v.
    void* raw;
    float* moments;  // [blocks][3][filters]: count, mean and M2 of raw; null: no statistics

    // Adjoint: g = grad_raw + dmean / M + 2 (raw - mean) / M dvar, raw read from `raw`.
    const void* grad_raw;
    const float* mean;       // [filters]; null: no statistics
    const float* grad_mean;  // [filters]
    const float* grad_var;   // [filters]
    int64_t count;           // M
    float* partials;         // [blocks][filters filters 9 + 3 filters]: dW, sum g' t, sum g', sum g' u

    uint32_t tiles;  // filled by the launcher
    int64_t blocks;  // to launch; from conv_needs
};

enum class ConvKernel : int32_t { kForward = 0, kBackward = 1 };

constexpr int kConvThreads = kTileThreads;
constexpr int kConvColumns = 32;  // output columns of a tile

// Output rows of a tile: as many as fit into shared memory at `bytes` per pixel.
constexpr int conv_rows(ConvKernel kernel, int bytes) {
    return kernel == ConvKernel::kForward ? (bytes <= 32   ? 32
                                             : bytes <= 96 ? 16
                                                           : 8)
                                          : (bytes <= 32   ? 16
                                             : bytes <= 96 ? 8
                                                           : 4);
}
// Of the instance for an arithmetic (Arithmetic of fragment.cuh, as a number) and the prologue's size and filters.
Needs conv_needs(const ConvParams& params, ConvKernel kernel, int arithmetic, int multiprocessors);

int launch_conv(const ConvParams& params, ConvKernel kernel, int arithmetic, int device, void* stream);

}  // namespace learned_resizer
