// Parameters and launchers of resampling with one band matrix per axis. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "bands/bands.h"
#include "common/parameter.h"

namespace learned_resizer {

constexpr int kThreads = 128;    // most threads of a block
constexpr int kBatchRows = 4;    // output rows that go through one horizontal pass together
constexpr int kGroupSteps = 4;   // steps between two checks for a complete batch, and rows in flight
constexpr int kChunkSteps = 64;  // steps staged in shared memory at a time; a multiple of kGroupSteps
constexpr int kMostSlots = 8;    // output rows open at a time
constexpr int kSharedLimit = 48 * 1024;

// Elements of a row that one thread owns, and so how many a block can hold.
constexpr int vector_length(DType dtype, bool vectors) {
    return !vectors || dtype == DType::kFloat64 || dtype == DType::kFloat32 ? 4 : 8;
}
constexpr int row_capacity(DType dtype, bool vectors) { return kThreads * vector_length(dtype, vectors); }

// Factors of the vertical and the horizontal weights. The kernel reads a byte b as b * 2^-133 (Pixel); 2^133 is no
// float, and in two parts every sum is far from a float's ends.
LR_PLAN_DEVICE constexpr double row_scale(DType dtype) { return dtype == DType::kUInt8 ? 0x1p100 : 1.0; }
LR_PLAN_DEVICE constexpr double column_scale(DType dtype) { return dtype == DType::kUInt8 ? 0x1p33 : 1.0; }

// Blocks of kThreads threads that the 65,536 registers of a multiprocessor hold: the kernel's launch bound, which the
// compiler keeps, and what the planner counts on.
constexpr int resident_blocks(DType dtype, int slots, bool vectors, int outputs) {
    if (dtype == DType::kFloat64) return 2;
    const int kept = slots * vector_length(dtype, vectors);
    if (!vectors) return 4;
    // Sums of several outputs take registers, too.
    return kept <= (outputs > 1 ? 16 : 24) ? 5 : kept <= 48 ? 4 : 3;
}

// Output columns that one thread filters together where images are enlarged: neighbours share most of their taps.
constexpr int kSharedOutputs = 4;

// Fields of Step::flags.
constexpr int32_t kStepRow = 1;     // the step consumes an image row
constexpr int32_t kStepEmit = 2;    // an output row is complete after the step
constexpr int kStepBatchShift = 2;  // 2 bits: which row of the batch the output row becomes
constexpr int kStepSlotShift = 4;   // 3 bits: slot of the output row
constexpr int kStepFlushShift = 8;  // 3 bits, last step of a group: rows in the completed batch, or 0

// One step of a strip's vertical program. `A` is the accumulator type (double for float64, else float).
template <class A, int K>
struct alignas(16) Step {
    int32_t next_row;  // image row to request now, that of the step kGroupSteps later; -1: none
    int32_t flags;
    A weight[K];  // of each open output for this row; 0: not in the band
};
LR_PLAN_DEVICE constexpr int64_t step_bytes(DType dtype, int slots) {
    return (8 + (dtype == DType::kFloat64 ? 8 : 4) * slots + 15) / 16 * 16;
}

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

// One axis as a kernel runs it: outputs lead ... lead + bands - 1 have bands, the others read nothing.
struct ResampleAxis {
    int64_t begin, end, weight;  // byte offsets of Bands in the tables
    int32_t taps;                // of those arrays
    int32_t in, out;
    int32_t lead, bands;
};

// Images of one size, in the tables.
struct alignas(16) ResampleTensor {
    ResampleAxis rows, columns;
    int64_t block;  // its first, and of resample_tables its first entry
    int64_t entry;
    int64_t planes;        // images for interleaved channels, else images * channels
    int64_t plane_groups;  // ceil(planes / group_planes)
    int64_t planes_per_image;
    // Byte offsets in the tables.
    int64_t steps;         // Step<A, K> [strips][strip_steps]
    int64_t strip_first;   // int32 [strips][kGroupSteps]: image rows to request before the first step; -1: none
    int64_t strip_count;   // int32 [strips]: steps
    int64_t tile_table;    // Tile [tiles][pieces]
    int64_t entry_table;   // Entry [tiles][pieces][tile_entries], each window's rounded up to 16 bytes
    int64_t weight_table;  // A [tiles][pieces], outputs 1: [taps/2][entry_columns][2], 4: [taps][entry_columns][4]

