// The resample launches for the host: the same plans, dispatch and kernel sources, run on fibers.
#pragma once

#include "resample/resample_plan.h"

namespace learned_resizer::host {

// Makes in the tables of a plan, whose begin is stored there, all that the device makes.
void make_resample_tables(const ResamplePlan& plan, unsigned char* tables, bool backwards = false);

// Returns false if there is no kernel for the plan. `most_blocks` limits the grid, so that blocks take several turns.
bool run_resample(const ResampleParams& params, bool backwards = false, int64_t most_blocks = INT64_MAX);

}  // namespace learned_resizer::host
