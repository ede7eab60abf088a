// The band matrices of a resampling, made on the device: parameters and launcher. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

// In the order of INTERPOLATIONS of ops/bands.py.
enum class Filter : int32_t { kNearest = 0, kBox = 1, kBilinear = 2, kHamming = 3, kBicubic = 4, kLanczos = 5 };

// One axis of one image: output o is centred at pixel coordinate offset + scale (o + 1/2) of the (cropped) image.
struct Axis {
    double scale;          // pixels per output
    double offset;         // of the first output's edge from the image's
    int32_t in, out;       // pixels, outputs
    Filter filter;
    int32_t antialias;     // 0: torch's filters without antialiasing, border repeated
    int32_t identity;      // 1: each output is its pixel, in == out
    int32_t taps;          // most pixels of an output, band_taps()
};

// Where the bands of an axis are. Output o reads pixels begin[o] ... end[o] - 1 with weights
// weight[o * taps] ... that sum to 1; neither begin nor end decreases.
struct Bands {
    const int32_t* begin;  // [out]
    const int32_t* end;    // [out]
    const double* weight;  // [out][taps]
};

}  // namespace learned_resizer
