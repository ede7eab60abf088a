#include "stem/stem_tables.cuh"

#include "common/launch.h"

namespace learned_resizer {
namespace {

template <class Params>
int launch_tables(void (*kernel)(Params), const Params& params, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error() != cudaSuccess) return guard.error();
    const int64_t blocks = (params.plan.entries + kStemTableThreads - 1) / kStemTableThreads;
    return launch(kernel, blocks, kStemTableThreads, 0, stream, params);
}

}  // namespace

int launch_stem_tables(const StemPlanShape& plan, unsigned char* tables, int device, void* stream) {
    const StemTablesParams params{plan, tables};
    return launch_tables(plan.slots == 2 ? stem_tables_kernel<2> : stem_tables_kernel<kStemSlots>, params, device,
                         stream);
}

int launch_stem_backward_tables(const StemBackwardShape& plan, unsigned char* tables, int device, void* stream) {
    return launch_tables(stem_backward_tables_kernel, StemBackwardTablesParams{plan, tables}, device, stream);
}

}  // namespace learned_resizer
