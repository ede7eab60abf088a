// The plan of the stem's forward kernel, from two band tables. Plain C++: no CUDA.
#pragma once

#include <vector>

#include "resample/resample_plan.h"
#include "stem/stem.h"

namespace learned_resizer {

struct StemPlanRequest {
    AxisTable rows, columns;  // every output reads at least one input
    int64_t batch;            // >= 1
    int multiprocessors;      // of the device, for the number of blocks
    StemInstance kernel;
};

struct StemPlan {
    StemPlanShape shape;
    std::vector<unsigned char> tables;
};

// Throws std::invalid_argument for invalid tables, and if more than kStemSlots output rows are open at one image row
// and an output row reads more than kStemSlots image rows: no filter does that without an explicit scale factor.
StemPlan make_stem_plan(const StemPlanRequest& request);

}  // namespace learned_resizer
