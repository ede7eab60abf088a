// The stem's backward kernels, run on the host, against float64 formulas. Usage: test_stem_backward <group>

#include "stem/stem_backward.cuh"
#include "stem_check.h"

namespace learned_resizer::test {
namespace {

template <Arithmetic M, int n>
void check(const StemCase& k) {
    using F = Fragments<M>;
    using S = typename F::S;
    StemData<M, n> data(k);
    const int channels = k.channels, filters = data.filters;
    std::vector<S> dz(k.batch * k.out_height * k.out_width * n);
    for (auto& g : dz) g = F::encode(data.draw(0.1, 1.0));
    const auto grad_mean = data.draws(n, 0.0, 3.0), grad_var = data.draws(n, 0.0, 3.0);

    // The formulas.
    std::vector<double> a, c;
    data.features(a, c, true);
    const int64_t pixels = data.pixels();
    std::vector<double> mean(n, 0.0);
    for (int64_t i = 0; i < pixels * n; ++i) mean[i % n] += c[i] / static_cast<double>(pixels);
    const std::vector<float> mean32(mean.begin(), mean.end());
    std::vector<double> dc(pixels * n, 0.0), da(pixels * n, 0.0);
    for (int64_t b = 0; b < k.batch; ++b)
        for (int64_t i = 0; i < k.height; ++i)
            for (int64_t j = 0; j < k.width; ++j) {
                double* at = &dc[((b * k.height + i) * k.width + j) * n];
                for (int64_t y = 0; y < k.out_height; ++y)
                    for (int64_t x = 0; x < k.out_width; ++x) {
                        const double weight = data.rows.at(y, i) * data.columns.at(x, j);
                        if (weight == 0.0) continue;
                        for (int f = 0; f < n; ++f)
                            at[f] += weight * F::decode(dz[((b * k.out_height + y) * k.out_width + x) * n + f]);
                    }
            }
    std::vector<double> dw0(n * channels * 49), db0(n), dw1(n * n), db1(n), dx(data.x.size());
    for (int64_t i = 0; i < pixels * n; ++i) {
        const int f = static_cast<int>(i % n);
        if (k.statistics)
            dc[i] += grad_mean[f] / double(pixels) + 2.0 * (c[i] - mean[f]) / double(pixels) * grad_var[f];
        if (!(c[i] > 0)) dc[i] *= k.slope;
        db1[f] += dc[i];
        const double* at = &a[i / n * n];
        double* to = &da[i / n * n];
        for (int g = 0; g < n; ++g) {
            dw1[f * n + g] += dc[i] * at[g];
            to[g] += F::rounded(data.w1[f * n + g]) * dc[i];
        }
    }
    for (int64_t b = 0; b < k.batch; ++b)
        for (int64_t y = 0; y < k.height; ++y)
            for (int64_t x = 0; x < k.width; ++x)
                for (int f = 0; f < n; ++f) {
                    const int64_t at = ((b * k.height + y) * k.width + x) * n + f;
                    if (!(a[at] > 0)) da[at] *= k.slope;
                    db0[f] += da[at];
                    for (int dy = 0; dy < 7; ++dy)
                        for (int tap = 0; tap < 7; ++tap) {
                            const int64_t iy = y + dy - 3, ix = x + tap - 3;
                            if (iy < 0 || iy >= k.height || ix < 0 || ix >= k.width) continue;
                            for (int ch = 0; ch < channels; ++ch) {
                                const int64_t from = ((b * k.height + iy) * k.width + ix) * channels + ch;
                                const int w = ((f * channels + ch) * 7 + dy) * 7 + tap;
                                dw0[w] += da[at] * data.x[from];
                                dx[from] += F::rounded(data.w0[w]) * da[at];
                            }
                        }
                }

    StemBackwardParams p{};
    p.image = data.params.image, p.format = data.params.format, p.weights = data.params.weights;
    p.dz = dz.data();
    if (k.statistics) p.mean = mean32.data(), p.grad_mean = grad_mean.data(), p.grad_var = grad_var.data();
    p.count = pixels;
    // The image's gradient also for one multiprocessor.
    const auto plan = [&](int image_resident) {
        return make_stem_backward_plan(
            {plan_tensor(k, data.rows, data.columns)},
            {{kStemWarps, k.height % 2 == 0 ? 6 : 1, k.multiprocessors}, {k.width <= 26 ? 2 : 8, 1, image_resident}});
    };
    const auto run = [&](StemGradient gradient, bool reverse) {
        const int g = static_cast<int>(gradient);
        with_stem_backward_kernel(
            p.plan.warps[g], gradient, M, filters, channels, [&](auto kernel, const StemBackwardInstance& instance) {
                host::run({p.plan.blocks[g], 32 * p.plan.warps[g], static_cast<size_t>(instance.shared_bytes), reverse},
                          [&] { kernel(p); });
            });
    };

    // Operands rounded once: the image, the weights and a in c (shared with the formulas), a in dW1, dc' and da'. In
    // norm less than two units each.
    const double bound = 5 * unit_of(M);
    const int64_t elements = stem_gradient_elements(filters, channels);
    // With the device's number of blocks; then with the threads in the other order and the same blocks, bit for bit.
    std::vector<float> sums[2];
    for (int turn = 0; turn < 2; ++turn) {
        const StemBackwardPlan made = plan(k.multiprocessors);
        Tables tables(made.tables, {&data.rows, &data.columns});
        make_tables(stem_backward_tables_kernel, StemBackwardTablesParams{made.shape, tables.data()});
        p.plan = made.shape, p.tables = tables.data();
        std::vector<float> partials(p.plan.blocks[0] * elements, std::nanf(""));
        p.partials = partials.data();
        run(StemGradient::kWeights, turn == 1);
        sums[turn] = partials;
    }
    if (std::memcmp(sums[0].data(), sums[1].data(), sums[0].size() * sizeof(float)) != 0) {
        std::printf("%s: depends on the order of the threads\n", data.name("weights").c_str());
        ++failures;
    }
    std::vector<double> got(elements);
    for (size_t i = 0; i < sums[0].size(); ++i) got[i % elements] += sums[0][i];
    size_t at = 0;
    // The rows of the filters that there are, `columns` of `width` each.
    const auto part = [&](const char* what, const std::vector<double>& padded, int width, int columns) {
        std::vector<double> exact;
        for (int f = 0; f < filters; ++f)
            exact.insert(exact.end(), padded.begin() + f * width, padded.begin() + f * width + columns);
        data.compare(what, std::vector<double>(got.begin() + at, got.begin() + at + exact.size()), exact, bound);
        at += exact.size();
    };
    part("dW0", dw0, channels * 49, channels * 49), part("db0", db0, 1, 1);
    part("dW1", dw1, n, filters), part("db1", db1, 1, 1);

    if (k.image == DType::kUInt8) return;
    std::vector<float> wide[2];
    for (int turn = 0; turn < 2; ++turn) {
        const StemBackwardPlan made = plan(turn == 0 ? k.multiprocessors : 1);
        Tables tables(made.tables, {&data.rows, &data.columns});
        make_tables(stem_backward_tables_kernel, StemBackwardTablesParams{made.shape, tables.data()});
        p.plan = made.shape, p.tables = tables.data();
        std::vector<float> out(dx.size(), std::nanf(""));
        std::vector<uint16_t> narrow(dx.size(), 0xFFFF);
        p.grad = {k.image == DType::kFloat32 ? static_cast<void*>(out.data()) : narrow.data(),
                  {k.height * k.width * channels, 1, k.width * channels, channels}};
        run(StemGradient::kImage, turn == 1);
        if (k.image == DType::kFloat16)
            for (size_t i = 0; i < out.size(); ++i) out[i] = half_to_float(narrow[i]);
        if (k.image == DType::kBFloat16)
            for (size_t i = 0; i < out.size(); ++i) out[i] = float_from_bits(static_cast<uint32_t>(narrow[i]) << 16);
        wide[turn] = out;
    }
    if (std::memcmp(wide[0].data(), wide[1].data(), wide[0].size() * sizeof(float)) != 0) {
        std::printf("%s: depends on the order of the threads or the number of blocks\n", data.name("dx").c_str());
        ++failures;
    }
    data.compare("dx", std::vector<double>(wide[0].begin(), wide[0].end()), dx,
                 bound + (k.image == DType::kBFloat16  ? 1.0 / 512
                          : k.image == DType::kFloat16 ? 1.0 / 4096
                                                       : 0.0));
}

StemCase base_case() {
    StemCase k;
    k.batch = 2, k.height = 11, k.width = 19, k.out_height = 5, k.out_width = 9;
    return k;
}

void test_arithmetic() {
    StemCase k = base_case();
    check<Arithmetic::kBFloat16, 16>(k);
    check<Arithmetic::kFloat16, 16>(k);
    check<Arithmetic::kTF32, 16>(k);
    check<Arithmetic::kFloat32, 16>(k);
    k.batch = 1, k.channels = 4, k.image = DType::kBFloat16, k.multiprocessors = 2;
    check<Arithmetic::kBFloat16, 32>(k);
    check<Arithmetic::kFloat16, 32>(k);
    check<Arithmetic::kTF32, 32>(k);
    check<Arithmetic::kFloat32, 32>(k);
}

void test_filters() {
    for (const Filter filter : {Filter::kTriangle, Filter::kCubic, Filter::kLanczos})
        for (const bool antialias : {true, false}) {
            StemCase k = base_case();
            k.batch = 1, k.filter = filter, k.antialias = antialias, k.statistics = antialias;
            k.channels = antialias ? 3 : 1;
            k.layout = antialias ? Layout::kNHWC : Layout::kPadded;
            check<Arithmetic::kFloat32, 16>(k);
            k.height = 6, k.width = 7, k.out_height = 13, k.out_width = 15, k.slope = 0.1f;
            check<Arithmetic::kBFloat16, 16>(k);
        }
    // 16 columns read more than 16 outputs: in two steps of a product, and in five, with more rows than the ring holds.
    for (const bool enlarge : {false, true}) {
        StemCase k = base_case();
        k.batch = 1, k.filter = Filter::kLanczos, k.antialias = !enlarge, k.image = DType::kBFloat16;
        k.height = 6, k.width = 37, k.out_height = enlarge ? 15 : 5, k.out_width = enlarge ? 150 : 35;
        check<Arithmetic::kBFloat16, 16>(k);
        check<Arithmetic::kFloat16, 32>(k);
        check<Arithmetic::kTF32, 16>(k);
        check<Arithmetic::kFloat32, 16>(k);
    }
}

// Channels that are only padding, and parameters in other dtypes.
void test_num_filters() {
    StemCase k = base_case();
    for (const int filters : {1, 5, 24}) {
        k.filters = filters;
        k.parameters = filters % 2 == 0 ? DType::kFloat16 : DType::kBFloat16;
        // With one filter a bias' gradient is one sum, here 0.4 of terms whose norm is 3: dc' in 16 bits is off by
        // more.
        if (filters > 1) filters <= 16 ? check<Arithmetic::kFloat16, 16>(k) : check<Arithmetic::kFloat16, 32>(k);
        filters <= 16 ? check<Arithmetic::kFloat32, 16>(k) : check<Arithmetic::kFloat32, 32>(k);
    }
}

void test_sizes() {
    struct Sizes {
        int64_t height, width, out_height, out_width;
    };
    // One pixel; a row of several tiles; a column; pixels that no output reads.
    for (const Sizes& s : {Sizes{1, 1, 1, 1}, Sizes{1, 150, 2, 70}, Sizes{30, 1, 9, 1}, Sizes{12, 17, 2, 3}}) {
        StemCase k;
        k.height = s.height, k.width = s.width, k.out_height = s.out_height, k.out_width = s.out_width;
        k.antialias = s.out_height != 2 || s.height == 1;
        k.image = s.width == 17 ? DType::kUInt8 : DType::kFloat16;
        k.multiprocessors = 3;
        check<Arithmetic::kFloat16, 16>(k);
        check<Arithmetic::kFloat32, 32>(k);
    }
}

// The tables made of bands, against a transposed matrix.
void test_transposed() {
    std::mt19937 random(7);
    for (int turn = 0; turn < 200; ++turn) {
        StemCase k;
        const auto draw = [&](int most) { return static_cast<int64_t>(random() % most) + 1; };
        k.height = draw(90), k.width = draw(90), k.out_height = draw(90), k.out_width = draw(90);
        k.filter = turn % 3 == 0 ? Filter::kTriangle : turn % 3 == 1 ? Filter::kCubic : Filter::kLanczos;
        k.antialias = random() % 4 != 0;
        if (random() % 2 == 0 && k.height > 2)
            k.rows = {random() % 100 / 100.0, static_cast<double>(k.height) - 1.0 - random() % 100 / 100.0};
        const Dense rows =
            resampling_matrix(k.height, k.out_height, k.filter, k.antialias, k.rows.offset, k.rows.extent);
        const Dense columns = resampling_matrix(k.width, k.out_width, k.filter, k.antialias);
        const StemBackwardPlan plan =
            make_stem_backward_plan({plan_tensor(k, rows, columns)}, {{kStemWarps, 6, 132}, {8, 1, 132}});
        Tables tables(plan.tables, {&rows, &columns});
        make_tables(stem_backward_tables_kernel, StemBackwardTablesParams{plan.shape, tables.data()});
        const auto& t = *stem_table<StemBackwardTensor>(tables.data(), plan.shape.tensor_table);
        bool right = true;
        for (const bool vertical : {true, false}) {
            const Dense& matrix = vertical ? rows : columns;
            const StemTransposed& axis = vertical ? t.transposed_rows : t.transposed_columns;
            const auto* start = stem_table<int32_t>(tables.data(), axis.start);
            const auto* count = stem_table<int32_t>(tables.data(), axis.count);
            const auto* weight = stem_table<float>(tables.data(), axis.weight);
            for (int64_t i = 0; i < matrix.columns; ++i) {
                right &= count[i] >= 0 && count[i] <= axis.capacity && start[i] + count[i] <= matrix.rows;
                if (i > 0) right &= start[i] >= start[i - 1] && start[i] + count[i] >= start[i - 1] + count[i - 1];
                for (int64_t o = 0; o < matrix.rows; ++o) {
                    const bool inside = o >= start[i] && o < start[i] + count[i];
                    const double got = inside ? weight[i * axis.capacity + o - start[i]] : 0.0;
                    right &= std::fabs(got - matrix.at(o, i)) < 1e-7 * std::max(1.0, std::fabs(got));
                }
            }
        }
        if (right) continue;
        std::printf("%d x %d -> %d x %d filter %d antialias %d: wrong transposed tables\n", int(k.height), int(k.width),
                    int(k.out_height), int(k.out_width), int(k.filter), k.antialias);
        ++failures;
    }
}

// Parts of images and mirrored ones.
void test_lists() {
    for (const Layout layout : {Layout::kNCHW, Layout::kMirrored}) {
        StemCase k = base_case();
        k.rows = {0.25, 10.25}, k.columns = {0.5, 18.0}, k.layout = layout;
        check<Arithmetic::kBFloat16, 16>(k);
        k.filter = Filter::kLanczos, k.antialias = false;
        check<Arithmetic::kFloat32, 16>(k);
    }
}

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "arithmetic") test_arithmetic();
    if (group == "filters") test_filters();
    if (group == "num_filters") test_num_filters();
    if (group == "lists") test_lists();
    if (group == "transposed") test_transposed();
    if (group == "sizes") test_sizes();
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
