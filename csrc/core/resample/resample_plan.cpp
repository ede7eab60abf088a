#include "resample/resample_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace learned_resizer {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();

int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }
int64_t round_up(int64_t n, int64_t d) { return divide_up(n, d) * d; }
// Sizes are products of doubles: an exact integer may come out a little larger.
int64_t ceiling(double x) { return static_cast<int64_t>(std::ceil(x - 1e-9)); }

[[noreturn]] void invalid(const std::string& text) { throw std::invalid_argument("resample plan: " + text); }

int64_t element_bytes(DType dtype) {
    return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : dtype == DType::kUInt8 ? 1 : 2;
}
int64_t accumulator_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }

// How the columns are cut into tiles, and the contents of a block's row buffer.
struct Columns {
    int64_t group_channels = 0, tile_columns = 0, tiles = 0, pieces = 1, slot_columns = 0, taps = 0, entry_columns = 0;
    int64_t align = 1, piece_columns = 0, group_planes = 1;
    double cost = kInfinity;
};

// Of images of one size, given what the whole launch has in common.
struct TensorPlanner {
    const ResampleShape& shape;
    Reach rows, columns;
    int64_t planes, channels;  // of the kernel: interleaved channels, or 1
    int multiprocessors, shared_memory;

    int64_t vector() const { return vector_length(shape.dtype, shape.vectors != 0); }
    int64_t capacity() const { return row_capacity(shape.dtype, shape.vectors != 0); }
    int64_t slot_elements(const Columns& c) const { return round_up(c.slot_columns * c.group_channels, vector()); }
    int64_t elements(const Columns& c) const {
        return c.pieces > 1 ? c.piece_columns * c.group_channels : slot_elements(c);
    }
    int64_t threads(const Columns& c) const {
        return std::min<int64_t>(divide_up(c.group_planes * elements(c), 32 * vector()) * 32, kThreads);
    }

    int64_t shared_bytes(const Columns& c, int64_t group_planes, int64_t strip_rows) const {
        const int64_t a = accumulator_bytes(shape.dtype);
        const int64_t entries = group_planes * c.entry_columns * c.group_channels;
        const int64_t partial = c.pieces > 1 ? strip_rows * entries * shape.outputs * a : 0;
        return static_cast<int64_t>(sizeof(ResamplePlace)) + kBatchRows * capacity() * a +
               kChunkSteps * step_bytes(shape.dtype, shape.slots) +
               round_up(c.taps * c.entry_columns * shape.outputs * a, 16) +
               round_up(entries * static_cast<int64_t>(sizeof(Entry)), 16) + partial;
    }

    // Blocks that a multiprocessor holds at a time.
    int64_t resident(int64_t warps, int64_t bytes) const {
        const int64_t by_registers =
            4 * resident_blocks(shape.dtype, shape.slots, shape.vectors != 0, shape.outputs) / warps;
        return std::max<int64_t>(std::min(by_registers, (shared_memory + 1024) / (bytes + 1024)), 1);
    }

    // Tiles of `tile_columns` outputs, or false if a window does not fit a block.
    bool fits(Columns& c) const {
        const bool pairs = shape.outputs == 1 && c.group_channels == 1;  // first taps are even
        c.tiles = divide_up(columns.out, c.tile_columns);
        c.entry_columns = c.tile_columns / shape.outputs;
        c.align = shape.vectors != 0 ? vector() / std::gcd(vector(), c.group_channels) : 1;
        c.pieces = 1;
        c.taps = columns.span(shape.outputs) + (pairs ? 1 : 0);
        if (shape.outputs == 1) c.taps = round_up(c.taps, 2);
        const int64_t window = std::min(columns.span(c.tile_columns) + c.align - 1, columns.in);
        c.slot_columns = round_up(std::max(window, c.taps), std::max<int64_t>(c.align, 2));
        return slot_elements(c) <= capacity() && c.entry_columns * c.group_channels <= 0x7fff &&
               shared_bytes(c, 1, 0) <= kSharedLimit;
    }

