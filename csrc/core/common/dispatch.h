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

// Channels of the features in memory, and of the instance, for up to 32 filters.
constexpr int padded_filters(int filters) { return filters <= 16 ? 16 : 32; }

// Calls use(M, n) for the instances that every op on tensor cores has; false if this is not one of them.
template <class Use>
bool dispatch_tensor(Arithmetic arithmetic, int filters, const Use& use) {
    using A = Arithmetic;
    if (filters < 1 || filters > 32) return false;
    return dispatch<A::kBFloat16, A::kFloat16, A::kTF32, A::kFloat32>(arithmetic, [&](auto M) {
        return dispatch<16, 32>(padded_filters(filters), [&](auto n) {
            use(M, n);
            return true;
        });
    });
}

}  // namespace learned_resizer
