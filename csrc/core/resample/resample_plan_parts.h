// Parts of the planner, for resample_plan*.cpp only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "resample/resample_plan.h"

namespace learned_resizer::planning {

inline int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }
inline int64_t round_up(int64_t n, int64_t d) { return divide_up(n, d) * d; }

[[noreturn]] inline void invalid(const std::string& text) { throw std::invalid_argument("resample plan: " + text); }

inline int64_t element_bytes(DType dtype) {
    return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : dtype == DType::kUInt8 ? 1 : 2;
}
inline int accumulator_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// An axis with its bands as half-open intervals of non-zero weights, both ends made non-decreasing over the outputs.
struct Axis {
    const AxisTable& table;
    std::vector<int64_t> begin, end;

    Axis(const AxisTable& t, const char* name) : table(t) {
        const std::string where = std::string(name) + ".";
        const int64_t limit = std::numeric_limits<int32_t>::max() / 2;
        if (t.in_size < 1 || t.in_size > limit)
            invalid(where + "in_size is " + std::to_string(t.in_size) + ", expected 1 ... " + std::to_string(limit));
        if (t.out_size < 1 || t.out_size > limit)
            invalid(where + "out_size is " + std::to_string(t.out_size) + ", expected 1 ... " + std::to_string(limit));
        if (t.offset[0] != 0) invalid(where + "offset[0] is " + std::to_string(t.offset[0]) + ", expected 0");
        const int64_t n = t.out_size;
        begin.assign(n, t.in_size);
        end.assign(n, 0);
        for (int64_t o = 0; o < n; ++o) {
            const int64_t count = int64_t{t.offset[o + 1]} - t.offset[o];
            if (count < 0) invalid(where + "offset decreases at row " + std::to_string(o));
            if (count > 0 && (t.start[o] < 0 || t.start[o] + count > t.in_size))
                invalid(where + "row " + std::to_string(o) + " reads inputs " + std::to_string(t.start[o]) + " ... " +
                        std::to_string(t.start[o] + count - 1) + " of " + std::to_string(t.in_size));
            for (int64_t i = 0; i < count; ++i) {
                if (t.weight[t.offset[o] + i] == 0.0) continue;
                begin[o] = std::min(begin[o], t.start[o] + i);
                end[o] = t.start[o] + i + 1;
            }
        }
        for (int64_t o = n - 2; o >= 0; --o) begin[o] = std::min(begin[o], begin[o + 1]);
        for (int64_t o = 1; o < n; ++o) end[o] = std::max(end[o], end[o - 1]);
    }

    double weight(int64_t o, int64_t i) const {
        if (o >= table.out_size) return 0.0;
        const int64_t at = i - table.start[o];
        return at < 0 || at >= table.offset[o + 1] - table.offset[o] ? 0.0 : table.weight[table.offset[o] + at];
    }

    // Most inputs of one output.
    int64_t widest() const {
        int64_t most = 1;
        for (size_t o = 0; o < begin.size(); ++o) most = std::max(most, end[o] - begin[o]);
        return most;
    }

    // Most outputs that are open at one input. Calls visit(i) for every input that some output reads, in order.
    template <class Visit>
    int64_t sweep(int64_t first, int64_t last, const Visit& visit) const {
        int64_t most = 1;
        int64_t low = first, high = first, i = begin[first];
        for (;;) {
            while (low < last && end[low] <= i) ++low;
            if (low == last) return most;
            i = std::max(i, begin[low]);
            while (high < last && begin[high] <= i) ++high;
            most = std::max(most, high - low);
            visit(i);
            ++i;
        }
    }
};

// Appends arrays to the tables, each aligned to 16 bytes, and returns where.
struct Writer {
    std::vector<unsigned char>& bytes;
    template <class Item>
    int64_t put(const std::vector<Item>& items) {
        const size_t at = bytes.size();
        bytes.resize(at + round_up(static_cast<int64_t>(items.size() * sizeof(Item)), 16));
        if (!items.empty()) std::memcpy(bytes.data() + at, items.data(), items.size() * sizeof(Item));
        return static_cast<int64_t>(at);
    }
};

// Vertical programs of all strips (resample_plan_rows.cpp). Fills strip_begin, strip_first and steps of the shape.
void write_rows(const Axis& axis, PlanShape& shape, Writer& writer);

// How the columns are cut into tiles, and the contents of a block's row buffer.
struct Columns {
    int64_t group_channels = 0, tile_columns = 0, tiles = 0, pieces = 1, slot_columns = 0, taps = 0, entry_columns = 0;
    int64_t align = 1, piece_columns = 0;
    double cost = std::numeric_limits<double>::infinity();
};

struct ColumnPlanner {
    const Axis& axis;
    Form form;
    DType dtype;
    int64_t channels;
    bool vectors;

    int64_t vector() const { return vector_length(dtype, vectors); }
    int64_t capacity() const { return row_capacity(dtype, vectors); }
    int64_t window_begin(const Columns& c, int64_t tile) const {
        return axis.begin[std::min(tile * c.tile_columns, axis.table.out_size - 1)] / c.align * c.align;
    }
    int64_t window_end(const Columns& c, int64_t tile) const {
        return axis.end[std::min((tile + 1) * c.tile_columns, axis.table.out_size) - 1];
    }
    // First tap of the outputs of one entry, relative to the window of the tile.
    int64_t first_tap(const Columns& c, int64_t window, int64_t output) const {
        const int64_t first = std::max<int64_t>(axis.begin[output] - window, 0);
        return form == Form::kFold && c.group_channels == 1 ? first / 2 * 2 : first;
    }
    int shared_bytes(const Columns& c, int64_t step_bytes, int64_t planes, int64_t strip_rows) const {
        const int64_t a = accumulator_bytes(dtype);
        const int64_t outputs = outputs_per_entry(form);
        const int64_t weights = c.taps * c.entry_columns * outputs;
        const int64_t entries = planes * c.entry_columns * c.group_channels;
        const int64_t partial = c.pieces > 1 ? strip_rows * entries * outputs * a : 0;
        const int64_t bytes = kBatchRows * capacity() * a + kChunkSteps * step_bytes + round_up(weights * a, 16) +
                              round_up(entries * static_cast<int64_t>(sizeof(Entry)), 16) + partial;
        return static_cast<int>(std::min<int64_t>(bytes, std::numeric_limits<int>::max()));
    }

    // Tiles of `tile_columns` outputs, or false if a window does not fit a block.
    bool fits(Columns& c, int64_t step_bytes) const;
    int64_t slot_elements(const Columns& c) const { return round_up(c.slot_columns * c.group_channels, vector()); }

    // One output's taps exceed a block: tiles of one entry, whose window is cut into pieces that are summed in order.
    Columns in_pieces(int64_t group_channels, int64_t step_bytes) const;

    // The cut with the least `cost`, of those that fit a block.
    Columns choose(int64_t step_bytes, const std::function<double(const Columns&)>& cost) const;
};

// Tiles, entries and horizontal weights (resample_plan_columns.cpp). Fills tile_table, entry_table and weight_table.
void write_columns(const ColumnPlanner& planner, const Columns& columns, PlanShape& shape, Writer& writer);

}  // namespace learned_resizer::planning
