// Parameters and launcher of resampling bytes in fixed point, as Pillow does. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

namespace learned_resizer {

constexpr int kFixedBits = 22;      // behind the point of a weight
constexpr int kFixedThreads = 128;  // of a block
constexpr int kFixedRows = 4;       // image rows that a thread filters together
constexpr int kFixedMostRows = 64;  // most output rows of a strip: 32 KiB of shared memory

// Weights times 2^22 that one thread loads together: of four taps, or of the rows of a group for one output row. 0
// where there is no tap, or the output does not read the row.
struct alignas(16) FourWeights {
    int32_t weight[4];
};

// Image rows that a strip reads one after another, and the output rows that read them.
struct alignas(16) RowGroup {
    int32_t row[kFixedRows];
    int32_t first;   // output row, from the strip's first
    int32_t count;   // output rows
    int32_t weight;  // index of the first output row's weights
    int32_t reserved;
};

struct FixedStrides {
    int64_t image, plane, channel, row, column;  // in elements, any sign
};

struct ResampleFixedParams {
    const int32_t* start;           // [out_width]: image column of the first tap
    const FourWeights* weight;      // [ceil(taps / 4)][out_width]
    const int32_t* strip_begin;     // [strips + 1]: first group of each strip
    const RowGroup* group;          // [strip_begin[strips]]
    const FourWeights* row_weight;  // [sum of the groups' counts]
    // Plane p, channel c, row y, column x: element (p / planes_per_image) * stride.image
    //   + (p % planes_per_image) * stride.plane + c * stride.channel + y * stride.row + x * stride.column.
    const uint8_t* image;
    FixedStrides image_stride;
    uint8_t* output;
    FixedStrides output_stride;
    int64_t planes;            // B*C for NCHW, B for interleaved channels
    int64_t planes_per_image;  // C for NCHW, 1 for interleaved channels
    int64_t channels;          // interleaved channels: 1 for NCHW, C for channels_last
    int64_t out_height, out_width;
    int32_t taps;        // of every output column; start + taps is within the image
    int32_t strip_rows;  // output rows of a strip, at most kFixedMostRows
};

// As launch_resample.
int launch_resample_fixed(const ResampleFixedParams& params, int device, void* stream);

}  // namespace learned_resizer
