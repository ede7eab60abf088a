// The convolution's kernels, run on the host, against float64 formulas. Usage: test_conv forward|backward

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "conv/conv_backward.cuh"
#include "parameters.h"

namespace learned_resizer {
namespace {

int failures = 0;

struct Case {
    int64_t batch, height, width;
    bool norm, skip, statistics;
    bool earlier;  // uses of the features whose gradients are to be added
    float slope;
    int filters = 0;  // 0: as many as the instance has channels
    DType dtype = DType::kFloat32;
};

// Half a spacing of the operands' values near 1; float32: what three tf32 products leave out, and the sums' roundings.
double unit_of(Arithmetic m) {
    return m == Arithmetic::kBFloat16 ? 1.0 / 512 : m == Arithmetic::kFloat32 ? 1.0 / (1 << 21) : 1.0 / 4096;
}

template <Arithmetic M, int n>
struct Check {
    using F = Fragments<M>;
    using S = typename F::S;
    const Case& k;
    std::mt19937 random;
    const int filters;
    ConvParams p{};
    std::vector<S> t, u, raw, grad, earlier_input, earlier_skip;
    test::RandomNorm norm, skip_norm;
    test::ConvWeight weight;
    std::vector<float> mean, grad_mean, grad_var;
    std::vector<double> v;  // as the products see it

    std::vector<S> features() {
        std::vector<S> r;
        for (float x : test::draws(random, k.batch * k.height * k.width * n, 0.2, 1.0))
            r.push_back(F::encode(static_cast<int>(r.size() % n) < filters ? x : 0.0f));
        return r;
    }
    double scale(int c) const { return k.norm ? norm.scale(c) : 1.0; }

    explicit Check(const Case& given)
        : k(given),
          random(static_cast<unsigned>(given.height * 31 + given.width + n)),
          filters(given.filters == 0 ? n : given.filters) {
        t = features(), u = features(), raw = features(), grad = features();
        earlier_input = features(), earlier_skip = features();
        norm = {random, filters, k.dtype}, skip_norm = {random, filters, k.dtype};
        weight = {random, filters, filters, 3, k.dtype};
        mean = test::draws(random, filters, 0.2, 0.1);
        grad_mean = test::draws(random, filters, 0.0, 3.0), grad_var = test::draws(random, filters, 0.0, 3.0);
        PrologueParams& q = p.prologue;
        q.batch = k.batch, q.height = k.height, q.width = k.width, q.filters = filters;
        q.input = t.data(), q.negative_slope = k.slope;
        if (k.norm) q.norm = norm.norm();
        if (k.skip) q.skip = u.data(), q.skip_norm = skip_norm.norm();
        p.weight = weight.weight();
        v.resize(t.size());
        each_channel([&](size_t i, int c) {
            double x = F::decode(t[i]);
            if (k.norm) x = norm.apply(c, x);
            if (k.skip) x += skip_norm.apply(c, F::decode(u[i]));
            v[i] = F::rounded(static_cast<float>(x > 0 ? x : x * k.slope));
        });
    }

    // visit(index in a map, channel) for the channels that exist
    template <class Visit>
    void each_channel(const Visit& visit) const {
        for (size_t i = 0; i < t.size(); ++i)
            if (static_cast<int>(i % n) < filters) visit(i, static_cast<int>(i % n));
    }

    int64_t at(int64_t b, int64_t y, int64_t x) const { return ((b * k.height + y) * k.width + x) * n; }
    template <class Visit>
    void taps(const Visit& visit) const {
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    for (int tap = 0; tap < 9; ++tap) {
                        const int64_t iy = y + tap / 3 - 1, ix = x + tap % 3 - 1;
                        if (iy >= 0 && iy < k.height && ix >= 0 && ix < k.width) visit(at(b, y, x), at(b, iy, ix), tap);
                    }
    }

