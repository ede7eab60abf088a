// What the last convolution, of 7x7 to the image's channels, reads and writes beside its map: in the head and at the
// trunk's end. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

constexpr int kImageChannels = 4;  // most

// An image: element (b, c, y, x) at b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3], in elements.
struct ImageView {
    const void* data;
    int64_t stride[4];
    int32_t wide;  // 1: float32; 0: of the arithmetic's type
};

// result = W * v + bias + base, zero padding of v; result's type is base's.
struct ToImage {
    int32_t channels;  // C, 1 ... 4
    Weight weight;     // [C][filters][7][7]
    Vector bias;       // [C]
    ImageView base;
    void* result;
    int64_t result_stride[4];
};

}  // namespace learned_resizer
