#include "resample_host.h"

#include <algorithm>

#include "bands/bands.cuh"
#include "resample/resample.cuh"

namespace learned_resizer::host {

void make_resample_tables(const ResamplePlan& plan, unsigned char* tables, bool backwards) {
    const auto count = static_cast<int32_t>(plan.axes.size());
    const BandsParams bands{tables, plan.axes_at, count, plan.shape.most_bands};
    run({3, kBandThreads, 0, backwards}, [&] { bands_kernel(bands); });
    if (plan.shape.transposed != 0) {
        const TransposeParams transposed{tables, plan.shape.transpose_table, count, plan.shape.most_bands};
        run({3, kBandThreads, 0, backwards}, [&] { transposed_bands_kernel(transposed); });
    }
    const ResampleTablesParams params{plan.shape, tables};
    with_resample_tables_kernel(plan.shape,
                                [&](auto kernel) { run({3, kTableThreads, 0, backwards}, [&] { kernel(params); }); });
}

bool run_resample(const ResampleParams& params, bool backwards, int64_t most_blocks) {
    const Launch launch{std::min(params.plan.blocks, most_blocks), params.plan.threads,
                        static_cast<std::size_t>(params.plan.shared_bytes), backwards};
    bool found = false;
    with_resample_kernel(params.plan, [&](auto kernel) {
        found = true;
        run(launch, [&] { kernel(params); });
    });
    return found;
}

}  // namespace learned_resizer::host
