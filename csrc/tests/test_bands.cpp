// Bands made by the device kernel, its source compiled for the host and run on fibers, against dense matrices.
// Usage: test_bands GROUP; each group is one ctest.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "bands/bands.cuh"
#include "dense.h"
#include "fibers.h"

namespace learned_resizer::test {
namespace {

int failures = 0;

// `what` makes the text, which takes longer than the checks.
template <class What>
void expect(bool good, const What& what) {
    if (good) return;
    ++failures;
    std::printf("%s\n", what().c_str());
}

using Kernel = learned_resizer::Filter;

struct Case {
    Axis axis;
    Filter filter;

    std::string text() const {
        return "filter " + std::to_string(static_cast<int>(axis.filter)) + " antialias " +
               std::to_string(axis.antialias) + " " + std::to_string(axis.in) + " -> " + std::to_string(axis.out) +
               " offset " + std::to_string(axis.offset) + " extent " + std::to_string(axis.extent);
    }
};

Case make_case(Kernel kernel, bool antialias, int32_t in, int32_t out, double offset, double extent) {
    const Filter filters[] = {Filter::kBox,     Filter::kBox,   Filter::kTriangle,
                              Filter::kHamming, Filter::kCubic, Filter::kLanczos};
    Axis axis{};
    axis.scale = extent / out, axis.offset = offset, axis.extent = extent;
    axis.in = in, axis.out = out, axis.filter = kernel, axis.antialias = antialias ? 1 : 0;
    axis.identity = in == out && offset == 0.0 && extent == in ? 1 : 0;
    axis.taps = band_taps(axis);
    return {axis, filters[static_cast<int>(kernel)]};
}

// Tables of several axes, as one launch makes them.
struct Made {
    std::vector<Quad<uint32_t>> memory;
    std::vector<BandAxis> axes;
    unsigned char* data() { return reinterpret_cast<unsigned char*>(memory.data()); }
    Bands bands(size_t i) {
        return {reinterpret_cast<int32_t*>(data() + axes[i].begin), reinterpret_cast<int32_t*>(data() + axes[i].end),
                reinterpret_cast<double*>(data() + axes[i].weight)};
    }
};

Made made_of(const std::vector<Case>& cases) {
    Made made;
    int64_t bytes = static_cast<int64_t>(cases.size() * sizeof(BandAxis));
    BandsParams p{};
    const auto place = [&](int64_t size) {
        const int64_t at = bytes;
        bytes += (size + 15) / 16 * 16;
        return at;
    };
    for (const Case& c : cases) {
        BandAxis to{};
        to.axis = c.axis;
        to.begin = place(4 * c.axis.out), to.end = place(4 * c.axis.out),
        to.weight = place(8 * c.axis.out * c.axis.taps);
        made.axes.push_back(to);
        p.most_outputs = std::max(p.most_outputs, c.axis.out);
    }
    made.memory.resize(bytes / 16);
    std::memcpy(made.data(), made.axes.data(), made.axes.size() * sizeof(BandAxis));
    p.tables = made.data(), p.count = static_cast<int32_t>(cases.size());
    // Fewer blocks than chunks: the block loop, too.
    host::run({7, kBandThreads, 0, false}, [&] { bands_kernel(p); });
    return made;
}

// ties: windows may end at pixels' centres.
void check(const std::vector<Case>& cases, bool ties = false) {
    Made made = made_of(cases);
    for (size_t i = 0; i < cases.size(); ++i) {
        const Axis& a = cases[i].axis;
        const Bands bands = made.bands(i);
        const Dense expected = resampling_matrix(a.in, a.out, cases[i].filter, a.antialias != 0, a.offset, a.extent);
        std::vector<int64_t> open(a.in);
        for (int32_t o = 0; o < a.out; ++o) {
            expect(bands.begin[o] >= 0 && bands.begin[o] < bands.end[o] && bands.end[o] <= a.in &&
                       bands.end[o] - bands.begin[o] <= a.taps,
                   [&] { return cases[i].text() + ": band of output " + std::to_string(o); });
            if (o > 0)
                expect(bands.begin[o] >= bands.begin[o - 1] && bands.end[o] >= bands.end[o - 1],
                       [&] { return cases[i].text() + ": decreases at output " + std::to_string(o); });
            for (int32_t at = bands.begin[o]; at < bands.end[o]; ++at) ++open[at];
            for (int32_t at = 0; at < a.in; ++at) {
                const double weight = band_weight(bands, a.taps, o, at);
                // Roundings of coordinates up to 500, times the filters' slopes; Pillow's float32 constants. Where a
                // box ends at a pixel's centre the roundings decide: tests/kernels compares with the package's tables.
                const double bound = a.filter == Kernel::kHamming ? 1e-7 : 1e-12;
                expect(std::fabs(weight - expected.at(o, at)) < bound || (ties && a.filter == Kernel::kBox), [&] {
                    return cases[i].text() + ": weight " + std::to_string(o) + ", " + std::to_string(at) + " is " +
                           std::to_string(weight) + ", expected " + std::to_string(expected.at(o, at));
                });
            }
        }
        for (int32_t at = 0; at < a.in; ++at) {
            expect(open[at] <= most_open(a), [&] {
                return cases[i].text() + ": " + std::to_string(open[at]) + " open at " + std::to_string(at) +
                       ", expected at most " + std::to_string(most_open(a));
            });
            const int32_t first = first_above(bands.end, a.out, at), last = first_above(bands.begin, a.out, at);
            expect(last - first == open[at],
                   [&] { return cases[i].text() + ": transposed band of pixel " + std::to_string(at); });
        }
    }
}

constexpr Kernel kKernels[] = {Kernel::kBox, Kernel::kBilinear, Kernel::kHamming, Kernel::kBicubic, Kernel::kLanczos};

void check_filters() {
    std::vector<Case> cases;
    for (const Kernel kernel : kKernels)
        for (const bool antialias : {true, false}) {
            if (kernel == Kernel::kBox && !antialias) continue;  // nearest
            for (const auto& [in, out] : std::vector<std::pair<int, int>>{
                     {9, 4}, {4, 9}, {7, 7}, {1, 5}, {5, 1}, {400, 3}, {3, 200}, {100, 33}, {33, 100}, {448, 224}})
                cases.push_back(make_case(kernel, antialias, in, out, 0.0, in));
        }
    check(cases);
}

void check_places() {
    std::mt19937 random(3);
    std::vector<Case> cases;
    for (int i = 0; i < 150; ++i) {
        const Kernel kernel = kKernels[random() % 5];
        const bool antialias = kernel == Kernel::kBox || random() % 2 == 0;
        const auto in = static_cast<int32_t>(1 + random() % (i % 2 == 0 ? 500 : 8));
        const auto out = static_cast<int32_t>(1 + random() % 60);
        // The region touches every pixel.
        const double offset = (random() % 1000 + 0.5) / 1001.0, rest = (random() % 1000 + 0.5) / 1001.0;
        const double extent = in - offset - rest;
        if (extent <= 0.0) continue;
        cases.push_back(make_case(kernel, antialias, in, out, offset, extent));
    }
    check(cases);
}

// Whole ratios: windows end at pixels' centres, where rounding decides whether one more output is open.
void check_open() {
    std::vector<Case> cases;
    for (const Kernel kernel : kKernels)
        for (int32_t out = 1; out <= 12; ++out)
            for (int32_t in = 1; in <= 12; ++in) cases.push_back(make_case(kernel, true, 7 * in, 7 * out, 0.0, 7 * in));
    check(cases, true);
}

}  // namespace
}  // namespace learned_resizer::test

int main(int count, char** arguments) {
    using namespace learned_resizer::test;
    const std::string group = count > 1 ? arguments[1] : "";
    if (group == "filters") check_filters();
    if (group == "places") check_places();
    if (group == "open") check_open();
    std::printf("%s: %d failures\n", group.c_str(), failures);
    return failures == 0 ? 0 : 1;
}
