// The instances of the stem's backward kernels, listed once for the launcher and for the tests.
#pragma once

#include "stem/stem_backward.cuh"

namespace learned_resizer {

template <Arithmetic M, int n, class Launch>
bool with_stem_gradient(const StemBackwardParams& params, StemGradient gradient, const Launch& launch) {
    if (gradient == StemGradient::kWeights)
        launch(stem_weights_kernel<M, n>, StemWeightGradients<M, n>::shared_bytes(params));
    else
        launch(stem_image_kernel<M, n>, StemImageGradient<M, n>::shared_bytes(params));
    return true;
}
template <Arithmetic M, class Launch>
bool with_stem_backward_filters(const StemBackwardParams& params, StemGradient gradient, int num_filters,
                                const Launch& launch) {
    if (num_filters == 16) return with_stem_gradient<M, 16>(params, gradient, launch);
    return num_filters == 32 && with_stem_gradient<M, 32>(params, gradient, launch);
}

// Calls launch(kernel, shared_bytes) with the instance; false if there is none.
template <class Launch>
bool with_stem_backward_kernel(const StemBackwardParams& params, StemGradient gradient, Arithmetic arithmetic,
                               int num_filters, const Launch& launch) {
    switch (arithmetic) {
        case Arithmetic::kBFloat16:
            return with_stem_backward_filters<Arithmetic::kBFloat16>(params, gradient, num_filters, launch);
        case Arithmetic::kFloat16:
            return with_stem_backward_filters<Arithmetic::kFloat16>(params, gradient, num_filters, launch);
        case Arithmetic::kTF32:
            return with_stem_backward_filters<Arithmetic::kTF32>(params, gradient, num_filters, launch);
        case Arithmetic::kFloat32:
            return with_stem_backward_filters<Arithmetic::kFloat32>(params, gradient, num_filters, launch);
    }
    return false;
}

}  // namespace learned_resizer
