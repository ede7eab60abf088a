// The resample kernel, its source compiled for the host and run on fibers, against dense float64 matrices.
// Usage: test_resample GROUP; each group is one ctest.

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "resample_check.h"

namespace {

using namespace learned_resizer;
using namespace learned_resizer::test;
using Filter = learned_resizer::test::Filter;

// k: the image that is resized to height x width, in the adjoint the gradient of a result that came from there.
template <class T>
void check_all_ways(const Case& k, int64_t height, int64_t width, Filter filter, bool antialias) {
    check<T>("resized", k, {k.height, height, filter, antialias}, {k.width, width, filter, antialias}, false);
    check<T>("resized", k, {height, k.height, filter, antialias}, {width, k.width, filter, antialias}, true);
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
        const Spec rows{301, 97, Filter::kLanczos, true}, columns{24, 10, Filter::kLanczos, true};
        check<float>("chunks", {1, 2, 301, 24}, rows, columns, false, multiprocessors);
        check<float>("chunks", {1, 2, 97, 10}, rows, columns, true, multiprocessors);
    }
}

// Parts of images: places within a crop, and in the adjoint crops of larger images, mirrored or not.
void test_regions() {
    for_each_dtype([](auto zero) {
        using T = decltype(zero);
        for (const Layout layout : {Layout::kNCHW, Layout::kNHWC})
            for (const bool antialias : {true, false})
                for (const bool mirrored : {false, true}) {
                    const Spec shrunk{21, 9, Filter::kCubic, antialias, 0.25, 20.5, 3, 30};
                    const Spec enlarged{13, 40, Filter::kLanczos, antialias, 0.75, 12.0, 0, 14};
                    check<T>("region", {2, 3, 21, 13, layout}, shrunk, enlarged, false);
                    check<T>("region", {2, 3, 13, 21, layout}, enlarged, shrunk, false);
                    check<T>("region", {2, 3, 9, 40, layout}, shrunk, enlarged, true, 132, mirrored);
                    check<T>("region", {2, 3, 40, 9, layout}, enlarged, shrunk, true, 132, mirrored);
                }
    });
}

// Lists of images: each has the bits that it has alone.
template <class T>
void check_list(unsigned seed, bool adjoint) {
    std::mt19937 random(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(random() % static_cast<unsigned>(n)); };
    const Filter filter = std::vector<Filter>{Filter::kTriangle, Filter::kCubic, Filter::kLanczos}[below(3)];
    const bool antialias = below(4) > 0, interleaved = below(2) == 0;
    const int64_t height = 1 + below(30), width = 1 + below(30), channels = 1 + below(4);
    const auto axis = [&](int64_t out) {
        Spec spec{1 + below(below(2) == 0 ? 6 : 70), out, filter, antialias};
        if (below(2) == 0) {
            spec.offset = 0.5 * static_cast<double>(below(2));
            spec.extent = static_cast<double>(spec.in) - spec.offset - (spec.in > 1 ? 0.25 : 0.0);
        }
        spec.lead = below(3), spec.whole = spec.lead + spec.in + below(3);
        return spec;
    };
    std::vector<Setup<T>> setups;
    std::vector<Case> cases;
    for (int64_t count = 2 + below(6); count > 0; --count) {
        Setup<T> s;
        s.rows = axis(height), s.columns = axis(width);
        s.adjoint = adjoint, s.mirrored = adjoint && below(3) == 0;
        Case k{1 + below(2), channels, adjoint ? height : s.rows.in, adjoint ? width : s.columns.in,
               interleaved ? Layout::kNHWC : Layout::kNCHW};
        k.offset = below(2), k.flipped = below(3) == 0;
        s.image = random_image<T>(k, seed + static_cast<unsigned>(count));
        setups.push_back(std::move(s)), cases.push_back(k);
    }
    const ResamplePlan plan = plan_for(setups, 132);
    const auto out = run_plan(plan, setups, false), again = run_plan(plan, setups, true, 3);
    for (size_t i = 0; i < setups.size(); ++i) {
        const std::vector<Setup<T>> alone{setups[i]};
        const ResamplePlan own = plan_for(alone, 16);
        const std::string name = describe("list", cases[i], setups[i], own) + " seed " + std::to_string(seed);
        compare(name, cases[i], setups[i], out[i]);
        const bool same = same_bits(out[i], again[i]) && same_bits(out[i], run_plan(own, alone, false)[0]);
        ++checks;
        if (same) continue;
        std::printf("%s: other bits alone, or with the threads in another order\n", name.c_str());
        ++failures;
    }
}
void test_lists() {
    for_each_dtype([](auto zero) {
        for (unsigned seed = 0; seed < 4; ++seed)
            for (const bool adjoint : {false, true}) check_list<decltype(zero)>(seed, adjoint);
    });
}