    void compare(const char* what, const std::vector<double>& got, const std::vector<double>& exact, double bound) {
        double error = 0.0, norm = 0.0;
        for (size_t i = 0; i < exact.size(); ++i) {
            error += (got[i] - exact[i]) * (got[i] - exact[i]);
            norm += exact[i] * exact[i];
        }
        const double relative = std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
        if (relative <= bound) return;
        std::printf(
            "%s arithmetic %d n=%d filters %d %lldx%lldx%lld skip %d statistics %d: relative error %g beyond %g\n",
            what, static_cast<int>(M), n, filters, static_cast<long long>(k.batch), static_cast<long long>(k.height),
            static_cast<long long>(k.width), k.skip, k.statistics, relative, bound);
        ++failures;
    }
    static std::vector<double> decoded(const std::vector<S>& map) {
        std::vector<double> r(map.size());
        for (size_t i = 0; i < map.size(); ++i) r[i] = F::decode(map[i]);
        return r;
    }
    static S poison() {
        if constexpr (kIs16Bit<M>)
            return 0xFFFF;
        else
            return std::nanf("");
    }
    template <class Prepare>
    void run(ConvKernel kernel, int multiprocessors, bool backwards, const Prepare& prepare) {
        const bool found = with_conv_kernel(kernel, M, filters, [&](auto instance, int shared_bytes, int rows) {
            p.tiles = tile_count(p.prologue, rows, kConvColumns);
            p.blocks = tile_blocks(p.tiles, multiprocessors);
            prepare();
            host::run({p.blocks, kConvThreads, static_cast<size_t>(shared_bytes), backwards}, [&] { instance(p); });
        });
        failures += !found;
    }

    void forward() {
        std::vector<double> exact(t.size(), 0.0);
        taps([&](int64_t out, int64_t in, int tap) {
            for (int f = 0; f < filters; ++f)
                for (int c = 0; c < filters; ++c)
                    exact[out + f] += v[in + c] * F::rounded(weight.value[(f * filters + c) * 9 + tap]);
        });
        std::vector<S> out[2];
        std::vector<float> moments;
        for (int turn = 0; turn < 2; ++turn) {
            out[turn].assign(t.size(), poison());
            run(ConvKernel::kForward, turn == 0 ? 132 : 1, turn == 1, [&] {
                p.raw = out[turn].data();
                moments.assign(p.blocks * 3 * filters, std::nanf(""));
                p.moments = k.statistics ? moments.data() : nullptr;
            });
        }
        if (std::memcmp(out[0].data(), out[1].data(), out[0].size() * sizeof(S)) != 0) {
            std::printf("depends on the order of the threads or the number of blocks\n");
            ++failures;
        }
        // One rounding of the result beside the shared ones of v and the weights.
        compare("raw", decoded(out[0]), exact, 2 * unit_of(M));
        if (!k.statistics) return;
        const auto stored = decoded(out[1]);
        const double pixels = static_cast<double>(stored.size() / n);
        std::vector<double> mean_exact(filters), var_exact(filters), mean_got(filters), var_got(filters);
        each_channel([&](size_t i, int c) { mean_exact[c] += stored[i] / pixels; });
        each_channel([&](size_t i, int c) { var_exact[c] += std::pow(stored[i] - mean_exact[c], 2) / pixels; });
        for (int c = 0; c < filters; ++c) {
            double count = 0.0, m2 = 0.0;
            for (int64_t block = 0; block < p.blocks; ++block) {
                const float* of = &moments[block * 3 * filters + c];
                const double total = count + of[0], delta = of[filters] - mean_got[c];
                if (total == 0.0) continue;
                m2 += of[2 * filters] + delta * delta * count * of[0] / total;
                mean_got[c] += delta * of[0] / total;
                count = total;
            }
            if (count != pixels) {
                std::printf("%g pixels counted, %g exist\n", count, pixels);
                ++failures;
            }
            var_got[c] = m2 / count;
        }
        // Of the stored values themselves: float32 sums of a few hundred.
        compare("mean", mean_got, mean_exact, 1e-5);
        if (pixels > 1) compare("var", var_got, var_exact, 1e-5);
    }

