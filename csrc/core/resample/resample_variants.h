// The instances of the resample kernel, listed once for the launcher and for the tests.
#pragma once

#include "resample/resample.cuh"

namespace learned_resizer {

// Calls launch(kernel) with the kernel that `plan` needs; false if there is none.
template <class T, int K, Form F, class Launch>
bool with_resample_vectors(const PlanShape& plan, const Launch& launch) {
    if (plan.vectors)
        launch(resample_kernel<T, K, F, true>);
    else
        launch(resample_kernel<T, K, F, false>);
    return true;
}

template <class T, int K, class Launch>
bool with_resample_form(const PlanShape& plan, const Launch& launch) {
    return plan.form == Form::kFold ? with_resample_vectors<T, K, Form::kFold>(plan, launch)
                                    : with_resample_vectors<T, K, Form::kGather>(plan, launch);
}

template <class T, class Launch>
bool with_resample_slots(const PlanShape& plan, const Launch& launch) {
    switch (plan.slots) {
        case 2:
            return with_resample_form<T, 2>(plan, launch);
        case 4:
            return with_resample_form<T, 4>(plan, launch);
        case 6:
            return with_resample_form<T, 6>(plan, launch);
        case 8:
            return with_resample_form<T, 8>(plan, launch);
        default:
            return false;
    }
}

template <class Launch>
bool with_resample_kernel(const PlanShape& plan, const Launch& launch) {
    switch (plan.dtype) {
        // float64 is for checks, not for speed: the planner gives it eight slots always.
        case DType::kFloat64:
            return plan.slots == 8 && with_resample_form<double, 8>(plan, launch);
        case DType::kFloat32:
            return with_resample_slots<float>(plan, launch);
        case DType::kFloat16:
            return with_resample_slots<Half>(plan, launch);
        case DType::kBFloat16:
            return with_resample_slots<BFloat16>(plan, launch);
        case DType::kUInt8:
            return with_resample_slots<uint8_t>(plan, launch);
    }
    return false;
}

}  // namespace learned_resizer