    // Planes that share a block: small planes would leave most of its threads, and of its row buffer, idle.
    int64_t choose_group_planes(const Columns& c) const {
        const int64_t slot = slot_elements(c);
        const int64_t plane = rows.out * columns.out * channels;
        const int64_t rest = c.tiles * (channels / c.group_channels) * divide_up(rows.out, 16);
        int64_t best = 1;
        double best_cost = kInfinity;
        for (int64_t g = 1; g <= planes && g * slot <= capacity(); ++g) {
            if (shared_bytes(c, g, 0) > kSharedLimit || plane * g > kInt32Max) break;
            // Idle threads cost less than idle multiprocessors.
            if (g > 1 && divide_up(planes, g) * rest < 4 * multiprocessors) break;
            const auto warps = static_cast<double>(divide_up(g * slot, 32 * vector()));
            // 1: a block's setup and shared memory, as one more warp
            const double cost = (warps + 1.0) / static_cast<double>(g);
            if (cost < best_cost) best = g, best_cost = cost;
        }
        return best;
    }

    // One output's taps exceed a block: tiles of one entry, whose window is cut into pieces that are summed in order.
    Columns in_pieces(int64_t group_channels) const {
        Columns c;
        c.group_channels = group_channels;
        c.tile_columns = shape.outputs;
        c.tiles = divide_up(columns.out, c.tile_columns);
        c.entry_columns = 1;
        c.align = shape.vectors != 0 ? vector() / std::gcd(vector(), group_channels) : 1;
        const int64_t unit = std::lcm<int64_t>(c.align, 2);
        c.piece_columns = capacity() / group_channels / unit * unit;
        if (c.piece_columns == 0) return c;
        c.pieces =
            divide_up(std::min(columns.span(c.tile_columns) + c.align - 1, columns.in + c.align), c.piece_columns);
        c.slot_columns = c.taps = c.piece_columns;
        if (shared_bytes(c, 1, kBatchRows) <= kSharedLimit)
            c.cost = static_cast<double>(c.tiles * c.pieces * (channels / group_channels));
        return c;
    }

    // The cut that takes the least time, of those that fit a block: warps for a row of a plane, and more of them where
    // too few are resident.
    Columns choose() const {
        constexpr double kEnoughWarps = 16.0;  // that hide a multiprocessor's latencies
        Columns best;
        std::vector<int64_t> groups;
        for (int64_t g = 1; g <= std::min(channels, capacity()); ++g)
            if (channels % g == 0 && (shape.vectors == 0 || g == channels || g % vector() == 0)) groups.push_back(g);
        for (const int64_t group : groups) {
            Columns c;
            c.group_channels = group;
            int tried = 0;
            for (int64_t count = 1; tried < 8; count += std::max<int64_t>(1, count / 16)) {
                c.tile_columns = round_up(divide_up(columns.out, count), shape.outputs);
                if (fits(c)) {
                    ++tried;
                    c.group_planes = choose_group_planes(c);
                    const int64_t warps = divide_up(c.group_planes * slot_elements(c), 32 * vector());
                    const auto together =
                        static_cast<double>(warps * resident(warps, shared_bytes(c, c.group_planes, 0)));
                    c.cost = static_cast<double>(c.tiles * (warps + 1)) / static_cast<double>(c.group_planes) *
                             std::max(1.0, kEnoughWarps / together) * static_cast<double>(channels / group);
                    // Narrow channel groups waste the parts of a 32-byte sector that the other groups read.
                    if (group != channels && group * element_bytes(shape.dtype) < 32) c.cost *= 2;
                    if (c.cost < best.cost) best = c;
                }
                if (c.tile_columns == shape.outputs) break;
            }
        }
        if (best.tiles == 0)
            for (const int64_t group : groups) {
                const Columns c = in_pieces(group);
                if (c.cost < best.cost) best = c;
            }
        return best;
    }

    // Most output rows of a strip.
    int64_t most_rows(const Columns& c) const {
        if (c.pieces == 1) return 256;
        // The sums of all rows of a strip wait in shared memory for the next piece.
        int64_t most = 32;
        while (shared_bytes(c, 1, most) > kSharedLimit) most -= kBatchRows;
        return most;
    }
    int64_t blocks_per_strip(const Columns& c) const {
        return c.tiles * (channels / c.group_channels) * divide_up(planes, c.group_planes);
    }
    // Time of a strip of output rows: image rows and output rows, and its setup.
    double strip_work(const Columns& c, int64_t strip_rows) const {
        return static_cast<double>((rows.span(strip_rows) + strip_rows) * c.pieces) + 8.0;
    }
    // Output rows of a strip that takes up to `work`.
    int64_t rows_within(const Columns& c, double work) const {
        const int64_t most = std::min(most_rows(c), round_up(rows.out, kBatchRows));
        const double per_row = (rows.step + 1.0) * static_cast<double>(c.pieces);
        const double rest = work - strip_work(c, 1) + per_row;
        const auto fit = static_cast<int64_t>(std::max(rest / per_row, 1.0)) / kBatchRows * kBatchRows;
        return std::clamp<int64_t>(fit, kBatchRows, most);
    }
};

