// The stem's forward kernel, run on the host, against float64 formulas. Usage: test_stem <group>

#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "stem/stem.cuh"
#include "stem_check.h"

namespace learned_resizer::test {
namespace {

template <Arithmetic M, int n>
StemPlanRequest request_of(std::vector<StemPlanTensor> tensors, int multiprocessors) {
    return {std::move(tensors),
            multiprocessors,
            {{kStemResident<M, n, 2>, kStemResident<M, n, kStemSlots>},
             {kStemBlockWarps<M, n, 2>, kStemBlockWarps<M, n, kStemSlots>},
             kStemMostFragments<M>,
             kStemParts<M>}};
}

void make_stem_tables(const StemPlanShape& plan, unsigned char* tables) {
    make_tables(plan.slots == 2 ? stem_tables_kernel<2> : stem_tables_kernel<kStemSlots>,
                StemTablesParams{plan, tables});
}

// Whether every strip and tile, with the last product's columns, is within its bounds.
template <Arithmetic M>
void check_plan(const StemPlan& plan, const unsigned char* tables, const std::string& name) {
    const auto* tensors = stem_table<StemTensor>(tables, plan.shape.tensor_table);
    const int window = kStemWarpColumns * plan.shape.warps;
    bool right = true;
    for (int i = 0; i < plan.shape.tensors; ++i) {
        const StemTensor& t = tensors[i];
        const Bands columns = stem_bands(tables, t.columns);
        for (int tile = 0; tile < t.tiles; ++tile) {
            const int outputs = static_cast<int>(plan.shape.out_width);
            const int first = tile * t.tile_outputs, last = std::min(first + t.tile_outputs, outputs);
            const int begin = tile == 0 ? 0 : columns.begin[first];
            const int own_end = last == outputs ? t.columns.in : columns.begin[last];
            right &= first < last && std::max(columns.end[last - 1], own_end) - begin <= window * t.pieces;
            for (int o = first; o < last && t.pieces == 1; o += 16)
                right &= columns.end[std::min(o + 16, last) - 1] - columns.begin[o] <= 16 * t.steps;
        }
        right &= (t.tile_outputs + 15) / 16 * t.steps * kStemParts<M> <= plan.shape.fragments &&
                 plan.shape.fragments <= kStemMostFragments<M> && 16 * t.steps <= window &&
                 t.tile_outputs * t.tiles >= plan.shape.out_width &&
                 t.strip_outputs * t.strips >= plan.shape.out_height;
    }
    if (right) return;
    std::printf("%s: the plan exceeds its bounds\n", name.c_str());
    ++failures;
}

template <Arithmetic M, int n>
void check_filters(const StemCase& k) {
    StemData<M, n> data(k);
    const int filters = data.filters;
    const StemPlan plan =
        make_stem_plan(request_of<M, n>({plan_tensor(k, data.rows, data.columns)}, k.multiprocessors));
    Tables tables(plan.tables, {&data.rows, &data.columns});
    make_stem_tables(plan.shape, tables.data());
    check_plan<M>(plan, tables.data(), data.name("plan"));

    std::vector<double> a, c, exact(k.batch * k.out_height * k.out_width * n);
    data.features(a, c, false);
    for (int64_t b = 0; b < k.batch; ++b)
        for (int64_t y = 0; y < k.out_height; ++y)
            for (int64_t x = 0; x < k.out_width; ++x)
                for (int64_t i = 0; i < k.height; ++i) {
                    if (data.rows.at(y, i) == 0.0) continue;
                    for (int64_t j = 0; j < k.width; ++j) {
                        const double weight = data.rows.at(y, i) * data.columns.at(x, j);
                        if (weight == 0.0) continue;
                        for (int f = 0; f < n; ++f)
                            exact[((b * k.out_height + y) * k.out_width + x) * n + f] +=
                                weight * c[((b * k.height + i) * k.width + j) * n + f];
                    }
                }

    // With one block per item, and with the threads in the other order and two blocks for all items.
    std::vector<float> z[2];
    std::vector<double> mean, var;
    for (int turn = 0; turn < 2; ++turn) {
        StemParams p = data.params;
        p.plan = plan.shape;
        p.plan.blocks = turn == 0 ? plan.shape.items : std::min<int64_t>(plan.shape.items, 2);
        p.tables = tables.data();
        std::vector<uint16_t> z16(exact.size(), 0xFFFF);
        std::vector<float> partials(p.plan.blocks * 3 * filters, std::nanf(""));
        z[turn].assign(exact.size(), std::nanf(""));
        p.z = kIs16Bit<M> ? static_cast<void*>(z16.data()) : z[turn].data();
        p.partials = k.statistics ? partials.data() : nullptr;
        with_stem_kernel(p.plan, M, filters, [&](auto kernel, int shared_bytes) {
            host::run({p.plan.blocks, 32 * p.plan.warps, static_cast<size_t>(shared_bytes), turn == 1},
                      [&] { kernel(p); });
        });
        if constexpr (kIs16Bit<M>)
            for (size_t i = 0; i < z16.size(); ++i) z[turn][i] = Fragments<M>::decode(z16[i]);
        if (!k.statistics) continue;
        mean.assign(n, 0.0), var.assign(n, 0.0);
        for (int f = 0; f < filters; ++f) {
            double count = 0.0, m2 = 0.0;
            for (int64_t block = 0; block < p.plan.blocks; ++block) {
                const float* of = &partials[block * 3 * filters + f];
                const double total = count + of[0], delta = of[filters] - mean[f];
                if (total == 0.0) continue;
                m2 += of[2 * filters] + delta * delta * count * of[0] / total;
                mean[f] += delta * of[0] / total;
                count = total;
            }
            if (count != static_cast<double>(data.pixels())) {
                std::printf("%s: %g pixels counted, %lld exist\n", data.name("count").c_str(), count,
                            static_cast<long long>(data.pixels()));
                ++failures;
            }
            var[f] = m2 / count;
        }
    }
    if (std::memcmp(z[0].data(), z[1].data(), z[0].size() * sizeof(float)) != 0) {
        std::printf("%s: depends on the order of the threads or the number of blocks\n", data.name("z").c_str());
        ++failures;
    }
    // Rounded once each: the image and both weights (which the formulas share), a, the rows of c after R_h, and z.
    // Each error is at most a unit, and R_w's norm at most about 1. Three independent ones are below two units in norm;
    // the sums of products of rounded operands stay below another.
    const double bound = 3 * unit_of(M);
    data.compare("z", std::vector<double>(z[0].begin(), z[0].end()), exact, bound);
    if (!k.statistics) return;
    std::vector<double> exact_mean(n), exact_var(n);
    for (int64_t i = 0; i < data.pixels() * n; ++i) exact_mean[i % n] += c[i] / data.pixels();
    for (int64_t i = 0; i < data.pixels() * n; ++i)
        exact_var[i % n] += (c[i] - exact_mean[i % n]) * (c[i] - exact_mean[i % n]) / data.pixels();
    data.compare("mean", mean, exact_mean, bound);
    // Twice the relative error of the deviations.
    if (data.pixels() > 1) data.compare("var", var, exact_var, 2 * bound);
}

template <Arithmetic M>
void check_arithmetic(const StemCase& k) {
    check_filters<M, 16>(k);
    check_filters<M, 32>(k);
}
void check(const StemCase& k) {
    check_arithmetic<Arithmetic::kBFloat16>(k);
    check_arithmetic<Arithmetic::kFloat16>(k);
    check_arithmetic<Arithmetic::kTF32>(k);
    check_arithmetic<Arithmetic::kFloat32>(k);
}

void test_filters() {
    for (const Filter filter : {Filter::kTriangle, Filter::kCubic, Filter::kLanczos})
        for (const bool antialias : {true, false}) {
            if (filter == Filter::kLanczos && !antialias) continue;  // one and the same when enlarging; below otherwise
            // Two slots and six, folding and gathering, in every instance; the tables between them in two.
            const bool every = antialias && filter != Filter::kCubic;
            const auto run = [&](const StemCase& k) {
                if (every) return check(k);
                check_filters<Arithmetic::kBFloat16, 16>(k);
                check_filters<Arithmetic::kFloat32, 32>(k);
            };
            StemCase k;
            k.filter = filter, k.antialias = antialias;
            k.height = 13, k.width = 21, k.out_height = 6, k.out_width = 10;
            run(k);
            k.height = 5, k.width = 7, k.out_height = 11, k.out_width = 15;
            run(k);
        }
    StemCase k;
    k.filter = Filter::kLanczos, k.antialias = false;
    k.height = 19, k.width = 20, k.out_height = 6, k.out_width = 7;
    check_filters<Arithmetic::kBFloat16, 16>(k);
}

void test_images() {
    for (const int channels : {1, 3, 4})
        for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kUInt8})
            for (const Layout layout : {Layout::kNCHW, Layout::kNHWC, Layout::kPadded}) {
                if (layout == Layout::kPadded && channels != 3) continue;
                StemCase k;
                k.batch = 2, k.channels = channels, k.image = dtype, k.layout = layout;
                k.height = 5, k.width = 9, k.out_height = 3, k.out_width = 4;
                check_filters<Arithmetic::kBFloat16, 16>(k);
                if (layout == Layout::kNCHW) check_filters<Arithmetic::kFloat32, 16>(k);
            }
}

