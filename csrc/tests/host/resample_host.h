// launch_resample for the host: the same plans, dispatch and kernel source, run on fibers.
#pragma once

#include "resample.h"

namespace learned_resizer::host {

// Returns false if there is no kernel for the plan.
bool run_resample(const ResampleParams& params, bool backwards = false);

}  // namespace learned_resizer::host