// Tall strips read fewer rows twice and are set up less often; but the blocks should fill whole waves. Takes the work
// of a block whose busiest multiprocessor is done first: its waves one after another, the last one at the rate of the
// blocks that it has. Blocks of all images take about that work, so that a launch ends everywhere at once.
double choose_work(const std::vector<TensorPlanner>& planners, const std::vector<Columns>& columns, int64_t processors,
                   int64_t resident, int64_t warps) {
    constexpr double kEnoughWarps = 16.0;
    const auto wave = [&](int64_t blocks) {
        return std::max(static_cast<double>(blocks), blocks > 0 ? kEnoughWarps / static_cast<double>(warps) : 0.0);
    };
    size_t tallest = 0;
    for (size_t i = 1; i < planners.size(); ++i)
        if (planners[i].strip_work(columns[i], planners[i].rows.out) >
            planners[tallest].strip_work(columns[tallest], planners[tallest].rows.out))
            tallest = i;
    const int64_t out = planners[tallest].rows.out;
    double best = kInfinity, best_cost = kInfinity;
    for (int64_t count = 1; count <= divide_up(out, kBatchRows); count += 1 + count / 16) {
        const int64_t rows = round_up(divide_up(out, count), kBatchRows);
        const double work = planners[tallest].strip_work(columns[tallest], rows);
        int64_t blocks = 0;
        double longest = 0.0;
        for (size_t i = 0; i < planners.size(); ++i) {
            const int64_t own = planners[i].rows_within(columns[i], work);
            blocks += divide_up(planners[i].rows.out, own) * planners[i].blocks_per_strip(columns[i]);
            longest = std::max(longest, planners[i].strip_work(columns[i], own));
        }
        const int64_t busiest = divide_up(blocks, processors);
        const double waves = static_cast<double>(busiest / resident) * wave(resident) + wave(busiest % resident);
        if (longest * waves < best_cost) best_cost = longest * waves, best = work;
    }
    return best;
}

// Places in the tables, each 16-byte aligned.
struct Places {
    int64_t bytes = 0;
    int64_t add(int64_t count, int64_t size) {
        const int64_t at = bytes;
        bytes += round_up(count * size, 16);
        return at;
    }
};

void check(const ResamplePlanRequest& request) {
    if (request.tensors.empty()) invalid("got no images; expected at least one");
    if (request.multiprocessors < 1) invalid("multiprocessors is " + std::to_string(request.multiprocessors));
    if (request.dtype < DType::kFloat64 || request.dtype > DType::kUInt8)
        invalid("dtype is " + std::to_string(static_cast<int>(request.dtype)) + ", expected 0 ... 4");
    if (request.out_dtype != request.dtype && (request.dtype != DType::kUInt8 || request.out_dtype == DType::kFloat64))
        invalid("out_dtype is " + std::to_string(static_cast<int>(request.out_dtype)) +
                "; expected the images' dtype, or float32, float16 or bfloat16 for uint8");
    for (const ResamplePlanTensor& t : request.tensors) {
        if (t.images < 1) invalid("images is " + std::to_string(t.images) + ", expected at least 1");
        if (t.channels < 1) invalid("channels is " + std::to_string(t.channels) + ", expected at least 1");
        for (const Axis* axis : {&t.rows, &t.columns})
            if (axis->in < 1 || axis->out < 1 || axis->in > kInt32Max / 2 || axis->out > kInt32Max / 2)
                invalid("an axis has " + std::to_string(axis->in) + " pixels and " + std::to_string(axis->out) +
                        " outputs, expected 1 ... " + std::to_string(kInt32Max / 2));
        if (request.transposed &&
            (t.top < 0 || t.left < 0 || t.top + t.rows.in > t.out_height || t.left + t.columns.in > t.out_width))
            invalid("a crop lies outside its image");
    }
}

