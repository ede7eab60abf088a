#include "resample_plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace learned_resizer {
namespace {

int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }
int64_t round_up(int64_t n, int64_t d) { return divide_up(n, d) * d; }

[[noreturn]] void invalid(const std::string& text) { throw std::invalid_argument("resample plan: " + text); }

int accumulator_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

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

// The vertical program of one strip, before its weights are stored in slots.
struct Work {
    int64_t row = -1;     // image row, -1: none
    int64_t output = -1;  // output row that is complete afterwards, -1: none
    int flush = 0;
};

// Groups the steps so that a batch is complete at the end of a group, with idle steps where needed.
std::vector<Work> grouped(const std::vector<Work>& steps, int64_t outputs) {
    std::vector<Work> result;
    int64_t emitted = 0;
    for (const Work& step : steps) {
        result.push_back(step);
        if (step.output < 0) continue;
        ++emitted;
        if (emitted % kBatchRows != 0 && emitted != outputs) continue;
        result.resize(round_up(static_cast<int64_t>(result.size()), kGroupSteps));
        result.back().flush = static_cast<int>((emitted - 1) % kBatchRows + 1);
    }
    return result;
}

std::vector<Work> fold_strip(const Axis& axis, int64_t first, int64_t last) {
    std::vector<Work> steps;
    int64_t next = first;
    axis.sweep(first, last, [&](int64_t row) {
        for (; next < last && axis.end[next] <= row; ++next) steps.push_back({-1, next});  // empty rows
        steps.push_back({row});
        if (next < last && axis.end[next] <= row + 1) steps.back().output = next++;
        for (; next < last && axis.end[next] <= row + 1; ++next) steps.push_back({-1, next});
    });
    for (; next < last; ++next) steps.push_back({-1, next});
    return grouped(steps, last - first);
}

std::vector<Work> gather_strip(const Axis& axis, int64_t first, int64_t last) {
    std::vector<Work> steps;
    int64_t row = 0;
    for (int64_t o = first; o < last; ++o) {
        steps.push_back({});
        for (row = std::max(row, axis.begin[o]); row < axis.end[o]; ++row) {
            if (steps.back().row >= 0) steps.push_back({});
            steps.back().row = row;
        }
        steps.back().output = o;
    }
    return grouped(steps, last - first);
}

template <class A, int K>
void encode_strip(const std::vector<Work>& work, const Axis& axis, Form form, int64_t first, int64_t last,
                  std::vector<Step<A, K>>& steps, int32_t* strip_first) {
    const size_t base = steps.size();
    steps.resize(base + work.size());
    std::fill(strip_first, strip_first + kGroupSteps, -1);
    int64_t previous = -1;  // gather: the last step that consumed a row
    int64_t next = first;   // fold: the first output that is still open
    for (size_t j = 0; j < work.size(); ++j) {
        Step<A, K>& step = steps[base + j];
        step.next_row = -1;
        step.flags = work[j].flush << kStepFlushShift;
        const int64_t row = work[j].row;
        const int64_t output = work[j].output;
        if (output >= 0) {
            step.flags |= kStepEmit | static_cast<int32_t>((output - first) % kBatchRows) << kStepBatchShift;
        }
        if (row >= 0) step.flags |= kStepRow;
        if (form == Form::kFold) {
            if (row >= 0) {
                int32_t& ask = j < kGroupSteps ? strip_first[j] : steps[base + j - kGroupSteps].next_row;
                ask = static_cast<int32_t>(row);
                for (int64_t o = next; o < last && axis.begin[o] <= row; ++o)
                    if (axis.end[o] > row) step.weight[(o - first) % K] = static_cast<A>(axis.weight(o, row));
            }
            if (output >= 0) {
                step.flags |= static_cast<int32_t>((output - first) % K) << kStepSlotShift;
                next = output + 1;
            }
        } else {
            if (row >= 0) {
                int32_t& ask = previous < 0 ? strip_first[0] : steps[base + previous].next_row;
                ask = static_cast<int32_t>(row);
                previous = static_cast<int64_t>(j);
                step.flags |= static_cast<int32_t>(row % K) << kStepSlotShift;
            }
            if (output >= 0) {
                for (int64_t i = axis.begin[output]; i < axis.end[output]; ++i)
                    step.weight[i % K] = static_cast<A>(axis.weight(output, i));
            }
        }
    }
}

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

