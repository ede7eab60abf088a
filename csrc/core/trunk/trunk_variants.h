// The instances of the trunk's kernels, listed once for the launcher and for the tests.
#pragma once

#include "trunk/trunk.cuh"

namespace learned_resizer {

// Calls launch(kernel) with the instance.
template <class Launch>
void with_trunk_kernel(TrunkKernel kernel, bool bfloat16, const Launch& launch) {
    if (kernel == TrunkKernel::kBlock) {
        if (bfloat16)
            launch(trunk_kernel<Arithmetic::kBFloat16, TrunkKernel::kBlock>);
        else
            launch(trunk_kernel<Arithmetic::kFloat16, TrunkKernel::kBlock>);
    } else {
        if (bfloat16)
            launch(trunk_kernel<Arithmetic::kBFloat16, TrunkKernel::kTail>);
        else
            launch(trunk_kernel<Arithmetic::kFloat16, TrunkKernel::kTail>);
    }
}

}  // namespace learned_resizer
