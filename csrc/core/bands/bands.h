// The band matrices of a resampling, made on the device: parameters and launcher. Plain C++: no torch, no Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define LR_PLAN_DEVICE __host__ __device__
#else
#define LR_PLAN_DEVICE
#endif

namespace learned_resizer {

// In the order of INTERPOLATIONS of ops/bands.py.
enum class Filter : int32_t { kNearest = 0, kBox = 1, kBilinear = 2, kHamming = 3, kBicubic = 4, kLanczos = 5 };

// One axis of an image, or of its crop: output o is centred at pixel coordinate offset + scale (o + 1/2).
struct Axis {
    double scale;       // pixels per output: extent / out, or 1 / factor
    double offset;      // of the first output's edge from the first pixel's
    double extent;      // of the region, in pixels; 0: an explicit scale factor sets the coordinates
    int32_t in, out;    // pixels, outputs
    Filter filter;      // kNearest for a box without antialiasing, too
    int32_t antialias;  // 0: the filter at its own width, and the border repeated
    int32_t identity;   // 1: each output is its pixel, in == out
    int32_t taps;       // most pixels of an output, band_taps()
};

// Support of a filter in pixels, before antialiasing widens it; kNearest has none.
LR_PLAN_DEVICE inline double filter_support(Filter filter) {
    switch (filter) {
        case Filter::kNearest:
        case Filter::kBox:
            return 0.5;
        case Filter::kBilinear:
        case Filter::kHamming:
            return 1.0;
        case Filter::kBicubic:
            return 2.0;
        default:
            return 3.0;
    }
}

// Most pixels that an output reads: those whose centres lie in a half-open interval of 2 support stretch pixels.
inline int32_t band_taps(const Axis& axis) {
    if (axis.identity != 0 || axis.filter == Filter::kNearest) return 1;
    const double width = 2.0 * filter_support(axis.filter) * (axis.antialias != 0 ? std::max(axis.scale, 1.0) : 1.0);
    return static_cast<int32_t>(std::min<double>(axis.in, std::floor(width) + 1.0));
}

// Most outputs that read one pixel, where the outputs stay within the image: the half-open intervals are `scale` apart.
// At least that of a filter that reads one pixel.
inline int64_t most_open(const Axis& axis) {
    if (axis.identity != 0) return 1;
    if (axis.filter == Filter::kNearest) return static_cast<int64_t>(std::ceil(1.0 / axis.scale - 1e-9)) + 1;
    const double width = 2.0 * filter_support(axis.filter) * (axis.antialias != 0 ? std::max(axis.scale, 1.0) : 1.0);
    return std::max<int64_t>(static_cast<int64_t>(std::ceil(width / axis.scale - 1e-9)), 1);
}

// Bands of an axis. Output o reads pixels begin[o] ... end[o] - 1 with weights weight[o * taps] ... that sum to 1;
// neither begin nor end decreases, and no output reads nothing.
struct Bands {
    const int32_t* begin;  // [out]
    const int32_t* end;    // [out]
    const double* weight;  // [out][taps]
};

// An axis, and where its bands go: byte offsets of their arrays in the tables.
struct alignas(16) BandAxis {
    Axis axis;
    int64_t begin, end, weight;
};

struct BandsParams {
    unsigned char* tables;  // 16-byte aligned
    int64_t axes;           // byte offset of BandAxis [count]
    int32_t count;
    int32_t most_outputs;  // of an axis
};

// One launch for all axes. Otherwise as launch_resample.
int launch_bands(const BandsParams& params, int device, void* stream);

// The bands of an axis, transposed: byte offsets of both in the tables. Pixel i is read by outputs to_begin[i] ...
// to_end[i] - 1, neither of which decreases; of a pixel that none reads the two are equal.
struct alignas(16) TransposedAxis {
    int64_t begin, end, weight;           // of Bands with `out` outputs and `taps`
    int64_t to_begin, to_end, to_weight;  // int32 [in], int32 [in], double [in][to_taps]
    int32_t out, taps, in, to_taps;
};

struct TransposeParams {
    unsigned char* tables;  // 16-byte aligned
    int64_t axes;           // byte offset of TransposedAxis [count]
    int32_t count;
    int32_t most_pixels;  // of an axis
};

int launch_transposed_bands(const TransposeParams& params, int device, void* stream);

}  // namespace learned_resizer