// The result must not depend on how the work is cut: batch, multiprocessors and alignment change only the tiling.
void test_tiling() {
    const Spec columns{64, 29, Filter::kLanczos, true};
    for (const Spec& vertical : {Spec{64, 27, Filter::kLanczos, true}, Spec{64, 150, Filter::kCubic, true}}) {
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
                    const auto setups = one_setup(Setup<float>{std::move(image), vertical, columns});
                    const std::vector<float> out = run_plan(plan_for(setups, multiprocessors), setups, false)[0];
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
            const Spec row_spec{16, height, filter, true}, column_spec{20, width, filter, true};
            const Dense rows = row_spec.matrix(false), columns = column_spec.matrix(false);
            for (const Layout layout : {Layout::kNCHW, Layout::kNHWC}) {
                const Case k{1, 3, 16, 20, layout};
                auto setups = one_setup(Setup<float>{make_image<float>(k), row_spec, column_spec});
                Image<float>& image = setups[0].image;
                std::fill(image.memory.begin(), image.memory.end(), 1.0f);
                image.origin[image.at(0, 1, 7, 9)] = std::numeric_limits<float>::infinity();
                image.origin[image.at(0, 1, 0, 19)] = std::numeric_limits<float>::quiet_NaN();
                const std::vector<float> out = run_plan(plan_for(setups, 132), setups, false)[0];
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

ResamplePlanRequest request_for(int64_t images, int64_t channels, bool interleaved, int64_t in, int64_t out,
                                learned_resizer::Filter filter, DType dtype) {
    ResamplePlanTensor t{};
    t.images = images, t.channels = channels, t.interleaved = interleaved;
    t.vectors = in * (interleaved ? channels : 1) % 8 == 0;
    t.rows = t.columns = make_axis(static_cast<int32_t>(in), static_cast<int32_t>(out), filter, true);
    ResamplePlanRequest request{};
    request.tensors = {t};
    request.dtype = request.out_dtype = dtype;
    request.multiprocessors = 132;
    request.shared_memory = 227 * 1024;
    return request;
}

// Requests that the planner must refuse.
void test_refusals() {
    const auto refused = [&](const char* expected, const auto& change) {
        ResamplePlanRequest request =
            request_for(1, 1, false, 4, 3, learned_resizer::Filter::kBilinear, DType::kFloat32);
        change(request);
        ++checks;
        try {
            make_resample_plan(request);
        } catch (const std::exception& e) {
            if (std::string(e.what()).find(expected) != std::string::npos) return;
            std::printf("said \"%s\", expected \"%s\"\n", e.what(), expected);
            ++failures;
            return;
        }
        std::printf("accepted, expected \"%s\"\n", expected);
        ++failures;
    };
    using Request = ResamplePlanRequest;
    refused("got no images", [](Request& r) { r.tensors.clear(); });
    refused("images is 0", [](Request& r) { r.tensors[0].images = 0; });
    refused("channels is 0", [](Request& r) { r.tensors[0].channels = 0; });
    refused("an axis has 0 pixels", [](Request& r) { r.tensors[0].rows.in = 0; });
    refused("out_dtype is 2", [](Request& r) { r.out_dtype = DType::kFloat16; });
    refused("out_dtype is 0", [](Request& r) { r.dtype = DType::kUInt8, r.out_dtype = DType::kFloat64; });
    refused("a crop lies outside its image", [](Request& r) {
        r.transposed = true;
        r.tensors[0].out_height = r.tensors[0].out_width = 4, r.tensors[0].top = 1;
    });
}

// Share of the time of the busiest multiprocessor's waves that the blocks of all of them need. 16 warps are at full
// rate.
double busy_share(const ResamplePlan& plan, int multiprocessors) {
    const int64_t busiest = (plan.shape.blocks + multiprocessors - 1) / multiprocessors;
    const int64_t last = busiest % plan.resident;
    double turns = static_cast<double>(busiest - last);
    if (last > 0) turns += std::max(static_cast<double>(last), 16.0 * 32.0 / plan.shape.threads);
    return static_cast<double>(plan.shape.blocks) / multiprocessors / turns;
}

// Where there is work for every multiprocessor many times over, no poor last wave: 768 blocks at five a multiprocessor
// of 132 (5 and then 1) would have 0.65.
void check_waves(const ResamplePlan& plan, const ResamplePlanRequest& request) {
    const auto& t = request.tensors[0];
    if (request.dtype == DType::kFloat64 || t.images * t.channels != 192 || t.rows.in == t.rows.out) return;
    const double share = busy_share(plan, request.multiprocessors);
    ++checks;
    if (share >= 0.8) return;
    std::printf("plan of %lld images, %lld channels, %d -> %d, dtype %d: %lld blocks, %lld resident, busy %g\n",
                static_cast<long long>(t.images), static_cast<long long>(t.channels), t.rows.in, t.rows.out,
                static_cast<int>(request.dtype), static_cast<long long>(plan.shape.blocks),
                static_cast<long long>(plan.resident), share);
    ++failures;
}

// Plans of images too large to run here: limits kept, every output covered, indices in 64 bits.
void test_plans() {
    struct Size {
        int64_t images, channels;
        bool interleaved;
        int64_t in, out;
    };
    for (const Size& z : {Size{64, 3, false, 448, 224},
                          {64, 3, true, 448, 224},
                          {64, 3, false, 2048, 224},
                          {64, 3, true, 224, 448},
                          {1, 1, false, 1, 1},
                          {1, 3, true, 30000, 224},
                          {1, 3, true, 224, 30000},
                          {1, 64, true, 640, 7},
                          {int64_t{1} << 33, 1, false, 32, 16}}) {
        for (const auto filter : {learned_resizer::Filter::kBilinear, learned_resizer::Filter::kLanczos}) {
            for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kUInt8}) {
                const ResamplePlanRequest request =
                    request_for(z.images, z.channels, z.interleaved, z.in, z.out, filter, dtype);
                const ResamplePlan plan = make_resample_plan(request);
                const ResampleShape& p = plan.shape;
                const ResampleTensor& t = plan.tensors[0];
                check_waves(plan, request);
                const int64_t channels = z.interleaved ? z.channels : 1, planes = z.images * z.channels / channels;
                const bool good =
                    p.shared_bytes <= kSharedLimit && p.threads % 32 == 0 && p.threads >= 32 && p.threads <= kThreads &&
                    int64_t{t.tiles} * t.tile_columns >= z.out && int64_t{t.tiles - 1} * t.tile_columns < z.out &&
                    int64_t{t.strips} * t.strip_rows >= z.out && t.channel_groups * t.group_channels == channels &&
                    t.plane_groups * t.group_planes >= planes && (t.plane_groups - 1) * t.group_planes < planes &&
                    p.blocks == t.plane_groups * t.tiles * t.strips * t.channel_groups &&
                    t.group_planes * t.plane_elements <= row_capacity(dtype, p.vectors != 0) &&
                    t.group_planes * t.plane_elements <= p.threads * vector_length(dtype, p.vectors != 0);
                ++checks;
                if (good) continue;
                std::printf("plan of %lld images, %lld channels, %lld -> %lld, dtype %d breaks a limit\n",
                            static_cast<long long>(z.images), static_cast<long long>(z.channels),
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
constexpr Group kGroups[] = {{"filters", test_filters},   {"strides", test_strides},   {"sizes", test_sizes},
                             {"regions", test_regions},   {"lists", test_lists},       {"tiling", test_tiling},
                             {"infinity", test_infinity}, {"refusals", test_refusals}, {"plans", test_plans}};

}  // namespace

int main(int argc, char** argv) {
    const std::string wanted = argc > 1 ? argv[1] : "";
    for (const Group& group : kGroups)
        if (wanted == group.name) {
            group.run();
            std::printf("%s: %d checks, %d failures\n", group.name, checks, failures);
            return failures == 0 && checks > 0 ? 0 : 1;
        }
    std::printf("usage: test_resample filters|strides|sizes|regions|lists|tiling|infinity|refusals|plans\n");
    return 2;
}