    void backward() {
        // As with a norm that joins the statistics of several GPUs.
        p.count = 3 * static_cast<int64_t>(t.size() / n);
        const double count = static_cast<double>(p.count);
        const int weights = filters * filters * 9, elements = weights + 3 * filters;
        std::vector<double> g(t.size()), dv(t.size(), 0.0), dw(weights, 0.0), dt(t.size()), du(t.size());
        std::vector<double> sums(3 * filters, 0.0);
        each_channel([&](size_t i, int c) {
            g[i] = F::decode(grad[i]);
            if (k.statistics)
                g[i] += grad_mean[c] / count + 2.0 * (F::decode(raw[i]) - double(mean[c])) / count * grad_var[c];
        });
        taps([&](int64_t out, int64_t in, int tap) {
            for (int f = 0; f < filters; ++f)
                for (int c = 0; c < filters; ++c) {
                    dw[(f * filters + c) * 9 + tap] += g[out + f] * v[in + c];
                    dv[in + c] += F::rounded(weight.value[(f * filters + c) * 9 + tap]) * g[out + f];
                }
        });
        each_channel([&](size_t i, int c) {
            const double d = v[i] > 0 ? dv[i] : dv[i] * k.slope;
            dt[i] = d * scale(c), du[i] = d * skip_norm.scale(c);
            if (k.earlier) dt[i] += F::decode(earlier_input[i]), du[i] += F::decode(earlier_skip[i]);
            sums[c] += d * F::decode(t[i]), sums[filters + c] += d;
            if (k.skip) sums[2 * filters + c] += d * F::decode(u[i]);
        });
        std::vector<S> out[2], out_skip[2];
        std::vector<float> partials[2];
        for (int turn = 0; turn < 2; ++turn) {
            out[turn].assign(t.size(), poison()), out_skip[turn].assign(t.size(), poison());
            if (k.earlier) {
                // The skip's in place.
                out_skip[turn] = earlier_skip;
                p.prologue.earlier_input = earlier_input.data(), p.prologue.earlier_skip = out_skip[turn].data();
            }
            p.raw = raw.data(), p.grad_raw = grad.data();
            p.mean = k.statistics ? mean.data() : nullptr;
            p.grad_mean = grad_mean.data(), p.grad_var = grad_var.data();
            p.prologue.grad_input = out[turn].data(), p.prologue.grad_skip = k.skip ? out_skip[turn].data() : nullptr;
            run(ConvKernel::kBackward, 1, turn == 1, [&] {
                partials[turn].assign(p.blocks * elements, std::nanf(""));
                p.partials = partials[turn].data();
            });
        }
        if (std::memcmp(out[0].data(), out[1].data(), out[0].size() * sizeof(S)) != 0 ||
            std::memcmp(partials[0].data(), partials[1].data(), partials[0].size() * sizeof(float)) != 0) {
            std::printf("depends on the order of the threads\n");
            ++failures;
        }
        std::vector<double> total(elements, 0.0);
        for (size_t i = 0; i < partials[0].size(); ++i) total[i % elements] += partials[0][i];
        // g is rounded once as an operand, the results once; both in norm.
        const double bound = 3 * unit_of(M);
        compare("dt", decoded(out[0]), dt, bound);
        if (k.skip) compare("du", decoded(out_skip[0]), du, bound);
        const auto part = [&](int from, int count) {
            return std::vector<double>(total.begin() + from, total.begin() + from + count);
        };
        compare("dW", part(0, weights), dw, bound);
        compare("sums", part(weights, 3 * filters), sums, bound);
    }
};

template <Arithmetic M, int n>
void check(const Case& k, bool forward) {
    if (forward)
        Check<M, n>(k).forward();
    else
        Check<M, n>(k).backward();
}

}  // namespace
}  // namespace learned_resizer

int main(int argc, char** argv) {
    using namespace learned_resizer;
    const bool forward = argc > 1 && std::string(argv[1]) == "forward";
    const Case one{1, 1, 1, true, true, true, false, 0.2f}, row{2, 1, 37, true, false, true, true, 1.0f},
        map{1, 19, 45, true, true, true, true, 0.2f}, plain{2, 5, 6, false, false, false, false, 0.0f},
        tall{1, 37, 3, true, true, false, false, 1.0f};
    // Fewer filters than channels in memory; parameters in other dtypes than the features.
    const Case single{2, 5, 6, true, false, true, false, 0.2f, 1, DType::kFloat16},
        few{1, 9, 35, false, true, true, true, 0.2f, 5, DType::kBFloat16},
        many{1, 9, 7, true, true, true, true, 0.2f, 24, DType::kFloat16},
        most{1, 4, 7, false, false, true, true, 0.2f, 31, DType::kBFloat16};
    for (const Case& k : {one, row, map, plain, tall}) check<Arithmetic::kBFloat16, 16>(k, forward);
    for (const Case& k : {map, plain}) check<Arithmetic::kFloat32, 16>(k, forward);
    check<Arithmetic::kFloat16, 16>(map, forward);
    check<Arithmetic::kTF32, 16>(map, forward);
    check<Arithmetic::kBFloat16, 32>(map, forward);
    check<Arithmetic::kFloat16, 32>(plain, forward);
    check<Arithmetic::kTF32, 32>(row, forward);
    check<Arithmetic::kFloat32, 32>(row, forward);
    check<Arithmetic::kBFloat16, 16>(single, forward);
    check<Arithmetic::kFloat16, 16>(few, forward);
    check<Arithmetic::kFloat32, 16>(few, forward);
    check<Arithmetic::kBFloat16, 32>(many, forward);
    check<Arithmetic::kTF32, 32>(most, forward);
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
