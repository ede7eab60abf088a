// Parameters and launchers of the stem. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/parameter.h"
#include "resample/resample.h"

namespace learned_resizer {

constexpr int kStemMinWarps = 2;
constexpr int kStemMaxWarps = 8;
constexpr int kStemWarpColumns = 16;  // image columns of a warp: one row tile of a matrix product
constexpr int kStemRing = 16;         // image rows kept in shared memory
constexpr int kStemPad = 8;           // pixels of a ring row beyond the block's columns: 3 before and 5 after them
constexpr int kStemSlots = 6;         // most rows that the vertical filter keeps
constexpr int kStemFragments = 24;    // most fragments of the horizontal filter in shared memory, of any kernel

// One image row of a strip, for a kernel that keeps K rows.
template <int K>
struct alignas(16) StemRow {
    float weight[K];  // fold: of the open output row o, at o % K
    int32_t emits;    // output rows that are complete after it
    int32_t first;    // the first of them
};

// A strip: output rows out_begin ... out_end-1 need image rows begin ... end-1. Statistics count begin ... own_end-1
// here; the strips' own rows partition the image.
struct StemStrip {
    int32_t out_begin, out_end, begin, end, own_end;
    int32_t rows;  // index of its first StemRow
    int32_t reserved[2];
};

// The same for columns; a tile whose columns exceed a block is cut into several of these, its pieces.
struct StemTile {
    int32_t out_begin, out_end, begin, own_end;
};

// 16 outputs of a tile, whose horizontal filter is one product.
struct alignas(8) StemGroup {
    int32_t column;    // first of 16 `steps` that it reads
    int16_t fragment;  // first of parts * steps of the filter
    int16_t parts;     // of its weights: 2 if some weight has more than 8 significant bits
};

// What a plan has to know of the kernels of an arithmetic and a number of filters.
struct StemInstance {
    int32_t warps[2];     // on a multiprocessor, as far as registers decide: that keep 2 rows, that keep kStemSlots
    int32_t block_warps;  // most of a block, up to kStemMaxWarps
    int32_t fragments;    // most of the horizontal filter in shared memory, up to kStemFragments
    int32_t parts;        // most of a horizontal weight: 1 if the products split operands themselves
};

// Everything that follows from sizes and bands, made by make_stem_plan (stem_plan.h).
struct StemPlanShape {
    Form form;
    int32_t slots;  // K: 2 or kStemSlots
    int32_t warps;
    int32_t strips, tiles, pieces;
    int32_t taps;           // horizontal taps of an output, padded with zero weights
    int32_t tile_outputs;   // most output columns of a tile
    int32_t groups, steps;  // most groups of 16 outputs of a tile, and of 16 columns that a group reads
    int32_t fragments;      // most of the horizontal filter of a tile
    int32_t strip_outputs;  // most output rows of a strip
    int64_t batch, height, width, out_height, out_width;
    int64_t items;   // batch * strips * tiles
    int64_t blocks;  // to launch; also the number of partial results

    // Byte offsets into the tables.
    int64_t strip_table;   // StemStrip [strips]
    int64_t row_table;     // StemRow<slots> [all rows of all strips]
    int64_t gather_table;  // float [out_height][slots], gather only: of image row y, at y % slots
    int64_t tile_table;    // StemTile [tiles][pieces]
    int64_t first_table;   // int32 [tiles][pieces][tile_outputs]: first tap, relative to the piece's first column
    int64_t tap_table;     // float [tiles][pieces][tile_outputs][taps]
    int64_t group_table;   // StemGroup [tiles][pieces][groups]
    int64_t table_bytes;
};

// x, of any strides: element (b, c, y, x) at b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3].
struct StemImage {
    const void* data;
    int64_t stride[4];  // in bytes
    int64_t height, width;
    DType dtype;       // not float64
    int32_t channels;  // 1 ... 4
    Vector mean, std;  // [channels], for uint8: x = (data / 255 - mean) / std
};

inline int64_t image_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : dtype == DType::kUInt8 ? 1 : 2; }

// Rounded to the arithmetic as they load. n of the maps is 16 or 32; the channels from `filters` on are zero.
struct StemWeights {
    Weight w0;  // [filters][channels][7][7]
    Vector b0;  // [filters]
    Weight w1;  // [filters][filters][1][1]
    Vector b1;  // [filters]
    float negative_slope;
    int32_t filters;
};

struct StemParams {
    StemPlanShape plan;
    const unsigned char* tables;  // 16-byte aligned, in the memory the kernel runs on
    StemImage image;
    StemWeights weights;
    void* z;          // [batch][out_height][out_width][n], of the arithmetic's 16-bit type, else float32
    float* partials;  // [blocks][3][filters]: count, mean and M2 of c; null: no statistics
};

// `arithmetic`: Arithmetic of fragment.cuh, as a number. Otherwise as launch_resample.
// Shared memory of a block, the most that any plan needs.
int stem_shared_bytes(int arithmetic, int filters);

StemInstance stem_instance(int arithmetic, int filters);

int launch_stem(const StemParams& params, int arithmetic, int device, void* stream);

}  // namespace learned_resizer
