// The plan of a resample launch: closed forms of sizes and filters, whatever their number. Plain C++: no CUDA.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "resample/resample.h"

namespace learned_resizer {

// Bounds on the bands of an axis: neighbouring outputs are `step` inputs apart and read those within `length`; each may
// read up to `extra` more.
struct Reach {
    int64_t in, out;
    double step, length;
    int64_t extra;

    int64_t window() const;               // most inputs of an output
    int64_t span(int64_t outputs) const;  // of successive outputs
    int64_t open() const;                 // most outputs that read an input, without `extra`
};
Reach reach_of(const Axis& axis, bool transposed);

// An axis: outputs fill a region of the (cropped) image. Nearest where the filter is a box without antialiasing. A
// factor of 0: the extent sets the coordinates; an extent of 0: all of `in`.
Axis make_axis(int32_t in, int32_t out, Filter filter, bool antialias, double offset = 0.0, double extent = 0.0,
               double factor = 0.0);

// Images of one size. In the adjoint the axes are still those of the forward, and the output is the whole image: its
// sizes, and where the crop begins in it (mirrored: counted from the other side).
struct ResamplePlanTensor {
    int64_t images;    // >= 1
    int64_t channels;  // of an image
    bool interleaved;  // the output's channels
    bool vectors;      // the image allows aligned vector loads (see vectors_allowed)
    Axis rows, columns;
    int32_t out_height, out_width, top, left;  // adjoint only
    bool mirrored;                             // adjoint only
};

struct ResamplePlanRequest {
    std::vector<ResamplePlanTensor> tensors;  // at least one
    DType dtype, out_dtype;
    bool transposed;
    int multiprocessors;  // of the device, for the number of blocks
    int shared_memory;  // bytes of the device's largest block: a multiprocessor has 1 KiB more, and takes 1 KiB a block
    std::vector<unsigned char> attached{};  // further bytes to store
};

// The tables begin with what the host writes. The rest is made on the device: bands, in the adjoint transposed bands,
// then launch_resample_tables.
struct ResamplePlan {
    ResampleShape shape;
    int64_t resident;  // blocks that a multiprocessor holds at a time
    std::vector<ResampleTensor> tensors;
    std::vector<BandAxis> axes;  // rows and columns of each tensor
    std::vector<TransposedAxis> transposed;
    std::vector<unsigned char> stored;
    int64_t axes_at, attached_at;
    int64_t bytes;  // of all
};

// Throws std::invalid_argument naming what makes no sense, std::length_error where an index would not fit.
ResamplePlan make_resample_plan(const ResamplePlanRequest& request);

// Whether rows of this image can be read as aligned vectors: contiguous rows (or contiguous channels, a multiple of the
// vector), an address and strides that keep every row aligned, and rows less than 2 GiB apart. Strides: of image,
// plane, channel, row, column.
bool vectors_allowed(DType dtype, const void* image, int64_t width, int64_t channels,
                     const std::array<int64_t, 5>& stride);

}  // namespace learned_resizer
