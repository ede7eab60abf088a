// The fixed-point resampling kernel, its source compiled for the host and run on fibers, against whole numbers from
// dense tables: equal bytes. Usage: test_resample_fixed GROUP; each group is one ctest.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "resample_check.h"
#include "resample_fixed/resample_fixed.cuh"

namespace learned_resizer::test {
namespace {

// Weights times 2^22, rounded half away from zero: [rows][columns].
struct Whole {
    int64_t rows, columns;
    std::vector<int64_t> value;
    int64_t at(int64_t r, int64_t c) const { return value[r * columns + c]; }
};

Whole whole(const Dense& m) {
    Whole w{m.rows, m.columns, {}};
    for (const double x : m.value) w.value.push_back(std::llround(x * 0x1p22));
    return w;
}

// Outputs [lines][w.rows] of inputs [lines][w.columns].
std::vector<int64_t> filtered(const std::vector<int64_t>& x, const Whole& w) {
    std::vector<int64_t> y;
    for (size_t line = 0; line < x.size() / w.columns; ++line)
        for (int64_t o = 0; o < w.rows; ++o) {
            int64_t sum = 1 << 21;
            for (int64_t i = 0; i < w.columns; ++i) sum += w.at(o, i) * x[line * w.columns + i];
            // Towards minus infinity.
            y.push_back(std::clamp<int64_t>(sum < 0 ? -1 : sum / (1 << 22), 0, 255));
        }
    return y;
}

// [columns][lines] of [lines][columns].
std::vector<int64_t> turned(const std::vector<int64_t>& x, int64_t columns) {
    const auto lines = static_cast<int64_t>(x.size()) / columns;
    std::vector<int64_t> y(x.size());
    for (int64_t r = 0; r < lines; ++r)
        for (int64_t c = 0; c < columns; ++c) y[c * lines + r] = x[r * columns + c];
    return y;
}

// The kernel's tables, from groups of neighbouring rows.
struct Tables {
    std::vector<int32_t> start, strip_begin{0};
    std::vector<RowGroup> group;
    std::vector<FourWeights> weight, row_weight;
    int32_t taps = 0;
};

Tables tables_of(const Whole& vertical, const Whole& horizontal, int64_t strip_rows) {
    Tables t;
    std::vector<int64_t> first(horizontal.rows, 0);
    for (int64_t o = 0; o < horizontal.rows; ++o) {
        int64_t last = 0;
        for (int64_t i = horizontal.columns; i-- > 0;)
            if (horizontal.at(o, i) != 0) first[o] = i, last = std::max(last, i);
        t.taps = std::max(t.taps, static_cast<int32_t>(last - first[o] + 1));
    }
    for (int64_t& f : first) t.start.push_back(static_cast<int32_t>(f = std::min(f, horizontal.columns - t.taps)));
    for (int32_t tap = 0; tap < t.taps; tap += 4)
        for (int64_t o = 0; o < horizontal.rows; ++o) {
            FourWeights w{};
            for (int32_t i = 0; i < 4 && tap + i < t.taps; ++i)
                w.weight[i] = static_cast<int32_t>(horizontal.at(o, first[o] + tap + i));
            t.weight.push_back(w);
        }
    for (int64_t top = 0; top < vertical.rows; top += strip_rows) {
        const int64_t bottom = std::min(top + strip_rows, vertical.rows);
        for (int64_t i = 0; i < vertical.columns; i += kFixedRows) {
            int64_t begin = bottom, end = top;
            for (int64_t o = top; o < bottom; ++o)
                for (int r = 0; r < kFixedRows && i + r < vertical.columns; ++r)
                    if (vertical.at(o, i + r) != 0) begin = std::min(begin, o), end = o + 1;
            if (begin >= end) continue;
            RowGroup g{};
            g.first = static_cast<int32_t>(begin - top), g.count = static_cast<int32_t>(end - begin);
            g.weight = static_cast<int32_t>(t.row_weight.size());
            for (int r = 0; r < kFixedRows; ++r) g.row[r] = static_cast<int32_t>(std::min(i + r, vertical.columns - 1));
            for (int64_t o = begin; o < end; ++o) {
                FourWeights w{};
                for (int r = 0; r < kFixedRows && i + r < vertical.columns; ++r)
                    w.weight[r] = static_cast<int32_t>(vertical.at(o, i + r));
                t.row_weight.push_back(w);
            }
            t.group.push_back(g);
        }
        t.strip_begin.push_back(static_cast<int32_t>(t.group.size()));
    }
    return t;
}

FixedStrides exchanged(const FixedStrides& s) { return {s.image, s.plane, s.channel, s.column, s.row}; }

void check_one(const Case& k, const Whole& rows, const Whole& columns, bool rows_first, int32_t strip_rows) {
    std::mt19937 random(static_cast<unsigned>(k.height * 131 + k.width * 17 + rows.rows * 7 + columns.rows));
    Image<uint8_t> image = make_image<uint8_t>(k);
    // Black, white and all between: sums beyond both ends, and ordinary ones.
    for (uint8_t& x : image.memory)
        x = static_cast<uint8_t>(std::clamp<int>(static_cast<int>(random() % 512) - 128, 0, 255));
    const bool inner = image.channels > 1;
    const int64_t h = rows.rows, w = columns.rows, plane = h * w * image.channels;
    std::vector<uint8_t> out(image.planes * plane), again(out.size(), 0xA5);

    ResampleFixedParams p{};
    p.image = image.origin;
    p.image_stride = {image.stride_image, image.stride_plane, image.stride_channel, image.stride_row,
                      image.stride_column};
    p.output_stride = {image.planes_per_image * plane, inner ? 0 : plane, 1, w * image.channels, image.channels};
    p.planes = image.planes, p.planes_per_image = image.planes_per_image, p.channels = image.channels;
    p.strip_rows = strip_rows;
    if (!rows_first) p.image_stride = exchanged(p.image_stride), p.output_stride = exchanged(p.output_stride);
    const Whole& vertical = rows_first ? rows : columns;
    const Whole& horizontal = rows_first ? columns : rows;
    const Tables t = tables_of(vertical, horizontal, strip_rows);
    p.start = t.start.data(), p.weight = t.weight.data(), p.taps = t.taps;
    p.strip_begin = t.strip_begin.data(), p.group = t.group.data(), p.row_weight = t.row_weight.data();
    p.out_height = vertical.rows, p.out_width = horizontal.rows;
    with_resample_fixed_kernel(p, [&](auto kernel) {
        const auto shared = static_cast<std::size_t>(fixed_shared_bytes(p));
        p.output = out.data();
        host::run({fixed_blocks(p), kFixedThreads, shared, false},
                  [&] { kernel(p, fixed_blocks(p), fixed_strips(p)); });
        // Again with the threads in the other order, with two blocks that take all the turns, and with all channels
        // interleaved: planes as channels that lie far apart.
        p.output = again.data();
        p.planes = k.batch, p.planes_per_image = 1, p.channels = k.channels;
        if (!inner) p.image_stride.channel = p.image_stride.plane, p.output_stride.channel = p.output_stride.plane;
        host::run({std::min<int64_t>(fixed_blocks(p), 2), kFixedThreads, shared, true},
                  [&] { kernel(p, fixed_blocks(p), fixed_strips(p)); });
    });
    int64_t wrong = out != again;
    for (int64_t b = 0; b < k.batch; ++b)
        for (int64_t c = 0; c < k.channels; ++c) {
            std::vector<int64_t> x;
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t i = 0; i < k.width; ++i) x.push_back(image.origin[image.at(b, c, y, i)]);
            std::vector<int64_t> expected;
            if (rows_first)
                expected = turned(filtered(turned(filtered(x, columns), w), rows), h);
            else
                expected = filtered(turned(filtered(turned(x, k.width), rows), h), columns);
            for (int64_t i = 0; i < h * w; ++i)
                wrong +=
                    out[inner ? (b * h * w + i) * k.channels + c : (b * k.channels + c) * h * w + i] != expected[i];
        }
    ++checks;
    if (wrong == 0) return;
    ++failures;
    std::printf("%lldx%lldx%lldx%lld -> %lldx%lld, %s, %s first, strips of %d: %lld bytes differ\n",
                static_cast<long long>(k.batch), static_cast<long long>(k.channels), static_cast<long long>(k.height),
                static_cast<long long>(k.width), static_cast<long long>(h), static_cast<long long>(w),
                inner ? "NHWC" : "NCHW", rows_first ? "rows" : "columns", strip_rows, static_cast<long long>(wrong));
}

void check_fixed(const Case& k, int64_t height, int64_t width, Filter filter, int32_t strip_rows = 4) {
    const Whole rows = whole(resampling_matrix(k.height, height, filter, true));
    const Whole columns = whole(resampling_matrix(k.width, width, filter, true));
    for (const bool rows_first : {true, false}) check_one(k, rows, columns, rows_first, strip_rows);
}

constexpr Filter kFilters[] = {Filter::kBox, Filter::kTriangle, Filter::kHamming, Filter::kCubic, Filter::kLanczos};

// Every filter, smaller, larger, mixed and the same size, and strips of every kind.
void test_filters() {
    for (const Filter filter : kFilters)
        for (const Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
            for (const int32_t strip_rows : {1, 4, 7, 64})
                check_fixed({1, 3, 32, 48, layout}, 13, 24, filter, strip_rows);
            check_fixed({2, 3, 11, 16, layout}, 25, 33, filter, 7);
            check_fixed({1, 3, 20, 9, layout}, 20, 31, filter);
            check_fixed({1, 1, 9, 20, layout}, 31, 20, filter);
        }
}

// Crops, gaps, flips, expanded batches, and interleaved channels of every number up to 8.
void test_layouts() {
    for (const Layout layout : {Layout::kNCHW, Layout::kNHWC})
        for (int64_t channels = 1; channels <= 8; ++channels) {
            check_fixed({2, channels, 9, 14, layout}, 5, 20, Filter::kCubic);
            check_fixed({2, channels, 16, 24, layout, 1, 3}, 9, 12, Filter::kCubic);
            check_fixed({2, channels, 16, 21, layout, 0, 0, true}, 9, 40, Filter::kTriangle);
            check_fixed({2, channels, 16, 24, layout, 0, 0, false, true}, 9, 12, Filter::kLanczos);
            check_fixed({3, channels, 16, 24, layout, 0, 0, false, false, true}, 9, 12, Filter::kTriangle);
        }
}

// One pixel, one column, one output of everything, enlarging by 500, and more columns than a block has threads.
void test_sizes() {
    for (const Filter filter : kFilters) {
        check_fixed({1, 1, 1, 1}, 1, 1, filter);
        check_fixed({1, 3, 1, 1, Layout::kNHWC}, 5, 7, filter);
        check_fixed({70, 2, 5, 7}, 1, 1, filter);
        check_fixed({1, 2, 3, 2000}, 2, 1, filter);
        check_fixed({1, 2, 2000, 3}, 1, 2, filter);
        check_fixed({1, 1, 2, 2}, 1000, 3, filter, 64);
        check_fixed({1, 1, 2, 2}, 3, 1000, filter, 64);
        check_fixed({2, 3, 6, 200, Layout::kNHWC}, 4, 150, filter);
    }
    // One output of 100,000 inputs.
    check_fixed({1, 1, 1, 100000}, 1, 1, Filter::kLanczos);
    check_fixed({1, 1, 100000, 1}, 1, 1, Filter::kLanczos);
}

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "filters") test_filters();
    if (group == "layouts") test_layouts();
    if (group == "sizes") test_sizes();
    std::printf("%d checks, %d failures\n", checks, failures);
    return checks == 0 || failures != 0;
}
