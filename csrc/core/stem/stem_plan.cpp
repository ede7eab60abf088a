#include "stem/stem_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "resample/resample_plan_parts.h"

namespace learned_resizer {
namespace {

using planning::Axis;
using planning::divide_up;

constexpr int64_t kPieceStripRows = 8;  // output rows of a strip whose sums wait in shared memory between pieces

// A strip of rows or a tile of columns: outputs first ... last-1.
struct Cut {
    int64_t first, last;  // outputs
    int64_t begin, end;   // inputs to compute
    int64_t own_end;      // inputs begin ... own_end-1 are counted here
};

// Cuts an axis into runs of `length` outputs. Their own inputs partition the axis, so that the statistics see each
// pixel once, those between the bands of two outputs included.
std::vector<Cut> cut_axis(const Axis& axis, int64_t length) {
    std::vector<Cut> cuts;
    const int64_t outputs = axis.table.out_size;
    for (int64_t first = 0; first < outputs; first += length) {
        const int64_t last = std::min(first + length, outputs);
        Cut cut{first, last, first == 0 ? 0 : axis.begin[first], axis.end[last - 1], 0};
        cut.own_end = last == outputs ? axis.table.in_size : axis.begin[last];
        cut.end = std::max(cut.end, cut.own_end);
        cuts.push_back(cut);
    }
    return cuts;
}

// The fewest warps whose columns hold every tile, or 0 if a tile exceeds a block.
int64_t warps_of(const std::vector<Cut>& tiles, int64_t most) {
    int64_t widest = 1;
    for (const Cut& tile : tiles) widest = std::max(widest, tile.end - tile.begin);
    const int64_t warps = std::max<int64_t>(divide_up(widest, kStemWarpColumns), kStemMinWarps);
    return warps <= most ? warps : 0;
}

// The horizontal filter of 16 neighbouring outputs is a product: 16 columns of the image are a step of it.
struct Group {
    int64_t first, last;  // columns that it reads, first ... last - 1
    int64_t parts;        // of its weights
};

// Whether 8 bits hold every weight of outputs first ... last-1, as bfloat16 does.
bool is_short(const Axis& axis, int64_t first, int64_t last) {
    const auto& t = axis.table;
    return std::all_of(t.weight + t.offset[first], t.weight + t.offset[last], [](double weight) {
        int exponent;
        const double scaled = std::ldexp(std::frexp(weight, &exponent), 8);
        return scaled == std::nearbyint(scaled);
    });
}

using Groups = std::vector<std::vector<Group>>;  // of each tile

Groups groups_of(const Axis& axis, const std::vector<Cut>& tiles, int64_t parts) {
    Groups groups(tiles.size());
    for (size_t t = 0; t < tiles.size(); ++t)
        for (int64_t o = tiles[t].first; o < tiles[t].last; o += 16) {
            const int64_t last = std::min(o + 16, tiles[t].last);
            groups[t].push_back({axis.begin[o], axis.end[last - 1], is_short(axis, o, last) ? 1 : parts});
        }
    return groups;
}

// Most that a group of a tile reads, up to `most` columns, in units of 16 columns.
int64_t steps_of(const Groups& tiles, int64_t most) {
    int64_t steps = 1;
    for (const auto& groups : tiles)
        for (const Group& group : groups)
            steps = std::max(steps, divide_up(std::min(group.last - group.first, most), 16));
    return steps;
}

// Most of a tile.
int64_t fragments_of(const Groups& tiles, int64_t steps) {
    int64_t most = 0;
    for (const auto& groups : tiles) {
        int64_t parts = 0;
        for (const Group& group : groups) parts += group.parts;
        most = std::max(most, parts * steps);
    }
    return most;
}

// The tiling that takes the least time, the widest blocks first: the columns computed, two more a tile for what a block
// costs, over the share of the issue slots that the resident warps fill. 12 warps are estimated to fill 60 %, so that
// is w / (w + 8).
std::vector<Cut> choose_tiles(const Axis& axis, const StemInstance& kernel, int64_t most, int64_t& warps) {
    std::vector<Cut> best;
    double least = std::numeric_limits<double>::infinity();
    const int64_t outputs = axis.table.out_size;
    int64_t before = 0;
    for (int64_t count = 1; count <= outputs; ++count) {
        const int64_t length = divide_up(outputs, count);
        if (length == before) continue;
        before = length;
        std::vector<Cut> tiles = cut_axis(axis, length);
        const int64_t w = warps_of(tiles, kernel.block_warps);
        if (w == 0) continue;
        const auto groups = groups_of(axis, tiles, kernel.parts);
        if (fragments_of(groups, steps_of(groups, w * kStemWarpColumns)) > kernel.fragments) continue;
        const auto resident = static_cast<double>(most / w * w);
        const double columns = static_cast<double>((w * kStemWarpColumns + 2) * tiles.size());
        const double cost = columns * (resident + 8.0) / resident;
        if (cost < least) least = cost, warps = w, best = std::move(tiles);
        // Smaller tiles only repeat more columns.
        if (w == kStemMinWarps) break;
    }
    return best;
}

// The strips with the fewest rows for the busiest multiprocessor, counting rows that two strips share twice.
int64_t choose_strip(const Axis& axis, int64_t columns, int64_t slots) {
    const int64_t outputs = axis.table.out_size, rows = axis.table.in_size;
    const int64_t shared = axis.widest() + 8;  // rows computed again, and the image rows of the first ones
    int64_t best = outputs, least = std::numeric_limits<int64_t>::max();
    for (int64_t strips = 1; strips <= std::min<int64_t>(outputs, 64); ++strips) {
        const int64_t turns = divide_up(strips * columns, slots);
        const int64_t cost = turns * (divide_up(rows, strips) + shared);
        if (cost < least) least = cost, best = divide_up(outputs, strips);
    }
    return best;
}

template <int K>
struct RowWork {
    std::vector<StemStrip> strips;
    std::vector<StemRow<K>> rows;
};

template <int K>
RowWork<K> plan_rows(const Axis& axis, const std::vector<Cut>& cuts) {
    RowWork<K> work;
    for (const Cut& cut : cuts) {
        work.strips.push_back({static_cast<int32_t>(cut.first),
                               static_cast<int32_t>(cut.last),
                               static_cast<int32_t>(cut.begin),
                               static_cast<int32_t>(cut.end),
                               static_cast<int32_t>(cut.own_end),
                               static_cast<int32_t>(work.rows.size()),
                               {}});
        int64_t open = cut.first;  // oldest output that is not complete
        for (int64_t y = cut.begin; y < cut.end; ++y) {
            StemRow<K> row{};
            row.first = static_cast<int32_t>(open);
            for (int64_t o = open; o < std::min(open + K, cut.last); ++o)
                row.weight[o % K] = static_cast<float>(axis.weight(o, y));
            for (; open < cut.last && axis.end[open] <= y + 1; ++open) ++row.emits;
            work.rows.push_back(row);
        }
        work.rows.resize(work.rows.size() + 2);  // a step of three rows may end two beyond the strip
    }
    return work;
}

// Weights of the last rows of an output's band, for the rows that the kernel keeps.
std::vector<float> plan_gather(const Axis& axis, int64_t slots) {
    std::vector<float> weight(axis.table.out_size * slots);
    for (int64_t o = 0; o < axis.table.out_size; ++o)
        for (int64_t y = std::max<int64_t>(axis.end[o] - slots, 0); y < axis.end[o]; ++y)
            weight[o * slots + y % slots] = static_cast<float>(axis.weight(o, y));
    return weight;
}

template <int K>
void put_rows(const Axis& axis, const std::vector<Cut>& cuts, StemPlanShape& s, planning::Writer& writer) {
    const RowWork<K> work = plan_rows<K>(axis, cuts);
    s.strip_table = writer.put(work.strips);
    s.row_table = writer.put(work.rows);
    s.gather_table = writer.put(s.form == Form::kGather ? plan_gather(axis, K) : std::vector<float>{});
}

}  // namespace

StemPlan make_stem_plan(const StemPlanRequest& request) {
    const Axis rows(request.rows, "rows"), columns(request.columns, "columns");
    for (const Axis* axis : {&rows, &columns})
        for (size_t o = 0; o < axis->begin.size(); ++o)
            if (axis->begin[o] >= axis->end[o])
                throw std::invalid_argument("stem plan: output " + std::to_string(o) + " reads no input");
    if (request.batch < 1 || request.multiprocessors < 1)
        throw std::invalid_argument("stem plan: batch and multiprocessors must be positive");
    StemPlan plan;
    StemPlanShape& s = plan.shape;
    s = {};
    s.batch = request.batch;
    s.height = request.rows.in_size, s.width = request.columns.in_size;
    s.out_height = request.rows.out_size, s.out_width = request.columns.out_size;

    const int64_t open = rows.sweep(0, s.out_height, [](int64_t) {});
    const int64_t widest = rows.widest();
    const int64_t least = std::min(open, widest);
    if (least > kStemSlots)
        throw std::invalid_argument(
            "stem plan: " + std::to_string(open) + " output rows are open at one image row and an output row reads " +
            std::to_string(widest) + "; one of the two must be at most " + std::to_string(kStemSlots));
    s.form = open <= widest ? Form::kFold : Form::kGather;
    s.slots = least <= 2 ? 2 : kStemSlots;

    int64_t warps = 0;
    const int64_t most = request.kernel.warps[s.slots == 2 ? 0 : 1];  // resident
    std::vector<Cut> tiles = choose_tiles(columns, request.kernel, most, warps);
    s.pieces = 1;
    if (tiles.empty()) {
        // The columns of a single output exceed a block: they are cut into pieces, summed in order.
        tiles = cut_axis(columns, 1);
        warps = request.kernel.block_warps;
        int64_t most = 1;
        for (const Cut& tile : tiles) most = std::max(most, tile.end - tile.begin);
        s.pieces = static_cast<int32_t>(divide_up(most, warps * kStemWarpColumns));
    }
    s.warps = static_cast<int32_t>(warps);
    s.tiles = static_cast<int32_t>(tiles.size());
    const int64_t resident = request.multiprocessors * (most / warps);
    int64_t strip = choose_strip(rows, s.batch * s.tiles, resident);
    if (s.pieces > 1) strip = std::min(strip, kPieceStripRows);
    const std::vector<Cut> strips = cut_axis(rows, strip);
    s.strips = static_cast<int32_t>(strips.size());
    s.strip_outputs = static_cast<int32_t>(strip);
    s.items = s.batch * s.strips * s.tiles;
    s.blocks = std::min(s.items, resident);

    // Windows, first taps and weights of the columns.
    const int64_t window = warps * kStemWarpColumns;
    int64_t taps = 1, tile_outputs = 1;
    for (const Cut& tile : tiles) tile_outputs = std::max(tile_outputs, tile.last - tile.first);
    taps = std::min(columns.widest(), window);
    s.taps = static_cast<int32_t>(taps);
    s.tile_outputs = static_cast<int32_t>(tile_outputs);
    s.groups = static_cast<int32_t>(divide_up(tile_outputs, 16));
    const auto groups = groups_of(columns, tiles, request.kernel.parts);
    s.steps = static_cast<int32_t>(steps_of(groups, window));
    s.fragments = static_cast<int32_t>(fragments_of(groups, s.steps));
    std::vector<StemTile> tile_table;
    std::vector<int32_t> first_table;
    std::vector<StemGroup> group_table;
    std::vector<float> tap_table;
    for (size_t t = 0; t < tiles.size(); ++t) {
        const Cut& tile = tiles[t];
        for (int64_t piece = 0; piece < s.pieces; ++piece) {
            const int64_t begin = tile.begin + piece * window;
            const int64_t own_end = std::min(tile.own_end, begin + window);
            tile_table.push_back({static_cast<int32_t>(tile.first), static_cast<int32_t>(tile.last),
                                  static_cast<int32_t>(begin), static_cast<int32_t>(std::max(own_end, begin))});
            for (int64_t i = 0; i < tile_outputs; ++i) {
                const int64_t o = std::min(tile.first + i, tile.last - 1);
                // Within the window; taps outside the band have zero weights.
                const int64_t first = std::clamp<int64_t>(columns.begin[o] - begin, 0, window - taps);
                first_table.push_back(static_cast<int32_t>(first));
                for (int64_t tap = 0; tap < taps; ++tap)
                    tap_table.push_back(static_cast<float>(columns.weight(o, begin + first + tap)));
            }
            int64_t fragment = 0;
            for (const Group& group : groups[t]) {
                const int64_t column = std::clamp<int64_t>(group.first - begin, 0, window - 16 * s.steps);
                group_table.push_back(
                    {static_cast<int32_t>(column), static_cast<int16_t>(fragment), static_cast<int16_t>(group.parts)});
                fragment += group.parts * s.steps;
            }
            group_table.resize(divide_up(group_table.size(), s.groups) * s.groups);  // of tiles with fewer
        }
    }
    planning::Writer writer{plan.tables};
    s.slots == 2 ? put_rows<2>(rows, strips, s, writer) : put_rows<kStemSlots>(rows, strips, s, writer);
    s.tile_table = writer.put(tile_table);
    s.first_table = writer.put(first_table);
    s.tap_table = writer.put(tap_table);
    s.group_table = writer.put(group_table);
    s.table_bytes = static_cast<int64_t>(plan.tables.size());
    return plan;
}

}  // namespace learned_resizer
