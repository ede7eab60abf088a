// The planner's bounds, which come in closed form from sizes and filters, against the bands themselves.
// Usage: test_resample_plan GROUP; each group is one ctest.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bands/bands.cuh"
#include "fibers.h"
#include "resample/resample_plan.h"
#include "resample/resample_tables.cuh"

namespace learned_resizer::test {
namespace {

int failures = 0;
int checks = 0;

// One launch of up to three tensors, and what it is made of.
struct Random {
    std::mt19937 engine;
    ResamplePlanRequest request;
    std::string text;

    int pick(int n) { return static_cast<int>(engine() % n); }
    int side() { return pick(3) == 0 ? 1 + pick(8) : pick(8) == 0 ? 1 + pick(2600) : 1 + pick(300); }

    // Regions of sixteenths of a pixel that touch every pixel, or explicit factors, which may reach beyond the border.
    Axis axis(int in, int out, Filter filter, bool antialias, bool factors) {
        double offset = 0.0, extent = 0.0, factor = 0.0;
        if (factors) {
            factor = pick(2) ? 0.3 + pick(100) / 50.0 : static_cast<double>(out) / in * (0.8 + pick(50) / 100.0);
        } else if (pick(2)) {
            offset = pick(16) / 16.0;
            extent = in - offset - pick(16) / 16.0;
            if (extent <= 0.0) offset = 0.0, extent = in == 1 ? 1.0 / (1 + pick(16)) : in - 0.5;
            if (offset == 0.0 && extent == in) extent = 0.0;
        }
        text += " " + std::to_string(in) + " -> " + std::to_string(out) + " (" + std::to_string(offset) + ", " +
                std::to_string(extent) + ", " + std::to_string(factor) + ")";
        return make_axis(in, out, filter, antialias, offset, extent, factor);
    }

    explicit Random(unsigned seed, bool factors) : engine(seed) {
        request = {};
        request.dtype = request.out_dtype = static_cast<DType>(pick(5));
        request.transposed = pick(2) != 0;
        request.multiprocessors = pick(2) ? 132 : 1 + pick(20);
        request.shared_memory = 227 * 1024;
        const auto filter = static_cast<Filter>(pick(6));
        const bool antialias = pick(4) != 0;
        const int height = side(), width = side(), channels = pick(10) == 0 ? 1 + pick(300) : 1 + pick(4);
        text = "seed " + std::to_string(seed) + ", filter " + std::to_string(static_cast<int>(filter)) +
               ", antialias " + std::to_string(antialias) + ", adjoint " + std::to_string(request.transposed);
        const int count = 1 + pick(3);
        for (int i = 0; i < count; ++i) {
            ResamplePlanTensor t{};
            t.images = 1 + pick(3), t.channels = channels;
            t.interleaved = pick(2) != 0, t.vectors = pick(2) != 0;
            t.rows = axis(side(), height, filter, antialias, factors);
            t.columns = axis(side(), width, filter, antialias, factors);
            t.top = pick(5), t.left = pick(5);
            t.out_height = t.top + t.rows.in + pick(5), t.out_width = t.left + t.columns.in + pick(5);
            t.mirrored = request.transposed && pick(2) != 0;
            request.tensors.push_back(t);
        }
    }

