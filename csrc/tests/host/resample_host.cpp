#include "resample_host.h"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <string>

#include "resample/resample.cuh"
#include "resample/resample_plan.h"

namespace learned_resizer::host {

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

// For ctypes: plans and runs one resampling. `strides` are image, plane, channel, row, column in elements; `facts`
// receives form, slots, vectors, pieces, group_planes, group_channels of the plan. Returns nullptr, or the error's
// text.
extern "C" __attribute__((visibility("default"))) const char* resample_host(
    int dtype, int64_t planes, int64_t planes_per_image, int64_t channels, const int64_t* sizes,
    const int32_t* row_start, const int32_t* row_offset, const double* row_weight, const int32_t* column_start,
    const int32_t* column_offset, const double* column_weight, const void* image, const int64_t* strides, void* output,
    int multiprocessors, int32_t* facts) {
    using namespace learned_resizer;
    static thread_local std::string error;
    try {
        PlanRequest request{};
        request.rows = {sizes[0], sizes[2], row_start, row_offset, row_weight};
        request.columns = {sizes[1], sizes[3], column_start, column_offset, column_weight};
        request.dtype = static_cast<DType>(dtype);
        request.planes = planes;
        request.channels = channels;
        request.vectors = vectors_allowed(request.dtype, image, sizes[1], channels, strides[0], strides[1], strides[2],
                                          strides[3], strides[4]);
        request.multiprocessors = multiprocessors;
        request.shared_memory = 227 * 1024;
        const Plan plan = make_plan(request);
        ResampleParams params{};
        params.plan = plan.shape;
        params.tables = plan.tables.data();
        params.image = image;
        params.planes_per_image = planes_per_image;
        params.stride_image = strides[0];
        params.stride_plane = strides[1];
        params.stride_channel = strides[2];
        params.stride_row = strides[3];
        params.stride_column = strides[4];
        params.output = output;
        const PlanShape& s = plan.shape;
        const int32_t values[] = {
            static_cast<int32_t>(s.form), s.slots, s.vectors, s.pieces, s.group_planes, s.group_channels};
        for (int i = 0; i < 6; ++i) facts[i] = values[i];
        if (!host::run_resample(params)) throw std::runtime_error("no kernel for this plan");
    } catch (const std::exception& e) {
        error = e.what();
        return error.c_str();
    }
    return nullptr;
}
