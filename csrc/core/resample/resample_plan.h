// The plan of the resample kernel, from two band tables and a layout. Plain C++: no CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "resample/resample.h"

namespace learned_resizer {

// A band matrix in CSR form. Output o reads inputs start[o] ... start[o] + count[o] - 1, count[o] = offset[o+1] -
// offset[o].
struct AxisTable {
    int64_t in_size;
    int64_t out_size;
    const int32_t* start;   // [out_size]; rows may be empty
    const int32_t* offset;  // [out_size + 1], offset[0] = 0, non-decreasing
    const double* weight;   // [offset[out_size]]
};

struct PlanRequest {
    AxisTable rows;
    AxisTable columns;
    DType dtype;
    int64_t planes;       // B*C for NCHW, B for interleaved channels; >= 1
    int64_t channels;     // interleaved channels; 1 for NCHW
    bool vectors;         // the image allows aligned vector loads (see vectors_allowed)
    int multiprocessors;  // of the device, for the number of blocks
    int shared_memory;  // bytes of the device's largest block: a multiprocessor has 1 KiB more, and takes 1 KiB a block
};

struct Plan {
    PlanShape shape;
    int64_t resident;  // blocks that a multiprocessor holds at a time
    std::vector<unsigned char> tables;
};

// Throws std::invalid_argument naming the field that makes no sense, std::length_error where an index would not fit.
Plan make_plan(const PlanRequest& request);

// Whether rows of this image can be read as aligned vectors: contiguous rows (or contiguous channels, a multiple of the
// vector), an address and strides that keep every row aligned, and rows less than 2 GiB apart.
bool vectors_allowed(DType dtype, const void* image, int64_t width, int64_t channels, int64_t stride_image,
                     int64_t stride_plane, int64_t stride_channel, int64_t stride_row, int64_t stride_column);

}  // namespace learned_resizer
