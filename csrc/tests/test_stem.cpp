// The stem's forward kernel, run on the host, against float64 formulas. Usage: test_stem <group>

#include <stdexcept>

#include "stem/stem.cuh"
#include "stem/stem_plan.h"
#include "stem_check.h"

namespace learned_resizer::test {
namespace {

template <Arithmetic M, int n>
void check_filters(const StemCase& k) {
    StemData<M, n> data(k);
    const int filters = data.filters;
    const Table rows = table_of(data.rows), columns = table_of(data.columns);
    StemPlanRequest request{};
    request.rows = {rows.in_size, k.out_height, rows.start.data(), rows.offset.data(), rows.weight.data()};
    request.columns = {columns.in_size, k.out_width, columns.start.data(), columns.offset.data(),
                       columns.weight.data()};
    request.batch = k.batch, request.multiprocessors = k.multiprocessors;
    request.kernel = {{kStemResident<M, n, 2>, kStemResident<M, n, kStemSlots>},
                      kStemBlockWarps<n>,
                      kStemMostFragments<M>,
                      kStemParts<M>};
    StemPlan plan = make_stem_plan(request);

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
        p.tables = plan.tables.data();
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

void test_refusals() {
    // Eight outputs that all read the same eight inputs.
    std::vector<int32_t> start(8, 0), offset;
    for (int i = 0; i <= 8; ++i) offset.push_back(8 * i);
    std::vector<double> weight(64, 0.125);
    const int32_t one[] = {0, 1}, zero[] = {0};
    const double unit[] = {1.0};
    const AxisTable dense{8, 8, start.data(), offset.data(), weight.data()}, single{1, 1, zero, one, unit};
    const int32_t none[] = {0, 0};
    const AxisTable empty{1, 1, zero, none, unit};
    struct Refusal {
        StemPlanRequest request;
        const char* text;
    };
    for (const Refusal& r : {Refusal{{dense, single, 1, 1, {{16, 12}, 8, 24, 2}}, "8 output rows are open"},
                             Refusal{{single, single, 0, 1, {{16, 12}, 8, 24, 2}}, "batch"},
                             Refusal{{empty, single, 1, 1, {{16, 12}, 8, 24, 2}}, "reads no input"}}) {
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
    if (group == "statistics") test_statistics();
    if (group == "refusals") test_refusals();
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
