#include <algorithm>

#include "common/launch.h"
#include "stem/stem.cuh"

namespace learned_resizer {

StemInstance stem_instance(int arithmetic, int filters) {
    StemInstance result{};
    dispatch_tensor(static_cast<Arithmetic>(arithmetic), filters, [&](auto M, auto n) {
        result = {{kStemResident<M, n, 2>, kStemResident<M, n, kStemSlots>},
                  {kStemBlockWarps<M, n, 2>, kStemBlockWarps<M, n, kStemSlots>},
                  kStemMostFragments<M>,
                  kStemParts<M>};
    });
    return result;
}

int stem_shared_bytes(int arithmetic, int filters) {
    const StemInstance instance = stem_instance(arithmetic, filters);
    int most = 0;
    for (const int i : {0, 1}) {
        StemPlanShape plan{};
        plan.slots = i == 0 ? 2 : kStemSlots;
        plan.warps = instance.warps[i];
        plan.fragments = instance.fragments;
        plan.strip_outputs = 8;
        plan.pieces = 2;
        with_stem_kernel(plan, static_cast<Arithmetic>(arithmetic), filters,
                         [&](auto, int shared_bytes) { most = std::max(most, shared_bytes); });
    }
    return most;
}

int launch_stem(const StemParams& params, int arithmetic, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    cudaError_t error = cudaErrorInvalidValue;
    with_stem_kernel(
        params.plan, static_cast<Arithmetic>(arithmetic), params.weights.filters, [&](auto kernel, int shared_bytes) {
            error = launch(kernel, params.plan.blocks, 32 * params.plan.warps, shared_bytes, stream, params);
        });
    return error;
}

}  // namespace learned_resizer