    void expect(bool good, const char* what, int64_t got, int64_t most) {
        ++checks;
        if (good) return;
        ++failures;
        std::printf("%s: %s: %lld, at most %lld\n", text.c_str(), what, static_cast<long long>(got),
                    static_cast<long long>(most));
    }
    void at_most(const char* what, int64_t got, int64_t most) { expect(got <= most, what, got, most); }
};

// A strip has room for its steps, and no more outputs are open at an image row than slots.
void check_rows(Random& r, const ResampleShape& s, const ResampleTensor& t, const AxisBands& rows) {
    int64_t steps = 0, open = 0;
    for (int32_t first = 0; first < t.rows.out; first += t.strip_rows) {
        const StripProgram program{rows, first, std::min(first + t.strip_rows, t.rows.out), t.unit_rows};
        steps = std::max<int64_t>(steps, program.count());
        for (int32_t o = first; o < program.last; ++o)
            for (int32_t i = 0; i < program.rows_of(o); ++i)
                for (int32_t q = o; q < program.unit_end(o); ++q)
                    if (rows.weight(q, program.first_row(o) + i) != 0.0) open = std::max<int64_t>(open, q - o + 1);
    }
    r.at_most("steps", steps, t.strip_steps);
    r.at_most("open outputs", open, s.slots);
}

// A window holds what its outputs read, and each weight is the tap of one of its pieces.
void check_columns(Random& r, const ResampleShape& s, const ResampleTensor& t, const AxisBands& columns) {
    const bool pairs = s.outputs == 1 && t.group_channels == 1;
    for (int32_t first = 0; first < t.columns.out; first += t.tile_columns) {
        const int32_t last = std::min(first + t.tile_columns, t.columns.out);
        const int32_t begin = columns.begin(first) / t.align * t.align, end = columns.end(last - 1);
        r.at_most("window", end - begin, t.pieces > 1 ? int64_t{t.pieces} * t.piece_columns : t.slot_columns);
        for (int32_t o = first; o < last; ++o) {
            const int32_t x = first + (o - first) / s.outputs * s.outputs;
            std::vector<int> seen(std::max(columns.end(o) - columns.begin(o), 0));
            for (int32_t piece = 0; piece < t.pieces; ++piece) {
                const int32_t from = begin + piece * t.piece_columns;
                const int32_t to = t.pieces > 1 ? std::min(from + t.piece_columns, end) : end;
                int32_t tap = std::max(columns.begin(x) - from, 0);
                if (pairs) tap = tap / 2 * 2;
                tap = std::min(tap, t.slot_columns - t.taps);
                r.expect(tap >= 0 && (!pairs || tap % 2 == 0), "tap", tap, 0);
                for (int32_t i = from + tap; i < std::min(from + tap + t.taps, to); ++i)
                    if (i >= columns.begin(o) && i < columns.end(o)) ++seen[i - columns.begin(o)];
            }
            for (size_t i = 0; i < seen.size(); ++i)
                if (columns.weight(o, columns.begin(o) + static_cast<int32_t>(i)) != 0.0)
                    r.expect(seen[i] == 1, "taps of a weight", seen[i], 1);
        }
    }
}

void check(unsigned seed, bool factors) {
    Random r(seed, factors);
    const ResamplePlan plan = make_resample_plan(r.request);
    const ResampleShape& s = plan.shape;
    std::vector<Quad<uint32_t>> memory(plan.bytes / 16);
    auto* tables = reinterpret_cast<unsigned char*>(memory.data());
    std::memcpy(tables, plan.stored.data(), plan.stored.size());
    const auto count = static_cast<int32_t>(plan.axes.size());
    const BandsParams bands{tables, plan.axes_at, count, s.most_bands};
    host::run({3, kBandThreads, 0, false}, [&] { bands_kernel(bands); });
    for (const TransposedAxis& to : plan.transposed) {
        const auto* begin = in_tables<int32_t>(tables, to.begin);
        const auto* end = in_tables<int32_t>(tables, to.end);
        for (int32_t i = 0; i < to.in; ++i)
            r.at_most("outputs of a pixel", first_above(begin, to.out, i) - first_above(end, to.out, i), to.to_taps);
    }
    if (failures > 0) return;
    if (r.request.transposed) {
        const TransposeParams transposed{tables, s.transpose_table, count, s.most_bands};
        host::run({3, kBandThreads, 0, false}, [&] { transposed_bands_kernel(transposed); });
    }
    r.at_most("shared memory", s.shared_bytes, kSharedLimit);
    for (const ResampleTensor& t : plan.tensors) {
        check_rows(r, s, t, AxisBands(tables, t.rows));
        check_columns(r, s, t, AxisBands(tables, t.columns));
        r.at_most("elements", t.group_planes * t.plane_elements, s.threads * vector_length(s.dtype, s.vectors != 0));
    }
}

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    for (unsigned seed = 0; seed < 60 && failures == 0; ++seed) check(seed, group == "factors");
    std::printf("%s: %d checks, %d failures\n", group.c_str(), checks, failures);
    return failures == 0 && checks > 0 ? 0 : 1;
}
