// The instances of the head's kernels, listed once for the launcher and for the tests.
#pragma once

#include "head/head_backward.cuh"

namespace learned_resizer {

template <Arithmetic M, int n, class Launch>
bool with_head_direction(HeadKernel kernel, const Launch& launch) {
    if (kernel == HeadKernel::kForward)
        launch(head_kernel<M, n>, HeadForward<M, n>::shared_bytes(), HeadForward<M, n>::kHeight);
    else
        launch(head_backward_kernel<M, n>, HeadBackward<M, n>::shared_bytes(), HeadBackward<M, n>::kHeight);
    return true;
}
template <Arithmetic M, class Launch>
bool with_head_filters(HeadKernel kernel, int num_filters, const Launch& launch) {
    if (num_filters == 16) return with_head_direction<M, 16>(kernel, launch);
    return num_filters == 32 && with_head_direction<M, 32>(kernel, launch);
}

// Calls launch(kernel, shared_bytes, rows of a tile) with the instance; false if there is none.
template <class Launch>
bool with_head_kernel(HeadKernel kernel, Arithmetic arithmetic, int num_filters, const Launch& launch) {
    switch (arithmetic) {
        case Arithmetic::kBFloat16:
            return with_head_filters<Arithmetic::kBFloat16>(kernel, num_filters, launch);
        case Arithmetic::kFloat16:
            return with_head_filters<Arithmetic::kFloat16>(kernel, num_filters, launch);
        case Arithmetic::kTF32:
            return with_head_filters<Arithmetic::kTF32>(kernel, num_filters, launch);
        case Arithmetic::kFloat32:
            return with_head_filters<Arithmetic::kFloat32>(kernel, num_filters, launch);
    }
    return false;
}

}  // namespace learned_resizer
