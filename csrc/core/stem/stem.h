// Parameters and launchers of the stem. Plain C++: no torch, no Python.
#pragma once

#include <cstdint>

#include "common/parameter.h"

namespace learned_resizer {

// How the vertical filter keeps its rows in registers (stem.cuh explains both).
enum class Form : int32_t { kFold = 0, kGather = 1 };

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
};

// The same for columns; of a tile whose columns exceed a block, one of its pieces.
struct StemTile {
    int32_t out_begin, out_end, begin, end, own_end;
};

// 16 outputs of a tile, whose horizontal filter is one product.
struct alignas(8) StemGroup {
    int32_t column;    // first of 16 `steps` that it reads
    int16_t fragment;  // first of parts * steps of the filter
    int16_t parts;     // of its weights: 2 if some weight has more than 8 significant bits
};

// What a plan has to know of the kernels of an arithmetic and a number of filters. Blocks have the same number of warps
// whatever the images are, so that the bits of an image do not depend on those beside it.
struct StemInstance {
    int32_t resident[2];  // warps on a multiprocessor, as far as registers decide: with 2 slots, with kStemSlots
    int32_t warps[2];     // of a block
    int32_t fragments;    // most of the horizontal filter in shared memory, up to kStemFragments
    int32_t parts;        // most of a horizontal weight: 1 if the products split operands themselves
};

// Bands of an axis in the tables: byte offsets of the arrays of Bands.
struct StemAxis {
    int64_t begin, end, weight;
    int32_t in, taps;
};

// A tensor of images of one size, in the tables. What follows from it alone decides the bits of its images; only
// strip_outputs depends on the rest of the batch.
struct alignas(16) StemTensor {
    StemAxis rows, columns;
    int64_t image;         // its first, of the batch
    int64_t item;          // its first; images, strips, tiles
    int64_t entry;         // its first of stem_tables
    int64_t row_table;     // StemRow<slots> [height + strips (rows.taps + 2)]: a strip's at row_place()
    int64_t gather_table;  // float [out_height][slots], gather only: of image row y, at y % slots
    Form form;
    int32_t strips, strip_outputs;
    int32_t tiles, tile_outputs, pieces;
    int32_t steps;  // most 16 columns that 16 outputs of a tile read
};

// Everything else that follows from sizes, made by make_stem_plan (stem_plan.h).
struct StemPlanShape {
    int32_t slots;  // K: 2 or kStemSlots
    int32_t warps;
    int32_t tensors;
    int32_t pieces, fragments, strip_outputs;  // most of a tensor's
    int64_t out_height, out_width;
    int64_t items;
    int64_t blocks;        // to launch; also the number of partial results
    int64_t entries;       // of stem_tables
    int64_t tensor_table;  // byte offset of StemTensor [tensors]
};

// Images of one size, of any strides: element (b, c, y, x) at b * stride[0] + c * stride[1] + y * stride[2] +
// x * stride[3]. Of a mirrored crop the last column is the first, and stride[3] negative.
struct StemImage {
    const void* data;
    int64_t stride[4];  // in bytes
    int32_t height, width;
};

// Of all images.
struct StemFormat {
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
    const StemImage* images;      // [tensors], there too; null: `image` is the only one
    StemImage image;
    StemFormat format;
    StemWeights weights;
    void* z;          // [batch][out_height][out_width][n], of the arithmetic's 16-bit type, else float32
    float* partials;  // [blocks][3][filters]: count, mean and M2 of c; null: no statistics
};

// `arithmetic`: Arithmetic of fragment.cuh, as a number. Otherwise as launch_resample.
// Shared memory of a block, the most that any plan needs.
int stem_shared_bytes(int arithmetic, int filters);

StemInstance stem_instance(int arithmetic, int filters);

// Fills the tables of a plan whose tensors and bands are there.
int launch_stem_tables(const StemPlanShape& plan, unsigned char* tables, int device, void* stream);

int launch_stem(const StemParams& params, int arithmetic, int device, void* stream);

}  // namespace learned_resizer
