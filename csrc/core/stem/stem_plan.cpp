#include "stem/stem_plan.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

namespace learned_resizer {
namespace {

constexpr int32_t kPieceStripRows = 8;  // output rows of a strip whose sums wait in shared memory between pieces
constexpr int64_t kMostStrips = 64;     // of an image
constexpr int64_t kMostTurns = 16;      // items of a block: more share the rows out no better

int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Half of what an output reads, in pixels.
double support(const Axis& axis) {
    if (axis.identity) return 0.5;
    return filter_support(axis.filter) * (axis.antialias ? std::max(axis.scale, 1.0) : 1.0);
}

// Pixels from the first that `outputs` neighbours read to the last, at most: an interval of that length, but for a
// pixel that rounding adds with a weight of nearly zero.
int64_t span(const Axis& axis, int64_t outputs) {
    const double pixels = std::ceil(axis.scale * static_cast<double>(outputs - 1) + 2.0 * support(axis));
    return static_cast<int64_t>(std::min(pixels, static_cast<double>(axis.in)));
}

// The columns of a tile: the same with those before its first band, up to the next tile's, and behind the last band.
// Only without antialiasing are there some, up to the scale on either side.
int64_t columns_of(const Axis& axis, int64_t outputs) {
    if (axis.antialias || axis.identity) return span(axis, outputs);
    return std::min<int64_t>(span(axis, outputs + 2), axis.in);
}

// The fewest tiles that fit a block, of about equal length.
void choose_tiles(const Axis& axis, const StemInstance& kernel, int warps, StemTensor& t) {
    const int64_t window = int64_t{kStemWarpColumns} * warps;
    const auto steps = [&](int64_t outputs) {
        return divide_up(std::min({span(axis, std::min<int64_t>(outputs, 16)), window, int64_t{axis.in}}), 16);
    };
    const auto fits = [&](int64_t outputs) {
        return columns_of(axis, outputs) <= window &&
               divide_up(outputs, 16) * kernel.parts * steps(outputs) <= kernel.fragments;
    };
    // Bisection: what a tile needs grows with its outputs.
    int64_t outputs = 1, too_many = int64_t{axis.out} + 1;
    while (too_many - outputs > 1) {
        const int64_t middle = (outputs + too_many) / 2;
        (fits(middle) ? outputs : too_many) = middle;
    }
    t.tiles = static_cast<int32_t>(divide_up(axis.out, outputs));
    t.tile_outputs = static_cast<int32_t>(divide_up(axis.out, t.tiles));
    t.tiles = static_cast<int32_t>(divide_up(axis.out, t.tile_outputs));
    // The columns of a single output may exceed a block: they are cut into pieces, summed in order.
    t.pieces = static_cast<int32_t>(divide_up(columns_of(axis, t.tile_outputs), window));
    t.steps = static_cast<int32_t>(steps(t.tile_outputs));
}

// Rows of an item, for the whole batch: the count that takes the busiest multiprocessor the least time.
// visit(target, items, longest) adds what the tensors are cut into for items of up to `target` rows, with what a strip
// costs beyond its rows in `longest`.
template <class Visit>
int64_t choose_rows(int64_t most_rows, int64_t resident, const Visit& visit) {
    int64_t best = most_rows, least = INT64_MAX;
    for (int64_t strips = 1; strips <= std::min(most_rows, kMostStrips); ++strips) {
        const int64_t target = divide_up(most_rows, strips);
        int64_t items = 0, longest = 0;
        visit(target, items, longest);
        const int64_t turns = divide_up(items, resident);
        if (turns * longest < least) least = turns * longest, best = target;
        if (turns > kMostTurns) break;
    }
    return best;
}

// Places in the tables, each 16-byte aligned.
struct Places {
    int64_t bytes = 0;
    int64_t add(int64_t count, int64_t size) {
        const int64_t at = bytes;
        bytes += divide_up(count * size, 16) * 16;
        return at;
    }
    StemAxis bands(const Axis& axis) {
        const int64_t out = axis.out;
        return {add(out, 4), add(out, 4), add(out * axis.taps, 8), axis.in, axis.taps};
    }
};

void check(const std::vector<StemPlanTensor>& tensors) {
    if (tensors.empty()) throw std::invalid_argument("stem plan: got no images; expected at least one");
    for (const StemPlanTensor& t : tensors) {
        if (t.batch < 1) throw std::invalid_argument("stem plan: batch must be positive");
        for (const Axis* axis : {&t.rows, &t.columns})
            if (axis->in < 1 || axis->out < 1 || axis->taps < 1 || axis->filter < Filter::kBilinear ||
                axis->filter == Filter::kHamming)
                throw std::invalid_argument(
                    "stem plan: got an axis without pixels, outputs or taps, or another filter "
                    "than bilinear, bicubic and lanczos");
    }
}

// Begins the tables with room for what is stored, and gives each tensor its bands.
template <class T>
Places begin_tables(const std::vector<StemPlanTensor>& from, size_t attached, std::vector<T>& to, StemTables& tables) {
    Places places;
    const auto count = static_cast<int64_t>(from.size());
    places.add(count, sizeof(T));
    tables.axes_at = places.add(2 * count, sizeof(BandAxis));
    tables.attached_at = places.add(static_cast<int64_t>(attached), 1);
    for (const StemPlanTensor& t : from) {
        T& made = to.emplace_back();
        made.rows = places.bands(t.rows), made.columns = places.bands(t.columns);
        for (const bool rows : {true, false}) {
            const Axis& axis = rows ? t.rows : t.columns;
            const StemAxis& at = rows ? made.rows : made.columns;
            tables.axes.push_back({axis, at.begin, at.end, at.weight});
        }
    }
    return places;
}
template <class T>
void end_tables(const std::vector<T>& tensors, const std::vector<unsigned char>& attached, const Places& places,
                StemTables& tables) {
    tables.stored.resize(tables.attached_at + attached.size());
    std::memcpy(tables.stored.data(), tensors.data(), tensors.size() * sizeof(T));
    std::memcpy(tables.stored.data() + tables.axes_at, tables.axes.data(), tables.axes.size() * sizeof(BandAxis));
    std::copy(attached.begin(), attached.end(), tables.stored.begin() + tables.attached_at);
    tables.bytes = places.bytes;
}

}  // namespace

Axis make_stem_axis(int32_t in, int32_t out, Filter filter, bool antialias, double offset, double extent) {
    Axis axis{};
    axis.identity = in == out && extent == 0.0;
    axis.offset = offset, axis.extent = extent == 0.0 ? in : extent;
    axis.scale = axis.extent / out;
    axis.in = in, axis.out = out, axis.filter = filter, axis.antialias = antialias;
    axis.taps = band_taps(axis);
    return axis;
}

StemPlan make_stem_plan(const StemPlanRequest& request) {
    const auto& from = request.tensors;
    check(from);
    if (request.multiprocessors < 1) throw std::invalid_argument("stem plan: multiprocessors must be positive");
    StemPlan plan{};
    StemPlanShape& s = plan.shape;
    // By the filter and not by the sizes, so that all images of a call have the same.
    const int kernel = from[0].rows.filter == Filter::kBilinear ? 0 : 1;
    s.slots = kernel == 0 ? 2 : kStemSlots;
    s.warps = request.kernel.warps[kernel];
    s.tensors = static_cast<int32_t>(from.size());
    s.out_height = from[0].rows.out, s.out_width = from[0].columns.out;

    std::vector<StemTensor> tensors;
    Places places = begin_tables(from, request.attached.size(), tensors, plan.tables);
    int64_t most_rows = 1;
    for (size_t i = 0; i < from.size(); ++i) {
        StemTensor& t = tensors[i];
        choose_tiles(from[i].columns, request.kernel, s.warps, t);
        // Shrinking, no more output rows are open at an image row than slots; enlarging, none reads more image rows.
        t.form = from[i].rows.identity || from[i].rows.scale >= 1.0 ? Form::kFold : Form::kGather;
        most_rows = std::max(most_rows, int64_t{t.rows.in} * t.pieces);
    }
    const int64_t resident = int64_t{request.multiprocessors} * (request.kernel.resident[kernel] / s.warps);
    const auto strips_of = [&](const StemTensor& t, int64_t target) {
        return std::min({divide_up(int64_t{t.rows.in} * t.pieces, target), s.out_height, kMostStrips});
    };
    const int64_t target = choose_rows(most_rows, resident, [&](int64_t rows, int64_t& items, int64_t& longest) {
        for (size_t i = 0; i < from.size(); ++i) {
            const StemTensor& t = tensors[i];
            const int64_t strips = strips_of(t, rows);
            items += from[i].batch * t.tiles * strips;
            // Rows computed again, and the image rows of the first ones.
            longest = std::max(longest, (divide_up(t.rows.in, strips) + t.rows.taps + 8) * t.pieces);
        }
    });
    for (size_t i = 0; i < from.size(); ++i) {
        StemTensor& t = tensors[i];
        t.strip_outputs = static_cast<int32_t>(divide_up(s.out_height, strips_of(t, target)));
        if (t.pieces > 1) t.strip_outputs = std::min(t.strip_outputs, kPieceStripRows);
        t.strips = static_cast<int32_t>(divide_up(s.out_height, t.strip_outputs));
        s.pieces = std::max(s.pieces, t.pieces);
        const auto fragments = divide_up(t.tile_outputs, 16) * request.kernel.parts * t.steps;
        s.fragments = std::max(s.fragments, static_cast<int32_t>(fragments));
        if (t.pieces > 1) s.strip_outputs = std::max(s.strip_outputs, t.strip_outputs);
        t.image = i == 0 ? 0 : tensors[i - 1].image + from[i - 1].batch;
        t.item = s.items, t.entry = s.entries;
        s.items += from[i].batch * t.strips * t.tiles;
        const int64_t rows = t.rows.in + int64_t{t.strips} * (t.rows.taps + 2);
        t.row_table = places.add(rows, s.slots == 2 ? sizeof(StemRow<2>) : sizeof(StemRow<kStemSlots>));
        s.entries += rows;
        if (t.form == Form::kGather) {
            t.gather_table = places.add(s.out_height * s.slots, sizeof(float));
            s.entries += s.out_height;
        }
    }
    s.blocks = std::min(s.items, resident);
    end_tables(tensors, request.attached, places, plan.tables);
    return plan;
}

StemBackwardPlan make_stem_backward_plan(const std::vector<StemPlanTensor>& from, const StemBackwardFit (&fits)[2],
                                         const std::vector<unsigned char>& attached) {
    check(from);
    StemBackwardPlan plan{};
    StemBackwardShape& s = plan.shape;
    s.tensors = static_cast<int32_t>(from.size());
    s.out_height = from[0].rows.out, s.out_width = from[0].columns.out;
    std::vector<StemBackwardTensor> tensors;
    Places places = begin_tables(from, attached.size(), tensors, plan.tables);
    int64_t most_rows = 1;
    for (size_t i = 0; i < from.size(); ++i) {
        StemBackwardTensor& t = tensors[i];
        for (const bool rows : {true, false}) {
            const Axis& axis = rows ? from[i].rows : from[i].columns;
            StemTransposed& transposed = rows ? t.transposed_rows : t.transposed_columns;
            // One more than any pixel has, for what rounding may add.
            transposed.capacity = static_cast<int32_t>(std::min<int64_t>(most_open(axis) + 1, axis.out));
            if (int64_t{axis.in} * transposed.capacity > INT32_MAX)
                throw std::invalid_argument("size: an axis of " + std::to_string(axis.in) + " -> " +
                                            std::to_string(axis.out) + " pixels needs more than " +
                                            std::to_string(INT32_MAX) + " weights in the adjoint");
            transposed.start = places.add(axis.in, 4);
            transposed.count = places.add(axis.in, 4);
            transposed.weight = places.add(int64_t{axis.in} * transposed.capacity, 4);
        }
        t.image = i == 0 ? 0 : tensors[i - 1].image + from[i - 1].batch;
        t.entry = s.entries;
        s.entries += int64_t{t.rows.in} + t.columns.in;
        most_rows = std::max(most_rows, int64_t{t.rows.in});
    }
    for (const StemGradient gradient : {StemGradient::kWeights, StemGradient::kImage}) {
        const int g = static_cast<int>(gradient);
        const StemBackwardFit& fit = fits[g];
        s.warps[g] = fit.warps;
        const int64_t columns = stem_backward_columns(fit.warps, gradient);
        const auto images = [&](size_t i) {
            return gradient == StemGradient::kImage && !from[i].image_grad ? 0 : from[i].batch;
        };
        const auto strip_rows = [&](const StemBackwardTensor& t, int64_t target) {
            const int64_t strips = divide_up(t.rows.in, target);
            return divide_up(t.rows.in, strips * fit.height) * fit.height;
        };
        // A strip begins with a wait for its first image rows, about as long as three rows take; for the image it
        // computes 6 rows twice.
        const int64_t more = gradient == StemGradient::kImage ? 9 : 3;
        const int64_t target =
            choose_rows(most_rows, fit.resident, [&](int64_t rows, int64_t& items, int64_t& longest) {
                for (size_t i = 0; i < from.size(); ++i) {
                    const StemBackwardTensor& t = tensors[i];
                    const int64_t length = strip_rows(t, rows);
                    items += divide_up(t.rows.in, length) * divide_up(t.columns.in, columns) * images(i);
                    longest = std::max(longest, length + more);
                }
            });
        for (size_t i = 0; i < from.size(); ++i) {
            StemBackwardTensor& t = tensors[i];
            StemShare& share = t.share[g];
            share.item = s.items[g];
            share.tiles = static_cast<int32_t>(divide_up(t.columns.in, columns));
            share.strip_rows = static_cast<int32_t>(strip_rows(t, target));
            share.strips = static_cast<int32_t>(divide_up(t.rows.in, share.strip_rows));
            s.items[g] += images(i) * share.tiles * share.strips;
        }
        s.blocks[g] = std::min(s.items[g], fit.resident);
    }
    end_tables(tensors, attached, places, plan.tables);
    return plan;
}

}  // namespace learned_resizer
