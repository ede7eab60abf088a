// The instances of the convolution's kernels, listed once for the launcher and for the tests.
#pragma once

#include "conv/conv.cuh"

namespace learned_resizer {

template <Arithmetic M, int n, class Launch>
bool with_conv_direction(ConvKernel kernel, const Launch& launch) {
    using Forward = Conv<M, n, ConvKernel::kForward>;
    using Backward = Conv<M, n, ConvKernel::kBackward>;
    if (kernel == ConvKernel::kForward)
        launch(conv_kernel<M, n>, Forward::shared_bytes(), Forward::kHeight);
    else
        launch(conv_backward_kernel<M, n>, Backward::shared_bytes(), Backward::kHeight);
    return true;
}
template <Arithmetic M, class Launch>
bool with_conv_filters(ConvKernel kernel, int num_filters, const Launch& launch) {
    if (num_filters == 16) return with_conv_direction<M, 16>(kernel, launch);
    return num_filters == 32 && with_conv_direction<M, 32>(kernel, launch);
}

// Calls launch(kernel, shared_bytes, rows of a tile) with the instance; false if there is none.
template <class Launch>
bool with_conv_kernel(ConvKernel kernel, Arithmetic arithmetic, int num_filters, const Launch& launch) {
    switch (arithmetic) {
        case Arithmetic::kBFloat16:
            return with_conv_filters<Arithmetic::kBFloat16>(kernel, num_filters, launch);
        case Arithmetic::kFloat16:
            return with_conv_filters<Arithmetic::kFloat16>(kernel, num_filters, launch);
        case Arithmetic::kTF32:
            return with_conv_filters<Arithmetic::kTF32>(kernel, num_filters, launch);
        case Arithmetic::kFloat32:
            return with_conv_filters<Arithmetic::kFloat32>(kernel, num_filters, launch);
    }
    return false;
}

}  // namespace learned_resizer