// Whether outputs lie beyond the image, as an explicit factor may put them: they all read its last pixel.
bool leaves_image(const Axis& a) { return a.extent == 0.0 && a.identity == 0 && a.scale * (a.out - 0.5) > a.in; }

}  // namespace

int64_t Reach::window() const { return std::clamp<int64_t>(ceiling(length) + extra, 1, in); }
int64_t Reach::span(int64_t outputs) const {
    if (outputs == 1) return window();
    return std::clamp<int64_t>(ceiling(static_cast<double>(outputs - 1) * step + length) + 1 + extra, 1, in);
}
int64_t Reach::open() const { return std::max<int64_t>(ceiling(length / step), 1); }

Reach reach_of(const Axis& a, bool transposed) {
    if (a.identity != 0) return {a.in, a.out, 1.0, 1.0, 0};
    const double stretch = a.antialias != 0 ? std::max(a.scale, 1.0) : 1.0;
    const double length = a.filter == Filter::kNearest ? 1.0 : 2.0 * filter_support(a.filter) * stretch;
    // A box ends abruptly: where rounding decides, one more pixel has its weight.
    const int64_t edge = a.filter == Filter::kBox || a.filter == Filter::kNearest ? 1 : 0;
    int64_t beyond = 0;
    if (leaves_image(a)) {
        const double last = (a.in - 0.5 - length / 2.0) / a.scale - 0.5;
        beyond = std::max<int64_t>(a.out - static_cast<int64_t>(std::floor(std::max(last, 0.0))), 0);
    }
    if (!transposed) return {a.in, a.out, a.scale, length, a.filter == Filter::kNearest ? 0 : edge};
    return {a.out, a.in, 1.0 / a.scale, length / a.scale, edge + beyond};
}

Axis make_axis(int32_t in, int32_t out, Filter filter, bool antialias, double offset, double extent, double factor) {
    Axis axis{};
    axis.identity = in == out && extent == 0.0 && (factor == 0.0 || factor == 1.0) ? 1 : 0;
    axis.offset = offset;
    axis.extent = factor != 0.0 ? 0.0 : extent == 0.0 ? in : extent;
    axis.scale = factor != 0.0 ? 1.0 / factor : axis.extent / out;
    axis.in = in, axis.out = out, axis.antialias = antialias ? 1 : 0;
    axis.filter = filter == Filter::kBox && !antialias ? Filter::kNearest : filter;
    axis.taps = band_taps(axis);
    return axis;
}

bool vectors_allowed(DType dtype, const void* image, int64_t width, int64_t channels,
                     const std::array<int64_t, 5>& stride) {
    const int64_t v = vector_length(dtype, true);
    const int64_t size = element_bytes(dtype);
    if (reinterpret_cast<uintptr_t>(image) % std::min<int64_t>(v * size, 16) != 0) return false;
    if (std::abs(stride[3]) > kInt32Max / size) return false;
    if (stride[0] % v != 0 || stride[1] % v != 0 || stride[3] % v != 0) return false;
    if (channels > 1 && stride[2] != 1) return false;
    const bool flat = stride[4] == channels && width * channels % v == 0;
    const bool sliced = channels % v == 0 && stride[4] % v == 0;
    return flat || sliced;
}