    int32_t channels;        // interleaved channels; 1 for planes
    int32_t group_channels;  // of them, of a block; divides `channels`
    int32_t channel_groups;  // channels / group_channels
    int32_t group_planes;    // planes that share a block
    int32_t plane_elements;  // elements of a row buffer that one plane takes

    int32_t strip_rows;  // output rows of a strip
    int32_t unit_rows;   // output rows that are open together: the strip's, or kMostSlots where more would be
    int32_t strips;
    int32_t strip_steps;  // most of a strip

    int32_t tile_columns;  // output columns of a tile
    int32_t tiles;
    int32_t pieces;         // column windows of a tile; > 1 only when one output's taps exceed the block's capacity
    int32_t piece_columns;  // of such a window
    int32_t align;          // of a window's first column
    int32_t slot_columns;   // most columns of a window
    int32_t taps;           // horizontal taps, padded with zero weights
    int32_t entry_columns;  // columns of the horizontal weights
    int32_t tile_entries;   // entries stored per tile and piece
    int32_t whole_store;    // outputs 4, 1: the outputs of an entry are neighbours in memory and aligned
    int32_t mirrored;       // 1: output column x is stored at out - 1 - x
};

// What all images of a launch have in common. Made by make_resample_plan (resample_plan.h).
struct ResampleShape {
    DType dtype;
    DType out_dtype;       // dtype; of uint8 images also a float dtype but float64
    int32_t slots;         // K: output rows kept in registers: 2, 4, 6 or 8
    int32_t outputs;       // of an entry: 1 or kSharedOutputs
    int32_t vectors;       // 1: aligned vector loads; 0: element loads with any strides
    int32_t threads;       // block size
    int32_t shared_bytes;  // dynamic shared memory
    int32_t tensors;
    int32_t transposed;  // 1: the adjoint
    int32_t most_bands;  // of an axis, for the launch of transposed_bands
    int64_t blocks;
    int64_t entries;          // of resample_tables
    int64_t tensor_table;     // byte offset of ResampleTensor [tensors]
    int64_t transpose_table;  // byte offset of TransposedAxis [2 * tensors], adjoint only
};

// Where images of one size are.
struct ResampleImage {
    // Plane p, channel c, row y, column x: element (p / planes_per_image) * stride[0] + (p % planes_per_image) *
    // stride[1] + c * stride[2] + y * stride[3] + x * stride[4].
    const void* image;
    int64_t stride[5];  // in elements, any sign
    void* output;       // [planes][rows.out][columns.out][channels], dense
};

// What is common to a block's threads, at the begin of its shared memory.
struct alignas(16) ResamplePlace {
    ResampleTensor tensor;
    ResampleImage image;
    int64_t block, strip;
    int64_t plane, channel;  // the first of the block
};

struct ResampleParams {
    ResampleShape plan;
    const unsigned char* tables;  // 16-byte aligned, in the memory the kernel runs on
    const ResampleImage* images;  // [tensors], there too; null: `image` is the only one
    ResampleImage image;
    const float* norm;  // [2][channels of an image], of uint8 images with a float result: scale and shift; or null
};

// Fills the tables of a plan whose tensors and bands are there. Otherwise as launch_resample.
int launch_resample_tables(const ResampleShape& plan, unsigned char* tables, int device, void* stream);

// Launches on `stream` (a cudaStream_t) of `device`, whichever device is current; the caller's current device is
// restored. Returns the cudaError_t of the first call that failed, 0 if none did.
int launch_resample(const ResampleParams& params, int device, void* stream);

// Name and text of a cudaError_t.
const char* cuda_error_name(int error);
const char* cuda_error_text(int error);

}  // namespace learned_resizer
