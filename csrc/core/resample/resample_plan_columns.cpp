// The horizontal half of a plan: column tiles, where each output's taps start, and its weights.
#include "resample/resample_plan_parts.h"

namespace learned_resizer::planning {
namespace {

template <class A>
void write_columns_as(const ColumnPlanner& planner, const Columns& c, PlanShape& shape, Writer& writer) {
    const Axis& axis = planner.axis;
    const int64_t per_entry = outputs_per_entry(shape.form);
    const int64_t windows = c.tiles * c.pieces;
    const int64_t entry_stride = round_up(static_cast<int64_t>(sizeof(Entry)) * shape.tile_entries, 16) / sizeof(Entry);
    const int64_t weight_stride =
        round_up(c.taps * c.entry_columns * per_entry * static_cast<int64_t>(sizeof(A)), 16) / sizeof(A);
    std::vector<Tile> tiles(windows);
    std::vector<Entry> entries(windows * entry_stride);
    std::vector<A> weights(windows * weight_stride);
    for (int64_t window = 0; window < windows; ++window) {
        const int64_t tile = window / c.pieces;
        const int64_t first = tile * c.tile_columns;
        const int64_t last = std::min(first + c.tile_columns, axis.table.out_size);
        const int64_t columns = divide_up(last - first, per_entry);
        int64_t begin = planner.window_begin(c, tile);
        int64_t end = planner.window_end(c, tile);
        if (c.pieces > 1) {
            begin += (window % c.pieces) * c.piece_columns;
            end = std::min(end, begin + c.piece_columns);
        }
        tiles[window].column_begin = static_cast<int32_t>(begin);
        tiles[window].column_count = static_cast<int32_t>(std::max<int64_t>(end - begin, 0));
        tiles[window].entries_per_plane = static_cast<int32_t>(columns * c.group_channels);
        for (int64_t x = 0; x < columns; ++x) {
            const int64_t output = first + x * per_entry;
            const int64_t tap = std::min(planner.first_tap(c, begin, output), c.slot_columns - c.taps);
            for (int64_t u = 0; u < c.taps; ++u) {
                for (int64_t o = 0; o < per_entry; ++o) {
                    const int64_t at = shape.form == Form::kGather ? (u * c.entry_columns + x) * per_entry + o
                                                                   : (u / 2 * c.entry_columns + x) * 2 + u % 2;
                    const int64_t column = begin + tap + u;
                    if (output + o < last && column < end)
                        weights[window * weight_stride + at] =
                            static_cast<A>(column_scale(shape.dtype) * axis.weight(output + o, column));
                }
            }
            for (int64_t g = 0; g < shape.group_planes; ++g) {
                for (int64_t channel = 0; channel < c.group_channels; ++channel) {
                    Entry& entry = entries[window * entry_stride + (g * columns + x) * c.group_channels + channel];
                    entry.source = static_cast<uint32_t>(g * shape.plane_elements + tap * c.group_channels + channel) |
                                   static_cast<uint32_t>(std::min(per_entry, last - output)) << 13 |
                                   static_cast<uint32_t>(x) << 16;
                    entry.target = static_cast<int32_t>(
                        (g * shape.out_height * shape.out_width + x * per_entry) * shape.channels + channel);
                }
            }
        }
    }
    shape.tile_table = writer.put(tiles);
    shape.entry_table = writer.put(entries);
    shape.weight_table = writer.put(weights);
}

}  // namespace

bool ColumnPlanner::fits(Columns& c, int64_t step_bytes) const {
    const int64_t per_entry = outputs_per_entry(form);
    const int64_t outputs = axis.table.out_size;
    c.tiles = divide_up(outputs, c.tile_columns);
    c.entry_columns = c.tile_columns / per_entry;
    c.align = vectors ? vector() / std::gcd(vector(), c.group_channels) : 1;
    c.pieces = 1;
    c.slot_columns = 1;
    c.taps = 1;
    for (int64_t tile = 0; tile < c.tiles; ++tile) {
        const int64_t window = window_begin(c, tile);
        c.slot_columns = std::max(c.slot_columns, window_end(c, tile) - window);
        const int64_t last = std::min((tile + 1) * c.tile_columns, outputs);
        for (int64_t o = tile * c.tile_columns; o < last; o += per_entry)
            c.taps = std::max(c.taps, axis.end[std::min(o + per_entry, last) - 1] - window - first_tap(c, window, o));
    }
    if (form == Form::kFold) c.taps = round_up(c.taps, 2);
    c.slot_columns = round_up(std::max(c.slot_columns, c.taps), std::max<int64_t>(c.align, 2));
    return slot_elements(c) <= capacity() && c.entry_columns * c.group_channels <= 0x7fff &&
           shared_bytes(c, step_bytes, 1, 0) <= kSharedLimit;
}

Columns ColumnPlanner::in_pieces(int64_t group_channels, int64_t step_bytes) const {
    Columns c;
    c.group_channels = group_channels;
    c.tile_columns = outputs_per_entry(form);
    c.tiles = divide_up(axis.table.out_size, c.tile_columns);
    c.entry_columns = 1;
    c.align = vectors ? vector() / std::gcd(vector(), group_channels) : 1;
    const int64_t unit = std::lcm<int64_t>(c.align, 2);
    c.piece_columns = capacity() / group_channels / unit * unit;
    if (c.piece_columns == 0) return c;
    int64_t widest = 1;
    for (int64_t tile = 0; tile < c.tiles; ++tile)
        widest = std::max(widest, window_end(c, tile) - window_begin(c, tile));
    c.pieces = divide_up(widest, c.piece_columns);
    c.slot_columns = c.taps = c.piece_columns;
    if (shared_bytes(c, step_bytes, 1, kBatchRows) <= kSharedLimit)
        c.cost = static_cast<double>(c.tiles * c.pieces * (channels / group_channels));
    return c;
}

Columns ColumnPlanner::choose(int64_t step_bytes, const std::function<double(const Columns&)>& cost) const {
    Columns best;
    std::vector<int64_t> groups;
    for (int64_t g = 1; g <= std::min(channels, capacity()); ++g)
        if (channels % g == 0 && (!vectors || g == channels || g % vector() == 0)) groups.push_back(g);
    for (const int64_t group : groups) {
        Columns c;
        c.group_channels = group;
        const int64_t per_entry = outputs_per_entry(form);
        int tried = 0;
        for (int64_t count = 1; tried < 8; count += std::max<int64_t>(1, count / 16)) {
            c.tile_columns = round_up(divide_up(axis.table.out_size, count), per_entry);
            if (fits(c, step_bytes)) {
                ++tried;
                c.cost = cost(c) * static_cast<double>(channels / group);
                // Narrow channel groups waste the parts of a 32-byte sector that the other groups read.
                if (group != channels && group * element_bytes(dtype) < 32) c.cost *= 2;
                if (c.cost < best.cost) best = c;
            }
            if (c.tile_columns == per_entry) break;
        }
    }
    if (best.tiles == 0) {
        for (const int64_t group : groups) {
            const Columns c = in_pieces(group, step_bytes);
            if (c.cost < best.cost) best = c;
        }
    }
    return best;
}

void write_columns(const ColumnPlanner& planner, const Columns& columns, PlanShape& shape, Writer& writer) {
    if (shape.dtype == DType::kFloat64)
        write_columns_as<double>(planner, columns, shape, writer);
    else
        write_columns_as<float>(planner, columns, shape, writer);
}

}  // namespace learned_resizer::planning
