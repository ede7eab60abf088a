// The stem's backward kernels, run on the host, against float64 formulas. Usage: test_stem_backward <group>

#include "stem/stem_backward.cuh"
#include "stem_check.h"

namespace learned_resizer::test {
namespace {

// The band table of a transposed axis, weights in float32 as on a device. As in the package's tables, where bands have
// their weights of zero, neither a row's start nor its end is before that of the row before; rows of unread pixels are
// empty.
struct Bands {
    std::vector<int32_t> start, offset{0};
    std::vector<float> weight;
    explicit Bands(const Dense& forward) {
        std::vector<int64_t> first(forward.columns, forward.rows), last(forward.columns, 0);
        for (int64_t i = 0; i < forward.columns; ++i)
            for (int64_t o = 0; o < forward.rows; ++o)
                if (forward.at(o, i) != 0.0) first[i] = std::min(first[i], o), last[i] = o + 1;
        for (int64_t i = forward.columns - 2; i >= 0; --i) first[i] = std::min(first[i], first[i + 1]);
        for (int64_t i = 1; i < forward.columns; ++i) last[i] = std::max(last[i], last[i - 1]);
        for (int64_t i = 0; i < forward.columns; ++i) {
            start.push_back(static_cast<int32_t>(first[i]));
            for (int64_t o = first[i]; o < last[i]; ++o) weight.push_back(static_cast<float>(forward.at(o, i)));
            offset.push_back(static_cast<int32_t>(weight.size()));
        }
    }
    StemBands bands() const { return {start.data(), offset.data(), weight.data()}; }
};

template <Arithmetic M, int n>
void check(const StemCase& k) {
    using F = Fragments<M>;
    using S = typename F::S;
    StemData<M, n> data(k);
    const int channels = k.channels, filters = data.filters;
    const Bands rows(data.rows), columns(data.columns);
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
    p.image = data.params.image, p.weights = data.params.weights;
    p.batch = k.batch, p.out_height = k.out_height, p.out_width = k.out_width;
    p.rows = rows.bands(), p.columns = columns.bands();
    p.dz = dz.data();
    if (k.statistics) p.mean = mean32.data(), p.grad_mean = grad_mean.data(), p.grad_var = grad_var.data();
    p.count = pixels;

    // Operands rounded once: the image, the weights and a in c (shared with the formulas), a in dW1, dc' and da'. In
    // norm less than two units each.
    const double bound = 5 * unit_of(M);
    const int64_t elements = stem_gradient_elements(filters, channels);
    // With the device's number of blocks; then with the threads in the other order and the same blocks, bit for bit.
    std::vector<float> sums[2];
    for (int turn = 0; turn < 2; ++turn) {
        plan_stem_backward(p, StemGradient::kWeights, kStemWarps, k.height % 2 == 0 ? 6 : 1, k.multiprocessors);
        std::vector<float> partials(p.blocks * elements, std::nanf(""));
        p.partials = partials.data();
        with_stem_backward_kernel(p, StemGradient::kWeights, M, [&](auto kernel, const StemBackwardInstance& instance) {
            host::run({p.blocks, 32 * p.warps, static_cast<size_t>(instance.shared_bytes), turn == 1},
                      [&] { kernel(p); });
        });
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
        plan_stem_backward(p, StemGradient::kImage, k.width <= 26 ? 2 : 8, 1, turn == 0 ? k.multiprocessors : 1);
        std::vector<float> out(dx.size(), std::nanf(""));
        std::vector<uint16_t> narrow(dx.size(), 0xFFFF);
        p.dx_dtype = k.image;
        p.dx = k.image == DType::kFloat32 ? static_cast<void*>(out.data()) : narrow.data();
        const int64_t stride[4] = {k.height * k.width * channels, 1, k.width * channels, channels};
        std::memcpy(p.dx_stride, stride, sizeof(stride));
        with_stem_backward_kernel(p, StemGradient::kImage, M, [&](auto kernel, const StemBackwardInstance& instance) {
            host::run({p.blocks, 32 * p.warps, static_cast<size_t>(instance.shared_bytes), turn == 1},
                      [&] { kernel(p); });
        });
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

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "arithmetic") test_arithmetic();
    if (group == "filters") test_filters();
    if (group == "num_filters") test_num_filters();
    if (group == "sizes") test_sizes();
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