template <class A, int K>
void write_rows(const Axis& axis, PlanShape& shape, Writer& writer) {
    std::vector<int32_t> strip_begin(shape.strips + 1), strip_first(shape.strips * kGroupSteps);
    std::vector<Step<A, K>> steps;
    for (int64_t strip = 0; strip < shape.strips; ++strip) {
        const int64_t first = strip * shape.strip_rows;
        const int64_t last = std::min<int64_t>(first + shape.strip_rows, shape.out_height);
        const auto work = shape.form == Form::kFold ? fold_strip(axis, first, last) : gather_strip(axis, first, last);
        if (steps.size() + work.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
            throw std::length_error("resample plan: more than 2^31 - 1 vertical steps");
        encode_strip<A, K>(work, axis, shape.form, first, last, steps, &strip_first[strip * kGroupSteps]);
        strip_begin[strip + 1] = static_cast<int32_t>(steps.size());
    }
    shape.strip_begin = writer.put(strip_begin);
    shape.strip_first = writer.put(strip_first);
    shape.steps = writer.put(steps);
}

// How the columns are cut into tiles, and what a block's row buffer then holds.
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
        const int64_t pairs = (form == Form::kFold ? c.taps / 2 : c.taps) * c.entry_columns;
        const int64_t entries = planes * c.entry_columns * c.group_channels;
        const int64_t partial = c.pieces > 1 ? strip_rows * entries * 2 * a : 0;
        const int64_t bytes = kBatchRows * capacity() * a + kChunkSteps * step_bytes + round_up(pairs * 2 * a, 16) +
                              round_up(entries * static_cast<int64_t>(sizeof(Entry)), 16) + partial;
        return static_cast<int>(std::min<int64_t>(bytes, std::numeric_limits<int>::max()));
    }

    // Tiles of `tile_columns` outputs, or false if a window does not fit a block.
    bool fits(Columns& c, int64_t step_bytes) const {
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
    int64_t slot_elements(const Columns& c) const { return round_up(c.slot_columns * c.group_channels, vector()); }

    // One output's taps exceed a block: tiles of one entry, whose window is cut into pieces that are summed in order.
    Columns in_pieces(int64_t group_channels) const {
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
        c.cost = static_cast<double>(c.tiles * c.pieces * (channels / group_channels));
        return c;
    }

    Columns choose(int64_t step_bytes) const {
        Columns best;
        std::vector<int64_t> groups;
        for (int64_t g = 1; g <= std::min(channels, capacity()); ++g)
            if (channels % g == 0 && (!vectors || g == channels || g % vector() == 0)) groups.push_back(g);
        for (const int64_t group : groups) {
            Columns c;
            c.group_channels = group;
            const int64_t per_entry = outputs_per_entry(form);
            int tried = 0;
            for (int64_t count = 1; tried < 4; count += std::max<int64_t>(1, count / 16)) {
                c.tile_columns = round_up(divide_up(axis.table.out_size, count), per_entry);
                if (fits(c, step_bytes)) {
                    ++tried;
                    const int64_t warps = divide_up(slot_elements(c), 32 * vector());
                    c.cost = static_cast<double>(c.tiles * warps) * static_cast<double>(channels / group);
                    // Narrow channel groups waste the parts of a 32-byte sector that the other groups read.
                    if (group != channels && group * accumulator_bytes(dtype) < 32) c.cost *= 2;
                    if (c.cost < best.cost) best = c;
                }
                if (c.tile_columns == per_entry) break;
            }
        }
        if (best.tiles == 0) {
            for (const int64_t group : groups) {
                const Columns c = in_pieces(group);
                if (c.cost < best.cost) best = c;
            }
        }
        return best;
    }
};