// Channels that are only padding, and parameters in other dtypes.
void test_num_filters() {
    StemCase k;
    k.batch = 2, k.height = 12, k.width = 17, k.out_height = 7, k.out_width = 9;
    for (const int filters : {1, 5, 24}) {
        k.filters = filters;
        k.parameters = filters % 2 == 0 ? DType::kFloat16 : DType::kBFloat16;
        k.image = filters == 5 ? DType::kUInt8 : DType::kFloat32;
        filters <= 16 ? check_filters<Arithmetic::kBFloat16, 16>(k) : check_filters<Arithmetic::kBFloat16, 32>(k);
        filters <= 16 ? check_filters<Arithmetic::kFloat32, 16>(k) : check_filters<Arithmetic::kFloat32, 32>(k);
    }
}

void test_sizes() {
    struct Sizes {
        int64_t height, width, out_height, out_width;
        Filter filter;
        bool antialias;
    };
    // One pixel; one row, one column; a width of several tiles; ratios whose columns exceed a block; the size kept;
    // both directions at once; strips where more rows than slots meet.
    for (const Sizes& s :
         {Sizes{1, 1, 1, 1, Filter::kTriangle, true}, Sizes{1, 1, 3, 4, Filter::kCubic, true},
          Sizes{1, 300, 1, 150, Filter::kTriangle, true}, Sizes{31, 1, 9, 1, Filter::kLanczos, true},
          Sizes{1, 400, 1, 2, Filter::kTriangle, true}, Sizes{2, 300, 1, 1, Filter::kTriangle, false},
          Sizes{7, 9, 7, 9, Filter::kCubic, true}, Sizes{8, 40, 20, 13, Filter::kLanczos, true},
          Sizes{14, 17, 13, 16, Filter::kLanczos, true}, Sizes{23, 19, 3, 4, Filter::kTriangle, false}}) {
        StemCase k;
        k.height = s.height, k.width = s.width, k.out_height = s.out_height, k.out_width = s.out_width;
        k.filter = s.filter, k.antialias = s.antialias;
        check_filters<Arithmetic::kBFloat16, 16>(k);
        check_filters<Arithmetic::kFloat32, 32>(k);
    }
}

