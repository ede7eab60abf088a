// The plans of the stem's kernels: closed forms of sizes and filters, whatever their number. Plain C++: no CUDA.
#pragma once

#include <cstdint>
#include <vector>

#include "bands/bands.h"
#include "stem/stem_backward.h"

namespace learned_resizer {

// An axis whose outputs fill `extent` pixels from `offset` on; an extent of 0: all.
Axis make_stem_axis(int32_t in, int32_t out, Filter filter, bool antialias, double offset = 0.0, double extent = 0.0);

// Images of one size.
struct StemPlanTensor {
    int64_t batch;           // >= 1
    Axis rows, columns;      // of the same filter in all tensors, and with the same outputs
    bool image_grad = true;  // the adjoint's: whether the images' gradient is wanted
};

struct StemPlanRequest {
    std::vector<StemPlanTensor> tensors;  // at least one
    int multiprocessors;                  // of the device, for the number of blocks
    StemInstance kernel;
    std::vector<unsigned char> attached{};
};

// The tables begin with what the host writes: the tensors, the bands to be made, and what the caller attaches. The rest
// is made on the device.
struct StemTables {
    std::vector<unsigned char> stored;
    std::vector<BandAxis> axes;  // rows and columns of each tensor
    int64_t axes_at, attached_at;
    int64_t bytes;  // of all
};

struct StemPlan {
    StemPlanShape shape;
    StemTables tables;
};
StemPlan make_stem_plan(const StemPlanRequest& request);

struct StemBackwardPlan {
    StemBackwardShape shape;
    StemTables tables;
};
// fits: of the weights' gradients and of the image's.
StemBackwardPlan make_stem_backward_plan(const std::vector<StemPlanTensor>& tensors, const StemBackwardFit (&fits)[2],
                                         const std::vector<unsigned char>& attached = {});

}  // namespace learned_resizer