template <class A>
void write_columns(const ColumnPlanner& planner, const Columns& c, PlanShape& shape, Writer& writer) {
    const Axis& axis = planner.axis;
    const int64_t per_entry = outputs_per_entry(shape.form);
    const int64_t windows = c.tiles * c.pieces;
    const int64_t pairs = shape.form == Form::kFold ? c.taps / 2 : c.taps;
    const int64_t entry_stride = round_up(static_cast<int64_t>(sizeof(Entry)) * shape.tile_entries, 16) / sizeof(Entry);
    const int64_t weight_stride = round_up(pairs * c.entry_columns * 2 * static_cast<int64_t>(sizeof(A)), 16) / sizeof(A);
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
                    const int64_t pair = per_entry == 2 ? u * c.entry_columns + x : u / 2 * c.entry_columns + x;
                    const int64_t column = begin + tap + u;
                    if (output + o < last && column < end)
                        weights[window * weight_stride + 2 * pair + (per_entry == 2 ? o : u % 2)] =
                            static_cast<A>(axis.weight(output + o, column));
                }
            }
            for (int64_t g = 0; g < shape.group_planes; ++g) {
                for (int64_t channel = 0; channel < c.group_channels; ++channel) {
                    Entry& entry = entries[window * entry_stride + (g * columns + x) * c.group_channels + channel];
                    entry.source = static_cast<uint32_t>(g * shape.plane_elements + tap * c.group_channels + channel) |
                                   static_cast<uint32_t>(x) << 16;
                    if (per_entry == 2 && output + 1 >= last) entry.source |= uint32_t{1} << 31;
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

// Planes that share a block: small planes would leave most of its threads idle.
int64_t choose_group_planes(const ColumnPlanner& planner, const Columns& c, int64_t step_bytes, const PlanRequest& request) {
    if (c.pieces > 1) return 1;
    const int64_t slot = planner.slot_elements(c);
    const int64_t plane = request.rows.out_size * request.columns.out_size * request.channels;
    int64_t best = 1;
    double best_cost = std::numeric_limits<double>::infinity();
    for (int64_t g = 1; g <= request.planes && g * slot <= planner.capacity(); g *= 2) {
        if (planner.shared_bytes(c, step_bytes, g, 0) > kSharedLimit) break;
        if (plane * g > std::numeric_limits<int32_t>::max()) break;
        if (g > 1 && divide_up(request.planes, g) * c.tiles < 2 * request.multiprocessors) break;
        const double warps = static_cast<double>(divide_up(g * slot, 32 * planner.vector()));
        const double cost = (warps + 0.5) / static_cast<double>(g);  // 0.5: setting a block up
        if (cost < best_cost) {
            best = g;
            best_cost = cost;
        }
    }
    return best;
}

// Tall strips read fewer rows twice, short ones give more blocks: the tallest that fills the device.
int64_t choose_strip_rows(const PlanRequest& request, int64_t open_limit, bool in_pieces, int64_t blocks_per_strip,
                          int64_t threads) {
    if (open_limit > 0) return open_limit;
    const int64_t wanted = std::max(request.multiprocessors, 1) * (1024 / std::max<int64_t>(threads, 32));
    int64_t rows = in_pieces ? 32 : 256;
    while (rows > 8 && divide_up(request.rows.out_size, rows) * blocks_per_strip < wanted) rows /= 2;
    const int64_t strips = divide_up(request.rows.out_size, rows);
    return round_up(divide_up(request.rows.out_size, strips), kBatchRows);
}

template <class A>
void write_tables(const Axis& rows, const ColumnPlanner& planner, const Columns& c, Plan& plan) {
    Writer writer{plan.tables};
    switch (plan.shape.slots) {
        case 2: write_rows<A, 2>(rows, plan.shape, writer); break;
        case 4: write_rows<A, 4>(rows, plan.shape, writer); break;
        case 6: write_rows<A, 6>(rows, plan.shape, writer); break;
        default: write_rows<A, 8>(rows, plan.shape, writer); break;
    }
    write_columns<A>(planner, c, plan.shape, writer);
    plan.shape.table_bytes = static_cast<int64_t>(plan.tables.size());
}

int64_t step_size(DType dtype, int slots) {
    return dtype == DType::kFloat64 ? 8 + 8 * slots + (8 + 8 * slots) % 16 : round_up(8 + 4 * slots, 16);
}

}  // namespace

bool vectors_allowed(DType dtype, const void* image, int64_t width, int64_t channels, int64_t stride_image,
                     int64_t stride_plane, int64_t stride_channel, int64_t stride_row, int64_t stride_column) {
    const int64_t v = vector_length(dtype, true);
    const int64_t size = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : dtype == DType::kUInt8 ? 1 : 2;
    if (reinterpret_cast<uintptr_t>(image) % std::min<int64_t>(v * size, 16) != 0) return false;
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

    int64_t used = 0;
    const int64_t open = rows.sweep(0, request.rows.out_size, [&](int64_t) { ++used; });
    const int64_t span = rows.widest();
    const auto slots = [](int64_t n) { return static_cast<int>(std::max<int64_t>(round_up(n, 2), 2)); };
    // Gather has one row in flight, which suffices where the stores dominate; fold has several.
    const bool fold = span > 8 || (open <= 8 && used >= shape.out_height);
    shape.form = fold ? Form::kFold : Form::kGather;
    const int64_t open_limit = fold && open > 8 ? 8 : 0;  // a strip of 8 outputs has no more than 8 open
    shape.slots = open_limit ? 8 : slots(fold ? open : span);
    if (shape.dtype == DType::kFloat64) shape.slots = 8;  // one instance is enough where speed is not the point
    const int64_t step_bytes = step_size(shape.dtype, shape.slots);

    const ColumnPlanner planner{columns, shape.form, request.dtype, request.channels, request.vectors};
    const Columns c = planner.choose(step_bytes);
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
    shape.pair_store = request.channels == 1 && shape.out_width % 2 == 0;
    shape.plane_groups = divide_up(request.planes, group_planes);
    const int64_t blocks_per_strip = shape.tiles * shape.channel_groups * shape.plane_groups;
    shape.strip_rows = static_cast<int32_t>(
        choose_strip_rows(request, open_limit, c.pieces > 1, blocks_per_strip, shape.threads));
    shape.strips = static_cast<int32_t>(divide_up(shape.out_height, shape.strip_rows));
    shape.blocks = blocks_per_strip * shape.strips;
    if (c.tile_columns * request.channels > std::numeric_limits<int32_t>::max())
        throw std::length_error("resample plan: a tile of " + std::to_string(c.tile_columns) + " columns of " +
                                std::to_string(request.channels) + " channels exceeds 2^31 - 1 elements");
    shape.shared_bytes = planner.shared_bytes(c, step_bytes, group_planes, shape.strip_rows);
    if (shape.shared_bytes > kSharedLimit)
        throw std::length_error("resample plan: needs " + std::to_string(shape.shared_bytes) + " bytes of shared memory");
    if (shape.dtype == DType::kFloat64)
        write_tables<double>(rows, planner, c, plan);
    else
        write_tables<float>(rows, planner, c, plan);
    return plan;
}

}  // namespace learned_resizer