// A mean of a thousand standard deviations: sums of squares would lose every digit.
void test_statistics() {
    LaneMoments<4> unused;
    (void)unused;
    std::mt19937 random(3);
    std::normal_distribution<float> normal(1000.0f, 1.0f);
    std::vector<float> values(64 * 6 * 16 * 4);
    for (auto& v : values) v = normal(random);
    std::vector<float> partial(3 * 16);
    host::run({1, 64, 2 * 3 * 16 * sizeof(float), false}, [&] {
        LaneMoments<4> moments;
        for (int step = 0; step < 16; ++step) {
            bool valid[6];
            for (int r = 0; r < 6; ++r) valid[r] = (step + r + thread_index()) % 5 != 0;
            moments.add<6>(valid, [&](int r, int i) { return values[((step * 64 + thread_index()) * 6 + r) * 4 + i]; });
        }
        store_moments(moments, reinterpret_cast<float*>(dynamic_shared()), partial.data());
    });
    for (int channel = 0; channel < 16; ++channel) {
        double count = 0.0, mean = 0.0, m2 = 0.0;
        for (int pass = 0; pass < 2; ++pass) {
            for (int step = 0; step < 16; ++step)
                for (int thread = 0; thread < 64; ++thread)
                    for (int r = 0; r < 6; ++r)
                        for (int i = 0; i < 4; ++i) {
                            if ((step + r + thread) % 5 == 0 || 8 * (i / 2) + 2 * (thread % 4) + i % 2 != channel)
                                continue;
                            const double v = values[((step * 64 + thread) * 6 + r) * 4 + i];
                            if (pass == 0)
                                count += 1.0, mean += v;
                            else
                                m2 += (v - mean) * (v - mean);
                        }
            if (pass == 0) mean /= count;
        }
        // The mean to a few of its own roundings (2^-24 of 1000); M2 through deviations from means that wrong.
        const bool right = partial[channel] == static_cast<float>(count) &&
                           std::fabs(partial[16 + channel] - mean) < 5e-4 &&
                           std::fabs(partial[32 + channel] / m2 - 1.0) < 1e-3;
        if (!right) {
            std::printf("channel %d: count %g of %g, mean %g of %g, M2 %g of %g\n", channel, partial[channel], count,
                        partial[16 + channel], mean, partial[32 + channel], m2);
            ++failures;
        }
    }
}