ResamplePlan make_resample_plan(const ResamplePlanRequest& request) {
    check(request);
    ResamplePlan plan{};
    ResampleShape& s = plan.shape;
    s.dtype = request.dtype, s.out_dtype = request.out_dtype;
    s.transposed = request.transposed ? 1 : 0;
    s.tensors = static_cast<int32_t>(request.tensors.size());
    s.outputs = kSharedOutputs;
    s.vectors = 1;
    const auto size = [&](const ResamplePlanTensor& t, bool rows) {
        return !request.transposed ? (rows ? t.rows.out : t.columns.out) : rows ? t.out_height : t.out_width;
    };
    std::vector<TensorPlanner> planners;
    std::vector<bool> streams;  // whether a strip's outputs may be open together
    for (const ResamplePlanTensor& t : request.tensors) {
        TensorPlanner planner{s,
                              reach_of(t.rows, request.transposed),
                              reach_of(t.columns, request.transposed),
                              t.interleaved ? t.images : t.images * t.channels,
                              t.interleaved ? t.channels : 1,
                              request.multiprocessors,
                              request.shared_memory};
        const int64_t edge = t.rows.filter == Filter::kBox || t.rows.filter == Filter::kNearest ? 1 : 0;
        const int64_t open = planner.rows.open() + (t.rows.identity != 0 ? 0 : edge);
        streams.push_back(!leaves_image(t.rows) && open <= kMostSlots);
        s.slots = std::max(s.slots, static_cast<int32_t>(streams.back() ? std::max<int64_t>(round_up(open, 2), 2)
                                                                        : int64_t{kMostSlots}));
        if (!t.vectors) s.vectors = 0;
        if (planner.columns.step >= 1.0 || t.mirrored) s.outputs = 1;
        planner.rows.out = size(t, true), planner.columns.out = size(t, false);
        planners.push_back(planner);
    }
    if (s.dtype == DType::kFloat64) s.slots = kMostSlots;  // one instance is enough: float64 is for checks

    std::vector<Columns> columns;
    int64_t warps = 1, most_shared = 0;
    for (size_t i = 0; i < planners.size(); ++i) {
        columns.push_back(planners[i].choose());
        if (columns.back().tiles == 0) {
            // No cut at vectors fits a block (flat rows of many channels, not a multiple of the vector): read elements.
            if (s.vectors == 0) throw std::length_error("resample plan: no cut of the columns fits a block");
            s.vectors = 0, columns.clear();
            i = static_cast<size_t>(-1);
            continue;
        }
        columns.back().group_planes = columns.back().pieces > 1 ? 1 : columns.back().group_planes;
    }
    for (size_t i = 0; i < planners.size(); ++i) {
        warps = std::max(warps, planners[i].threads(columns[i]) / 32);
        most_shared = std::max(most_shared, planners[i].shared_bytes(columns[i], columns[i].group_planes,
                                                                     planners[i].most_rows(columns[i])));
    }
    s.threads = static_cast<int32_t>(32 * warps);
    plan.resident = planners[0].resident(warps, most_shared);
    const double work = choose_work(planners, columns, request.multiprocessors, plan.resident, warps);

    Places places;
    s.tensor_table = places.add(s.tensors, sizeof(ResampleTensor));
    plan.axes_at = places.add(2 * s.tensors, sizeof(BandAxis));
    if (request.transposed) s.transpose_table = places.add(2 * s.tensors, sizeof(TransposedAxis));
    plan.attached_at = places.add(static_cast<int64_t>(request.attached.size()), 1);
    for (size_t i = 0; i < planners.size(); ++i) {
        const ResamplePlanTensor& from = request.tensors[i];
        const TensorPlanner& planner = planners[i];
        const Columns& c = columns[i];
        ResampleTensor& t = plan.tensors.emplace_back();
        for (const bool rows : {true, false}) {
            const Axis& axis = rows ? from.rows : from.columns;
            BandAxis& bands = plan.axes.emplace_back();
            bands.axis = axis;
            bands.begin = places.add(axis.out, 4), bands.end = places.add(axis.out, 4);
            bands.weight = places.add(int64_t{axis.out} * axis.taps, 8);
            ResampleAxis& at = rows ? t.rows : t.columns;
            at = {bands.begin, bands.end, bands.weight, axis.taps, axis.in, size(from, rows), 0, axis.out};
            if (request.transposed) {
                const int64_t taps = (rows ? planner.rows : planner.columns).window() + 1;
                TransposedAxis& to = plan.transposed.emplace_back();
                to = {bands.begin,
                      bands.end,
                      bands.weight,
                      places.add(axis.in, 4),
                      places.add(axis.in, 4),
                      places.add(axis.in * taps, 8),
                      axis.out,
                      axis.taps,
                      axis.in,
                      static_cast<int32_t>(taps)};
                at = {to.to_begin,
                      to.to_end,
                      to.to_weight,
                      to.to_taps,
                      axis.out,
                      size(from, rows),
                      rows ? from.top : from.left,
                      axis.in};
            }
            s.most_bands = std::max({s.most_bands, axis.out, axis.in});
        }
        t.channels = static_cast<int32_t>(planner.channels);
        t.planes = planner.planes;
        t.planes_per_image = from.interleaved ? 1 : from.channels;
        t.group_channels = static_cast<int32_t>(c.group_channels);
        t.channel_groups = static_cast<int32_t>(planner.channels / c.group_channels);
        t.group_planes = static_cast<int32_t>(c.group_planes);
        t.plane_groups = divide_up(t.planes, c.group_planes);
        t.plane_elements = static_cast<int32_t>(round_up(planner.elements(c), planner.vector()));
        t.strip_rows = static_cast<int32_t>(planner.rows_within(c, work));
        t.unit_rows = streams[i] ? t.strip_rows : kMostSlots;
        t.strips = static_cast<int32_t>(divide_up(t.rows.out, t.strip_rows));
        // Each output takes its own image rows, or a step without one; idle steps end a batch.
        const int64_t units = divide_up(t.strip_rows, t.unit_rows);
        t.strip_steps = static_cast<int32_t>(
            round_up(units * planner.rows.span(t.unit_rows) + t.strip_rows + 3 * (t.strip_rows / kBatchRows), 4));
        t.tile_columns = static_cast<int32_t>(c.tile_columns);
        t.tiles = static_cast<int32_t>(c.tiles);
        t.pieces = static_cast<int32_t>(c.pieces);
        t.piece_columns = static_cast<int32_t>(c.piece_columns);
        t.align = static_cast<int32_t>(c.align);
        t.slot_columns = static_cast<int32_t>(c.slot_columns);
        t.taps = static_cast<int32_t>(c.taps);
        t.entry_columns = static_cast<int32_t>(c.entry_columns);
        t.tile_entries = static_cast<int32_t>(c.group_planes * c.entry_columns * c.group_channels);
        t.mirrored = from.mirrored ? 1 : 0;
        t.whole_store = s.outputs > 1 && t.channels == 1 && t.columns.out % s.outputs == 0;
        if (int64_t{t.columns.out} * t.rows.out * c.group_planes * t.channels > kInt32Max && c.group_planes > 1)
            throw std::length_error("resample plan: planes of a block exceed 2^31 - 1 elements");
        if (int64_t{t.columns.out} * t.channels > kInt32Max)
            throw std::length_error("resample plan: a row of " + std::to_string(t.columns.out) + " columns of " +
                                    std::to_string(t.channels) + " channels exceeds 2^31 - 1 elements");
        t.block = s.blocks;
        t.entry = s.entries;
        s.blocks += planner.blocks_per_strip(c) * t.strips;
        const int64_t windows = c.tiles * c.pieces, a = accumulator_bytes(s.dtype);
        const int64_t steps = int64_t{t.strips} * t.strip_steps;
        s.entries += steps + windows * c.entry_columns;
        t.steps = places.add(steps, step_bytes(s.dtype, s.slots));
        t.strip_first = places.add(int64_t{t.strips} * kGroupSteps, 4);
        t.strip_count = places.add(t.strips, 4);
        t.tile_table = places.add(windows, sizeof(Tile));
        t.entry_table = places.add(windows, round_up(t.tile_entries * static_cast<int64_t>(sizeof(Entry)), 16));
        t.weight_table = places.add(windows, round_up(c.taps * c.entry_columns * s.outputs * a, 16));
        const int64_t shared = planner.shared_bytes(c, c.group_planes, t.strip_rows);
        if (shared > kSharedLimit)
            throw std::length_error("resample plan: needs " + std::to_string(shared) + " bytes of shared memory");
        s.shared_bytes = std::max(s.shared_bytes, static_cast<int32_t>(shared));
    }
    plan.bytes = places.bytes;
    plan.stored.resize(plan.attached_at + request.attached.size());
    const auto put = [&](int64_t at, const auto& values) {
        std::memcpy(plan.stored.data() + at, values.data(), values.size() * sizeof(values[0]));
    };
    put(s.tensor_table, plan.tensors);
    put(plan.axes_at, plan.axes);
    if (request.transposed) put(s.transpose_table, plan.transposed);
    std::copy(request.attached.begin(), request.attached.end(), plan.stored.begin() + plan.attached_at);
    return plan;
}

}  // namespace learned_resizer
