// launch_resample for the host: the same plans, dispatch and kernel source, run on fibers.
#pragma once

#include "resample/resample.h"

namespace learned_resizer::host {

// Returns false if there is no kernel for the plan. `most_blocks` limits the grid, so that blocks take several turns.
bool run_resample(const ResampleParams& params, bool backwards = false, int64_t most_blocks = INT64_MAX);

}  // namespace learned_resizer::host
