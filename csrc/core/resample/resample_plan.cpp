#include "resample/resample_plan.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>

#include "resample/resample_plan_parts.h"

namespace learned_resizer {

using namespace planning;

namespace {

// Planes that share a block: small planes would leave most of its threads, and of its row buffer, idle.
int64_t choose_group_planes(const ColumnPlanner& planner, const Columns& c, int64_t step_bytes,
                            const PlanRequest& request) {
    if (c.pieces > 1) return 1;
    const int64_t slot = planner.slot_elements(c);
    const int64_t plane = request.rows.out_size * request.columns.out_size * request.channels;
    const int64_t rest = c.tiles * (request.channels / c.group_channels) * divide_up(request.rows.out_size, 16);
    int64_t best = 1;
    double best_cost = std::numeric_limits<double>::infinity();
    for (int64_t g = 1; g <= request.planes && g * slot <= planner.capacity(); ++g) {
        if (planner.shared_bytes(c, step_bytes, g, 0) > kSharedLimit) break;
        if (plane * g > std::numeric_limits<int32_t>::max()) break;
        // Idle threads cost less than idle multiprocessors.
        if (g > 1 && divide_up(request.planes, g) * rest < 4 * request.multiprocessors) break;
        const double warps = static_cast<double>(divide_up(g * slot, 32 * planner.vector()));
        const double cost =
            (warps + 1.0) / static_cast<double>(g);  // 1: a block's setup and shared memory, as one more warp
        if (cost < best_cost) {
            best = g;
            best_cost = cost;
        }
    }
    return best;
}

constexpr double kEnoughWarps = 16.0;  // that hide a multiprocessor's latencies

// Blocks that a multiprocessor holds at a time.
int64_t resident(const PlanShape& shape, int64_t warps, int64_t shared_bytes, int64_t shared_memory) {
    const int64_t by_registers = 4 * resident_blocks(shape.dtype, shape.slots, shape.vectors != 0) / warps;
    const int64_t by_shared = (shared_memory + 1024) / (shared_bytes + 1024);
    return std::max<int64_t>(std::min(by_registers, by_shared), 1);
}

// Tall strips read fewer rows twice and are set up less often; but the blocks should fill whole waves. Takes the number
// of strips whose busiest multiprocessor is done first: its waves one after another, the last one at the rate of the
// blocks that it has.
int64_t choose_strip_rows(const PlanRequest& request, const Axis& axis, int64_t most_rows, int64_t blocks_per_strip,
                          int64_t warps, int64_t resident) {
    const int64_t out = request.rows.out_size;
    const int64_t processors = std::max(request.multiprocessors, 1);
    const double setup = 8.0;  // a strip's setup, in rows
    // Time of `blocks` blocks that run together, in turns of one block at full rate.
    const auto wave = [&](int64_t blocks) {
        return std::max(static_cast<double>(blocks), blocks > 0 ? kEnoughWarps / static_cast<double>(warps) : 0.0);
    };
    double best_cost = std::numeric_limits<double>::infinity();
    int64_t best = std::min<int64_t>(most_rows, kBatchRows);
    for (int64_t count = divide_up(out, most_rows); count <= divide_up(out, kBatchRows); count += 1 + count / 16) {
        const int64_t rows = round_up(divide_up(out, count), kBatchRows);
        if (rows > most_rows) continue;
        const int64_t strips = divide_up(out, rows);
        const int64_t middle = (strips / 2) * rows;  // a strip away from the borders
        const int64_t last = std::min(middle + rows, out) - 1;
        const double work =
            static_cast<double>(std::max<int64_t>(axis.end[last] - axis.begin[middle], 0) + last + 1 - middle) + setup;
        const int64_t busiest = divide_up(strips * blocks_per_strip, processors);
        const double waves = static_cast<double>(busiest / resident) * wave(resident) + wave(busiest % resident);
        if (work * waves < best_cost) {
            best_cost = work * waves;
            best = rows;
        }
    }
    return best;
}

int64_t step_size(DType dtype, int slots) {
    return dtype == DType::kFloat64 ? 8 + 8 * slots + (8 + 8 * slots) % 16 : round_up(8 + 4 * slots, 16);
}

}  // namespace

bool vectors_allowed(DType dtype, const void* image, int64_t width, int64_t channels, int64_t stride_image,
                     int64_t stride_plane, int64_t stride_channel, int64_t stride_row, int64_t stride_column) {
    const int64_t v = vector_length(dtype, true);
    const int64_t size = element_bytes(dtype);
    if (reinterpret_cast<uintptr_t>(image) % std::min<int64_t>(v * size, 16) != 0) return false;
    if (std::abs(stride_row) > std::numeric_limits<int32_t>::max() / size) return false;
    if (stride_image % v != 0 || stride_plane % v != 0 || stride_row % v != 0) return false;
    if (channels > 1 && stride_channel != 1) return false;
    const bool flat = stride_column == channels && width * channels % v == 0;
    const bool sliced = channels % v == 0 && stride_column % v == 0;
    return flat || sliced;
}

Plan make_plan(const PlanRequest& request) {
    if (request.planes < 1) invalid("planes is " + std::to_string(request.planes) + ", expected at least 1");
    if (request.channels < 1) invalid("channels is " + std::to_string(request.channels) + ", expected at least 1");
    if (request.dtype < DType::kFloat64 || request.dtype > DType::kUInt8)
        invalid("dtype is " + std::to_string(static_cast<int>(request.dtype)) + ", expected 0 ... 4");
    const Axis rows(request.rows, "rows");
    const Axis columns(request.columns, "columns");
    Plan plan{};
    PlanShape& shape = plan.shape;
    shape.dtype = request.dtype;
    shape.vectors = request.vectors;
    shape.planes = request.planes;
    shape.channels = request.channels;
    shape.in_height = request.rows.in_size;
    shape.out_height = request.rows.out_size;
    shape.in_width = request.columns.in_size;
    shape.out_width = request.columns.out_size;
    shape.out_row_elements = shape.out_width * shape.channels;

    int64_t used = 0;
    const int64_t open = rows.sweep(0, request.rows.out_size, [&](int64_t) { ++used; });
    const int64_t span = rows.widest();
    const auto slots = [](int64_t n) { return static_cast<int>(std::max<int64_t>(round_up(n, 2), 2)); };
    // Gather has one row in flight, which suffices where the stores dominate; fold has several.
    const bool fold = span > 8 || (open <= 8 && used >= shape.out_height);
    shape.form = fold ? Form::kFold : Form::kGather;
    const int64_t open_limit = fold && open > 8 ? 8 : 0;  // a strip of 8 outputs has no more than 8 open
    shape.slots = open_limit ? 8 : slots(fold ? open : span);
    if (shape.dtype == DType::kFloat64) shape.slots = 8;  // one instance is enough: float64 is for checks
    const int64_t step_bytes = step_size(shape.dtype, shape.slots);

    ColumnPlanner planner{columns, shape.form, request.dtype, request.channels, request.vectors};
    // Of a cut of the columns: warps for a row of a plane, and more of them where too few are resident.
    const auto cost = [&](const Columns& c) {
        const int64_t planes = choose_group_planes(planner, c, step_bytes, request);
        const int64_t warps = divide_up(planes * planner.slot_elements(c), 32 * planner.vector());
        const int64_t shared = planner.shared_bytes(c, step_bytes, planes, 0);
        const auto together = static_cast<double>(warps * resident(shape, warps, shared, request.shared_memory));
        return static_cast<double>(c.tiles * (warps + 1)) / static_cast<double>(planes) *
               std::max(1.0, kEnoughWarps / together);
    };
    Columns c = planner.choose(step_bytes, cost);
    if (c.tiles == 0) {
        // No cut at vectors fits a block (flat rows of many channels, not a multiple of the vector): read elements.
        planner.vectors = false;
        shape.vectors = 0;
        c = planner.choose(step_bytes, cost);
    }
    const int64_t group_planes = choose_group_planes(planner, c, step_bytes, request);
    const int64_t elements = c.pieces > 1 ? c.piece_columns * c.group_channels : planner.slot_elements(c);
    shape.threads = static_cast<int32_t>(
        std::min<int64_t>(divide_up(group_planes * elements, 32 * planner.vector()) * 32, kThreads));
    shape.pieces = static_cast<int32_t>(c.pieces);
    shape.tiles = static_cast<int32_t>(c.tiles);
    shape.group_planes = static_cast<int32_t>(group_planes);
    shape.group_channels = static_cast<int32_t>(c.group_channels);
    shape.channel_groups = static_cast<int32_t>(request.channels / c.group_channels);
    shape.plane_elements = static_cast<int32_t>(round_up(elements, planner.vector()));
    shape.taps = static_cast<int32_t>(c.taps);
    shape.entry_columns = static_cast<int32_t>(c.entry_columns);
    shape.tile_columns = static_cast<int32_t>(c.tile_columns);
    shape.tile_entries = static_cast<int32_t>(group_planes * c.entry_columns * c.group_channels);
    shape.whole_store = !fold && request.channels == 1 && shape.out_width % outputs_per_entry(shape.form) == 0;
    shape.plane_groups = divide_up(request.planes, group_planes);
    const int64_t blocks_per_strip = shape.tiles * shape.channel_groups * shape.plane_groups;
    int64_t most_rows = open_limit > 0 ? open_limit : 256;
    if (c.pieces > 1) {
        // The sums of all rows of a strip wait in shared memory for the next piece.
        most_rows = std::min<int64_t>(most_rows, 32);
        while (planner.shared_bytes(c, step_bytes, 1, most_rows) > kSharedLimit) most_rows -= kBatchRows;
    }
    const int64_t most_shared = planner.shared_bytes(c, step_bytes, group_planes, most_rows);
    plan.resident = resident(shape, shape.threads / 32, most_shared, request.shared_memory);
    shape.strip_rows = static_cast<int32_t>(
        choose_strip_rows(request, rows, most_rows, blocks_per_strip, shape.threads / 32, plan.resident));
    shape.strips = static_cast<int32_t>(divide_up(shape.out_height, shape.strip_rows));
    shape.blocks = blocks_per_strip * shape.strips;
    if (c.tile_columns * request.channels > std::numeric_limits<int32_t>::max())
        throw std::length_error("resample plan: a tile of " + std::to_string(c.tile_columns) + " columns of " +
                                std::to_string(request.channels) + " channels exceeds 2^31 - 1 elements");
    shape.shared_bytes = planner.shared_bytes(c, step_bytes, group_planes, shape.strip_rows);
    if (shape.shared_bytes > kSharedLimit)
        throw std::length_error("resample plan: needs " + std::to_string(shape.shared_bytes) +
                                " bytes of shared memory");
    Writer writer{plan.tables};
    write_rows(rows, shape, writer);
    write_columns(planner, c, shape, writer);
    shape.table_bytes = static_cast<int64_t>(plan.tables.size());
    return plan;
}

}  // namespace learned_resizer
