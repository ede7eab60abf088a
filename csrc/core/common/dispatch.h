// From values known at run time to the template arguments of a kernel's instance.
#pragma once

#include <type_traits>

#include "common/fragment.cuh"

namespace learned_resizer {

// Calls use(std::integral_constant) for the choice equal to `value` and returns its result; false if none is equal.
template <auto... kChoices, class Value, class Use>
bool dispatch(Value value, const Use& use) {
    return ((value == kChoices && use(std::integral_constant<Value, kChoices>{})) || ...);
}

// Calls use(M, n) for the instances that every op on tensor cores has; false if this is not one of them.
template <class Use>
bool dispatch_tensor(Arithmetic arithmetic, int num_filters, const Use& use) {
    using A = Arithmetic;
    return dispatch<A::kBFloat16, A::kFloat16, A::kTF32, A::kFloat32>(arithmetic, [&](auto M) {
        return dispatch<16, 32>(num_filters, [&](auto n) {
            use(M, n);
            return true;
        });
    });
}

}  // namespace learned_resizer