// Images of several sizes, with parts of them, mirrored, and in groups: each z bit for bit as alone, and the statistics
// those of all pixels.
template <Arithmetic M, int n>
void check_list(const std::vector<StemCase>& cases) {
    std::vector<std::unique_ptr<StemData<M, n>>> data;
    std::vector<StemPlanTensor> tensors;
    std::vector<const Dense*> axes;
    std::vector<StemImage> images;
    for (const StemCase& k : cases) {
        data.push_back(std::make_unique<StemData<M, n>>(k));
        // One network for all.
        data.back()->params.weights = data[0]->params.weights;
        data.back()->params.format = data[0]->params.format;
        tensors.push_back(plan_tensor(k, data.back()->rows, data.back()->columns));
        axes.push_back(&data.back()->rows), axes.push_back(&data.back()->columns);
        images.push_back(data.back()->params.image);
    }
    using S = typename Fragments<M>::S;
    const int64_t outputs = cases[0].out_height * cases[0].out_width * n;
    struct Result {
        std::vector<S> z;
        double count = 0.0, mean = 0.0;  // of the first filter
    };
    const auto run = [&](size_t first, size_t last, int multiprocessors) {
        const std::vector<StemPlanTensor> some(tensors.begin() + first, tensors.begin() + last);
        const StemPlan plan = make_stem_plan(request_of<M, n>(some, multiprocessors));
        Tables tables(plan.tables, {axes.begin() + 2 * first, axes.begin() + 2 * last});
        make_stem_tables(plan.shape, tables.data());
        check_plan<M>(plan, tables.data(), data[first]->name("plan of a list"));
        StemParams p = data[0]->params;
        p.plan = plan.shape, p.tables = tables.data();
        p.image = images[first];
        p.images = last - first == 1 ? nullptr : &images[first];
        int64_t batch = 0;
        for (const StemPlanTensor& t : some) batch += t.batch;
        Result result;
        result.z.assign(batch * outputs, S(-1));
        std::vector<float> partials(p.plan.blocks * 3 * n, std::nanf(""));
        p.z = result.z.data(), p.partials = partials.data();
        with_stem_kernel(p.plan, M, n, [&](auto kernel, int shared_bytes) {
            host::run({p.plan.blocks, 32 * p.plan.warps, static_cast<size_t>(shared_bytes), false}, [&] { kernel(p); });
        });
        for (int64_t block = 0; block < p.plan.blocks; ++block) {
            result.count += partials[block * 3 * n];
            result.mean += double(partials[block * 3 * n]) * partials[block * 3 * n + n];
        }
        return result;
    };
    const Result all = run(0, cases.size(), 3);
    double count = 0.0, mean = 0.0;
    int64_t at = 0;
    for (size_t i = 0; i < cases.size(); ++i) {
        const Result one = run(i, i + 1, 132);
        if (std::memcmp(one.z.data(), all.z.data() + at, one.z.size() * sizeof(S)) != 0) {
            std::printf("%s: differs beside other images\n", data[i]->name("z").c_str());
            ++failures;
        }
        at += static_cast<int64_t>(one.z.size());
        count += one.count, mean += one.mean;
    }
    // Sums of float32 in other orders.
    if (all.count != count || std::fabs(all.mean - mean) > 1e-5 * count) {
        std::printf("%s: %g pixels of %g, sums %g and %g\n", data[0]->name("list").c_str(), all.count, count, all.mean,
                    mean);
        ++failures;
    }
}

std::vector<StemCase> mixed_cases() {
    StemCase k;
    k.out_height = 7, k.out_width = 9;
    const auto add = [&](int64_t batch, int64_t height, int64_t width, Extent rows, Extent columns, Layout layout) {
        StemCase one = k;
        one.batch = batch, one.height = height, one.width = width, one.rows = rows, one.columns = columns;
        one.layout = layout;
        return one;
    };
    return {add(1, 13, 21, {}, {}, Layout::kNCHW), add(2, 5, 9, {0.25, 4.5}, {}, Layout::kMirrored),
            add(1, 1, 1, {0.5, 0.25}, {0.125, 0.5}, Layout::kNHWC), add(1, 7, 9, {}, {}, Layout::kPadded),
            add(1, 24, 150, {0.3, 23.1}, {0.7, 148.9}, Layout::kMirrored)};
}

