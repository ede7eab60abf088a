// Parameters and launcher of resampling with one band matrix per axis. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

// How the vertical filter keeps its rows in registers (resample.cuh explains both).
enum class Form : int32_t { kFold = 0, kGather = 1 };

constexpr int kThreads = 128;    // most threads of a block
constexpr int kBatchRows = 4;    // output rows that go through one horizontal pass together
constexpr int kGroupSteps = 4;   // steps between two checks for a complete batch, and rows in flight (fold)
constexpr int kChunkSteps = 64;  // steps staged in shared memory at a time; a multiple of kGroupSteps
constexpr int kSharedLimit = 48 * 1024;

// Elements of a row that one thread owns, and so how many a block can hold.
constexpr int vector_length(DType dtype, bool vectors) {
    return !vectors || dtype == DType::kFloat64 || dtype == DType::kFloat32 ? 4 : 8;
}
constexpr int row_capacity(DType dtype, bool vectors) { return kThreads * vector_length(dtype, vectors); }

// Factors of the vertical and the horizontal weights. The kernel reads a byte b as b * 2^-133 (Pixel); 2^133 is no
// float, and in two parts every sum is far from a float's ends.
constexpr double row_scale(DType dtype) { return dtype == DType::kUInt8 ? 0x1p100 : 1.0; }
constexpr double column_scale(DType dtype) { return dtype == DType::kUInt8 ? 0x1p33 : 1.0; }

// Blocks of kThreads threads that the 65,536 registers of a multiprocessor hold: the kernel's launch bound, which the
// compiler keeps, and what the planner counts on.
constexpr int resident_blocks(DType dtype, int slots, bool vectors) {
    if (dtype == DType::kFloat64) return 2;
    const int kept = slots * vector_length(dtype, vectors);
    if (!vectors) return 4;
    return kept <= 24 ? 5 : kept <= 48 ? 4 : 3;
}

// Output columns that one thread filters together: neighbours share most of their taps when enlarging.
constexpr int outputs_per_entry(Form form) { return form == Form::kGather ? 4 : 1; }

// Fields of Step::flags.
constexpr int32_t kStepRow = 1;     // the step consumes an image row
constexpr int32_t kStepEmit = 2;    // an output row is complete after the step
constexpr int kStepBatchShift = 2;  // 2 bits: which row of the batch the output row becomes
constexpr int kStepSlotShift = 4;   // 3 bits: fold: slot of the output row; gather: slot of the image row
constexpr int kStepFlushShift = 8;  // 3 bits, last step of a group: rows in the completed batch, or 0

// One step of a strip's vertical program. `A` is the accumulator type (double for float64, else float).
template <class A, int K>
struct alignas(16) Step {
    int32_t next_row;  // image row to request now: fold: of the step kGroupSteps later; gather: of the next row step;
                       // -1: none
    int32_t flags;
    A weight[K];  // fold: of each open output for this row; gather: of each kept row for this output; 0: not in the
                  // band
};

// One horizontal result of a batch: where its taps start in the filtered row, and where it is stored.
struct Entry {
    uint32_t source;  // bits 0-12: element of the row; bits 13-15: outputs; bits 16-30: column of the weights
    int32_t target;   // element offset from the tile's first output
};

struct Tile {
    int32_t column_begin;       // first image column of the window
    int32_t column_count;       // columns of the window
    int32_t entries_per_plane;  // entries of one plane
    int32_t reserved;
};

// Everything that follows from sizes, bands and layout, but not from addresses. Made by make_plan (resample_plan.h).
struct PlanShape {
    DType dtype;
    Form form;
    int32_t slots;         // K: rows kept in registers: 2, 4, 6 or 8
    int32_t vectors;       // 1: aligned vector loads; 0: element loads with any strides
    int32_t threads;       // block size
    int32_t shared_bytes;  // dynamic shared memory

    int32_t strip_rows;  // output rows of a strip
    int32_t strips;
    int32_t tiles;           // column tiles
    int32_t pieces;          // column windows of a tile; > 1 only when one output's taps exceed the block's capacity
    int32_t group_planes;    // G: planes that share a block
    int32_t group_channels;  // Cg: interleaved channels of a block; divides `channels`
    int32_t channel_groups;  // channels / group_channels
    int32_t plane_elements;  // elements of a row buffer that one plane takes
    int32_t taps;            // U: horizontal taps, padded with zero weights
    int32_t entry_columns;   // X: columns of the horizontal weights
    int32_t tile_columns;    // output columns of a tile
    int32_t tile_entries;    // entries stored per tile and piece
    int32_t whole_store;     // gather, 1: the outputs of an entry are neighbours in memory and aligned

    int64_t planes;        // B*C for NCHW, B for interleaved channels
    int64_t plane_groups;  // ceil(planes / group_planes)
    int64_t blocks;        // tiles * strips * channel_groups * plane_groups
    int64_t in_height, in_width, out_height, out_width;
    int64_t channels;          // interleaved channels: 1 for NCHW, C for channels_last
    int64_t out_row_elements;  // out_width * channels

    // Byte offsets into the tables.
    int64_t strip_begin;   // int32 [strips + 1]: first step of each strip
    int64_t strip_first;   // int32 [strips][kGroupSteps]: image rows to request before the first step; -1: none
    int64_t steps;         // Step<A, K> [strip_begin[strips]]
    int64_t tile_table;    // Tile [tiles][pieces]
    int64_t entry_table;   // Entry [tiles][pieces][tile_entries]
    int64_t weight_table;  // A [tiles][pieces], fold: [taps/2][entry_columns][2], gather: [taps][entry_columns][4]
    int64_t table_bytes;
};

struct ResampleParams {
    PlanShape plan;
    const unsigned char* tables;  // the plan's tables, 16-byte aligned, in the memory the kernel runs on
    const void* image;            // plane p, channel c, row y, column x: element
                                  //   (p / planes_per_image) * stride_image + (p % planes_per_image) * stride_plane
                                  //   + c * stride_channel + y * stride_row + x * stride_column
    int64_t planes_per_image;     // C for NCHW, 1 for interleaved channels
    int64_t stride_image, stride_plane, stride_channel, stride_row, stride_column;  // in elements, any sign
    void* output;  // [planes][out_height][out_width][channels], dense
};

// Launches on `stream` (a cudaStream_t) of `device`, whichever device is current; the caller's current device is
// restored. Returns the cudaError_t of the first call that failed, 0 if none did.
int launch_resample(const ResampleParams& params, int device, void* stream);

// Name and text of a cudaError_t.
const char* cuda_error_name(int error);
const char* cuda_error_text(int error);

}  // namespace learned_resizer
