// The resample kernel, its source compiled for the host and run on fibers, against dense float64 matrices.
// Usage: test_resample GROUP; each group is one ctest.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "resample_check.h"

namespace {

using namespace learned_resizer;
using namespace learned_resizer::test;

template <class T>
void check_all_ways(const Case& k, int64_t height, int64_t width, Filter filter, bool antialias) {
    check<T>("forward", k, resampling_matrix(k.height, height, filter, antialias),
             resampling_matrix(k.width, width, filter, antialias));
    check<T>("adjoint", k, transposed(resampling_matrix(height, k.height, filter, antialias)),
             transposed(resampling_matrix(width, k.width, filter, antialias)));
}

template <class F>
void for_each_dtype(const F& f) {
    f(double{}), f(float{}), f(Half{}), f(BFloat16{}), f(uint8_t{});
}

// Every dtype, layout, filter and direction at ordinary sizes.
void test_filters() {
    for_each_dtype([](auto zero) {
        using T = decltype(zero);
        for (const Layout layout : {Layout::kNCHW, Layout::kNHWC})
            for (const Filter filter : {Filter::kTriangle, Filter::kCubic, Filter::kLanczos})
                for (const bool antialias : {true, false}) {
                    if (filter == Filter::kLanczos && !antialias) continue;
                    check_all_ways<T>({2, 3, 32, 48, layout}, 13, 24, filter, antialias);
                    check_all_ways<T>({1, 3, 11, 16, layout}, 25, 32, filter, antialias);
                }
    });
}

// Addresses and strides that vectors cannot read, and some that they can: crops, gaps, flips, expanded batches.
void test_strides() {
    for_each_dtype([](auto zero) {
        using T = decltype(zero);
        for (const Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
            check_all_ways<T>({2, 3, 16, 24, layout, 1}, 9, 12, Filter::kTriangle, true);
            check_all_ways<T>({2, 3, 16, 24, layout, 0, 3}, 9, 12, Filter::kCubic, true);
            check_all_ways<T>({2, 3, 16, 24, layout, 0, 24}, 31, 12, Filter::kCubic, true);
            check_all_ways<T>({2, 2, 16, 21, layout, 0, 6}, 9, 12, Filter::kTriangle, true);
            check_all_ways<T>({2, 2, 16, 24, layout, 0, 0, true}, 9, 40, Filter::kTriangle, true);
            check_all_ways<T>({2, 4, 16, 24, layout, 0, 0, false, true}, 9, 12, Filter::kLanczos, true);
            check_all_ways<T>({3, 4, 16, 24, layout, 0, 0, false, false, true}, 9, 12, Filter::kTriangle, true);
        }
    });
}

// Special sizes: one pixel, identity, many channels, many small planes, ratios to 1/200 and 200.
void test_sizes() {
    for (const Filter filter : {Filter::kTriangle, Filter::kCubic, Filter::kLanczos}) {
        check_all_ways<float>({1, 1, 1, 1}, 1, 1, filter, true);
        check_all_ways<float>({1, 1, 1, 1}, 5, 7, filter, true);
        check_all_ways<float>({1, 2, 9, 7}, 1, 1, filter, true);
        check_all_ways<uint8_t>({1, 3, 20, 20, Layout::kNHWC}, 20, 20, filter, true);
        check_all_ways<float>({1, 1, 20, 30}, 19, 31, filter, true);
        check_all_ways<float>({1, 1, 30, 20}, 20, 30, filter, false);
        check_all_ways<float>({1, 1, 3, 1600}, 2, 8, filter, true);  // taps beyond one block
        check_all_ways<uint8_t>({1, 3, 3, 1600, Layout::kNHWC}, 5, 8, filter, true);
        check_all_ways<double>({1, 1, 1600, 2}, 8, 3, filter, true);
        check_all_ways<float>({1, 1, 2, 2}, 400, 200, filter, true);
        check_all_ways<float>({40, 1, 8, 8}, 4, 4, filter, true);
        check_all_ways<BFloat16>({37, 3, 8, 8}, 4, 3, filter, true);
        check_all_ways<float>({1, 64, 12, 40, Layout::kNHWC}, 7, 9, filter, true);
        check_all_ways<Half>({1, 48, 12, 40, Layout::kNHWC}, 15, 50, filter, true);
        check_all_ways<float>({1, 67, 9, 24, Layout::kNHWC}, 5, 9, filter, true);
        check_all_ways<float>({1, 520, 3, 8, Layout::kNHWC}, 2, 3, filter, true);
        check_all_ways<float>({1, 502, 3, 8, Layout::kNHWC}, 2, 3, filter, true);  // flat rows, but no cut at a vector
        check_all_ways<double>({1, 60, 2, 300, Layout::kNHWC}, 9, 2, filter, true);  // pieces of many channels
    }
    // Few multiprocessors: tall strips, more than one chunk of steps in each; many: the shortest strips.
    for (const int multiprocessors : {1, 132}) {
        const Dense rows = resampling_matrix(301, 97, Filter::kLanczos, true);
        const Dense columns = resampling_matrix(24, 10, Filter::kLanczos, true);
        check<float>("chunks", {1, 2, 301, 24}, rows, columns, multiprocessors);
        check<float>("chunks", {1, 2, 97, 10}, transposed(rows), transposed(columns), multiprocessors);
    }
}

Dense empty_matrix(int64_t rows, int64_t columns) { return {rows, columns, std::vector<double>(rows * columns)}; }

// Tables that no filter produces: empty rows, single clamped inputs, more open rows and taps than any ring holds.
void test_tables() {
    const Dense columns = resampling_matrix(12, 7, Filter::kTriangle, true);
    Dense gaps = empty_matrix(23, 12);
    for (const int64_t o : {3, 4, 11, 19}) gaps.value[o * 12 + o / 2] = 1.0 + static_cast<double>(o);
    Dense clamped = empty_matrix(40, 12);  // all but two outputs read the border
    clamped.value[0] = 0.5;
    clamped.value[1 * 12 + 4] = 0.25, clamped.value[1 * 12 + 5] = 0.75;
    for (int64_t o = 2; o < 40; ++o) clamped.value[o * 12 + 11] = 1.0 / static_cast<double>(o);
    Dense full = empty_matrix(29, 31);  // every output reads every input
    for (size_t i = 0; i < full.value.size(); ++i) full.value[i] = static_cast<double>(i % 17) - 8.0;
    Dense nothing = empty_matrix(9, 12);
    for_each_dtype([&](auto zero) {
        using T = decltype(zero);
        for (const Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
            check<T>("gaps", {1, 3, 12, 12, layout}, gaps, columns);
            check<T>("gaps", {1, 3, 23, 12, layout}, transposed(gaps), columns);
            check<T>("gaps", {1, 3, 12, 12, layout}, columns, gaps);
            check<T>("gaps", {1, 3, 12, 23, layout}, columns, transposed(gaps));
            check<T>("clamped", {1, 3, 12, 12, layout}, clamped, clamped);
            check<T>("clamped", {1, 3, 40, 40, layout}, transposed(clamped), transposed(clamped));
            check<T>("full", {1, 3, 31, 31, layout}, full, full);
            check<T>("full", {1, 3, 29, 29, layout}, transposed(full), transposed(full));
            check<T>("nothing", {1, 3, 12, 12, layout}, nothing, nothing);
        }
    });
}

// The result must not depend on how the work is cut: batch, multiprocessors and alignment change only the tiling.
void test_tiling() {
    const Dense rows = resampling_matrix(64, 27, Filter::kLanczos, true);
    const Dense columns = resampling_matrix(64, 29, Filter::kLanczos, true);
    const Dense tall = resampling_matrix(64, 150, Filter::kCubic, true);
    for (const Dense* vertical : {&rows, &tall}) {
        const Table row_table = table_of(*vertical), column_table = table_of(columns);
        std::vector<float> first;
        for (const int64_t batch : {1, 3, 9})
            for (const int multiprocessors : {1, 16, 132})
                for (const int64_t offset : {0, 1}) {
                    Case k{batch, 1, 64, 64};
                    k.offset = offset;
                    Image<float> image = make_image<float>(k);
                    for (int64_t b = 0; b < batch; ++b)
                        for (int64_t i = 0; i < 64 * 64; ++i)
                            image.origin[b * 64 * 64 + i] = static_cast<float>(std::sin(0.37 * static_cast<double>(i)));
                    const Plan plan = plan_for(image, k, row_table, column_table, multiprocessors);
                    const std::vector<float> out = run_plan(plan, image, false);
                    const size_t plane = out.size() / batch;
                    if (first.empty()) first.assign(out.begin(), out.begin() + static_cast<int64_t>(plane));
                    for (int64_t b = 0; b < batch; ++b) {
                        ++checks;
                        if (std::memcmp(first.data(), out.data() + b * static_cast<int64_t>(plane),
                                        plane * sizeof(float)) == 0)
                            continue;
                        std::printf("tiling: batch %lld, multiprocessors %d, offset %lld: other bits\n",
                                    static_cast<long long>(batch), multiprocessors, static_cast<long long>(offset));
                        ++failures;
                    }
                }
    }
}

// An infinite or NaN pixel reaches exactly the outputs whose bands contain it.
void test_infinity() {
    for (const auto& [height, width] : {std::pair<int64_t, int64_t>{24, 40}, {9, 13}}) {
        for (const Filter filter : {Filter::kTriangle, Filter::kCubic, Filter::kLanczos}) {
            const Dense rows = resampling_matrix(16, height, filter, true),
                        columns = resampling_matrix(20, width, filter, true);
            for (const Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
                const Case k{1, 3, 16, 20, layout};
                Image<float> image = make_image<float>(k);
                std::fill(image.memory.begin(), image.memory.end(), 1.0f);
                image.origin[image.at(0, 1, 7, 9)] = std::numeric_limits<float>::infinity();
                image.origin[image.at(0, 1, 0, 19)] = std::numeric_limits<float>::quiet_NaN();
                const Plan plan = plan_for(image, k, table_of(rows), table_of(columns), 132);
                const std::vector<float> out = run_plan(plan, image, false);
                for (int64_t c = 0; c < 3; ++c)
                    for (int64_t y = 0; y < height; ++y)
                        for (int64_t x = 0; x < width; ++x) {
                            const int64_t where =
                                layout == Layout::kNHWC ? (y * width + x) * 3 + c : (c * height + y) * width + x;
                            const bool touched = c == 1 && ((rows.at(y, 7) != 0.0 && columns.at(x, 9) != 0.0) ||
                                                            (rows.at(y, 0) != 0.0 && columns.at(x, 19) != 0.0));
                            ++checks;
                            if (std::isfinite(out[where]) != touched) continue;
                            std::printf("infinity: channel %lld, output %lld,%lld is %g\n", static_cast<long long>(c),
                                        static_cast<long long>(y), static_cast<long long>(x), out[where]);
                            ++failures;
                        }
            }
        }
    }
}

// Requests that the planner must refuse.
void test_refusals() {
    const Case k{1, 1, 4, 4};
    const Image<float> image = make_image<float>(k);
    const Table good = table_of(resampling_matrix(4, 3, Filter::kTriangle, true));
    const auto refused = [&](const char* what, const Table& rows, const char* expected) {
        ++checks;
        try {
            plan_for(image, k, rows, good, 1);
        } catch (const std::exception& e) {
            if (std::string(e.what()).find(expected) != std::string::npos) return;
            std::printf("%s: said \"%s\", expected \"%s\"\n", what, e.what(), expected);
            ++failures;
            return;
        }
        std::printf("%s: accepted\n", what);
        ++failures;
    };
    Table bad = good;
    bad.start[2] = 4;
    refused("start beyond the input", bad, "row 2 reads inputs 4");
    bad = good;
    bad.start[0] = -1;
    refused("negative start", bad, "row 0 reads inputs -1");
    bad = good;
    bad.offset[2] = bad.offset[1] - 1;
    refused("decreasing offset", bad, "offset decreases at row 1");
    bad = good;
    bad.in_size = 0;
    refused("empty axis", bad, "rows.in_size is 0");
    bad = good;
    bad.offset[0] = 1;
    refused("offset not from zero", bad, "offset[0] is 1");
}

// Share of the time of the busiest multiprocessor's waves that the blocks of all of them need. 16 warps are at full
// rate.
double busy_share(const Plan& plan, int multiprocessors) {
    const int64_t busiest = (plan.shape.blocks + multiprocessors - 1) / multiprocessors;
    const int64_t last = busiest % plan.resident;
    double turns = static_cast<double>(busiest - last);
    if (last > 0) turns += std::max(static_cast<double>(last), 16.0 * 32.0 / plan.shape.threads);
    return static_cast<double>(plan.shape.blocks) / multiprocessors / turns;
}

// Where there is work for every multiprocessor many times over, no poor last wave: 768 blocks at five a multiprocessor
// of 132 (5 and then 1) would have 0.65.
void check_waves(const Plan& plan, const PlanRequest& request) {
    const PlanShape& p = plan.shape;
    if (p.dtype == DType::kFloat64 || p.planes * p.channels != 192 || p.in_height == p.out_height) return;
    const double share = busy_share(plan, request.multiprocessors);
    ++checks;
    if (share >= 0.85) return;
    std::printf("plan of %lld planes, %lld channels, %lld -> %lld, dtype %d: %lld blocks, %lld resident, busy %g\n",
                static_cast<long long>(p.planes), static_cast<long long>(p.channels),
                static_cast<long long>(p.in_height), static_cast<long long>(p.out_height), static_cast<int>(p.dtype),
                static_cast<long long>(p.blocks), static_cast<long long>(plan.resident), share);
    ++failures;
}

// Plans of images too large to run here: limits kept, every output covered, indices in 64 bits.
void test_plans() {
    struct Size {
        int64_t planes, channels, in, out;
    };
    for (const Size& z : {Size{192, 1, 448, 224},
                          {64, 3, 448, 224},
                          {192, 1, 2048, 224},
                          {64, 3, 224, 448},
                          {1, 1, 1, 1},
                          {1, 3, 30000, 224},
                          {1, 3, 224, 30000},
                          {1, 64, 640, 7},
                          {int64_t{1} << 33, 1, 32, 16}}) {
        for (const Filter filter : {Filter::kTriangle, Filter::kLanczos}) {
            if (z.in * z.out > 1000000 && filter == Filter::kLanczos) continue;
            const Table table = table_of(resampling_matrix(z.in, z.out, filter, true));
            for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kUInt8}) {
                PlanRequest request{};
                request.rows = request.columns = {table.in_size, static_cast<int64_t>(table.start.size()),
                                                  table.start.data(), table.offset.data(), table.weight.data()};
                request.dtype = dtype;
                request.planes = z.planes;
                request.channels = z.channels;
                request.vectors = z.in * z.channels % 8 == 0;
                request.multiprocessors = 132;
                request.shared_memory = 227 * 1024;
                const Plan plan = make_plan(request);
                const PlanShape& p = plan.shape;
                check_waves(plan, request);
                const bool good =
                    p.shared_bytes <= kSharedLimit && p.threads % 32 == 0 && p.threads >= 32 && p.threads <= kThreads &&
                    int64_t{p.tiles} * p.tile_columns >= z.out && int64_t{p.tiles - 1} * p.tile_columns < z.out &&
                    int64_t{p.strips} * p.strip_rows >= z.out && p.channel_groups * p.group_channels == z.channels &&
                    p.plane_groups * p.group_planes >= z.planes && (p.plane_groups - 1) * p.group_planes < z.planes &&
                    p.blocks == p.plane_groups * p.tiles * p.strips * p.channel_groups &&
                    p.group_planes * p.plane_elements <= row_capacity(dtype, p.vectors != 0) &&
                    p.group_planes * p.plane_elements <= p.threads * vector_length(dtype, p.vectors != 0);
                ++checks;
                if (good) continue;
                std::printf("plan of %lld planes, %lld channels, %lld -> %lld, dtype %d breaks a limit\n",
                            static_cast<long long>(z.planes), static_cast<long long>(z.channels),
                            static_cast<long long>(z.in), static_cast<long long>(z.out), static_cast<int>(dtype));
                ++failures;
            }
        }
    }
}

struct Group {
    const char* name;
    void (*run)();
};
constexpr Group kGroups[] = {{"filters", test_filters},   {"strides", test_strides}, {"sizes", test_sizes},
                             {"tables", test_tables},     {"tiling", test_tiling},   {"infinity", test_infinity},
                             {"refusals", test_refusals}, {"plans", test_plans}};

}  // namespace

int main(int argc, char** argv) {
    const std::string wanted = argc > 1 ? argv[1] : "";
    for (const Group& group : kGroups)
        if (wanted == group.name) {
            group.run();
            std::printf("%s: %d checks, %d failures\n", group.name, checks, failures);
            return failures == 0 && checks > 0 ? 0 : 1;
        }
    std::printf("usage: test_resample filters|strides|sizes|tables|tiling|infinity|refusals|plans\n");
    return 2;
}