void test_lists() {
    for (const Filter filter : {Filter::kTriangle, Filter::kLanczos}) {
        std::vector<StemCase> cases = mixed_cases();
        for (StemCase& k : cases) k.filter = filter;
        check_list<Arithmetic::kBFloat16, 16>(cases);
        if (filter == Filter::kTriangle) check_list<Arithmetic::kFloat32, 32>(cases);
        // Against the formulas, with statistics.
        for (StemCase k : {cases[1], cases[2], cases[4]}) {
            check_filters<Arithmetic::kBFloat16, 16>(k);
            k.antialias = filter == Filter::kLanczos;
            check_filters<Arithmetic::kTF32, 16>(k);
        }
    }
}

// The bounds of plans hold for random sizes and parts of images; no kernel runs.
void test_plans() {
    std::mt19937 random(5);
    for (int turn = 0; turn < 400; ++turn) {
        StemCase k;
        const auto draw = [&](int most) { return static_cast<int64_t>(random() % most) + 1; };
        k.height = draw(300), k.width = draw(turn % 4 == 0 ? 2000 : 400);
        k.out_height = draw(60), k.out_width = draw(turn % 3 == 0 ? 500 : 60);
        k.filter = turn % 3 == 0 ? Filter::kTriangle : turn % 3 == 1 ? Filter::kCubic : Filter::kLanczos;
        k.antialias = random() % 4 != 0;
        const auto part = [&](int64_t pixels) {
            const double offset = random() % 1000 / 1000.0, rest = random() % 1000 / 1000.0;
            const double extent = static_cast<double>(pixels) - offset - rest;
            return random() % 2 == 0 || extent <= 0.01 ? Extent{} : Extent{offset, extent};
        };
        k.rows = part(k.height), k.columns = part(k.width);
        const Dense rows =
            resampling_matrix(k.height, k.out_height, k.filter, k.antialias, k.rows.offset, k.rows.extent);
        const Dense columns =
            resampling_matrix(k.width, k.out_width, k.filter, k.antialias, k.columns.offset, k.columns.extent);
        const auto each = [&](auto M) {
            const StemPlan plan = make_stem_plan(request_of<M, 16>({plan_tensor(k, rows, columns)}, 132));
            Tables tables(plan.tables, {&rows, &columns});
            char name[160];
            std::snprintf(name, sizeof(name), "%dx%d -> %dx%d filter %d antialias %d", int(k.height), int(k.width),
                          int(k.out_height), int(k.out_width), int(k.filter), k.antialias);
            check_plan<M>(plan, tables.data(), name);
        };
        each(std::integral_constant<Arithmetic, Arithmetic::kBFloat16>{});
        each(std::integral_constant<Arithmetic, Arithmetic::kTF32>{});
    }
}

void test_refusals() {
    Axis axis{};
    axis.scale = 1.0, axis.in = axis.out = axis.taps = 1, axis.filter = learned_resizer::Filter::kBilinear;
    Axis box = axis, empty = axis;
    box.filter = learned_resizer::Filter::kBox, empty.in = 0;
    const StemInstance kernel{{16, 12}, {8, 6}, 24, 2};
    struct Refusal {
        StemPlanRequest request;
        const char* text;
    };
    for (const Refusal& r : {Refusal{{{}, 1, kernel}, "no images"}, Refusal{{{{0, axis, axis}}, 1, kernel}, "batch"},
                             Refusal{{{{1, axis, axis}}, 0, kernel}, "multiprocessors"},
                             Refusal{{{{1, axis, box}}, 1, kernel}, "another filter"},
                             Refusal{{{{1, empty, axis}}, 1, kernel}, "without pixels"}}) {
        try {
            make_stem_plan(r.request);
            std::printf("not refused: %s\n", r.text);
            ++failures;
        } catch (const std::invalid_argument& error) {
            if (std::string(error.what()).find(r.text) == std::string::npos) {
                std::printf("refused with '%s', expected '%s'\n", error.what(), r.text);
                ++failures;
            }
        }
    }
}

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "filters") test_filters();
    if (group == "images") test_images();
    if (group == "num_filters") test_num_filters();
    if (group == "sizes") test_sizes();
    if (group == "lists") test_lists();
    if (group == "plans") test_plans();
    if (group == "statistics") test_statistics();
    if (group == "refusals") test_refusals();
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
