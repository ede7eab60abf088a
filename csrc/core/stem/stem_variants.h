// The instances of the stem's forward kernel, listed once for the launcher and for the tests.
#pragma once

#include "stem/stem.cuh"

namespace learned_resizer {

template <Arithmetic M, int n, class Launch>
bool with_stem_slots(const StemPlanShape& plan, const Launch& launch) {
    if (plan.slots == 2)
        launch(stem_kernel<M, n, 2>, Stem<M, n, 2>::shared_bytes(plan));
    else
        launch(stem_kernel<M, n, kStemSlots>, Stem<M, n, kStemSlots>::shared_bytes(plan));
    return true;
}
template <Arithmetic M, class Launch>
bool with_stem_filters(const StemPlanShape& plan, int num_filters, const Launch& launch) {
    if (num_filters == 16) return with_stem_slots<M, 16>(plan, launch);
    return num_filters == 32 && with_stem_slots<M, 32>(plan, launch);
}

// Calls launch(kernel, shared_bytes) with the instance; false if there is none.
template <class Launch>
bool with_stem_kernel(const StemPlanShape& plan, Arithmetic arithmetic, int num_filters, const Launch& launch) {
    switch (arithmetic) {
        case Arithmetic::kBFloat16:
            return with_stem_filters<Arithmetic::kBFloat16>(plan, num_filters, launch);
        case Arithmetic::kFloat16:
            return with_stem_filters<Arithmetic::kFloat16>(plan, num_filters, launch);
        case Arithmetic::kTF32:
            return with_stem_filters<Arithmetic::kTF32>(plan, num_filters, launch);
        case Arithmetic::kFloat32:
            return with_stem_filters<Arithmetic::kFloat32>(plan, num_filters, launch);
    }
    return false;
}

}  // namespace learned_resizer
