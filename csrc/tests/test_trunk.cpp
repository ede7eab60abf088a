// The trunk's kernels, run on the host, against float64 formulas. Usage: test_trunk block|tail

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "parameters.h"
#include "trunk/trunk.cuh"

namespace learned_resizer {
namespace {

constexpr int n = kTrunkFilters;
int failures = 0;

struct Case {
    int64_t batch, height, width;
    int channels;
    bool skip;
    bool wide;
    bool planes;  // base and result as planes, not interleaved
    float slope;
    int filters = n;
    DType dtype = DType::kFloat32;
};

// float64 map of `channels` interleaved channels.
using Map = std::vector<double>;

template <Arithmetic M>
struct Check {
    using F = Fragments<M>;
    using S = uint16_t;
    std::mt19937 random{11};
    const Case& k;

    std::vector<S> features() {
        std::vector<S> v;
        for (float x : test::draws(random, k.batch * k.height * k.width * n, 0.3, 1.0))
            v.push_back(F::encode(static_cast<int>(v.size() % n) < k.filters ? x : 0.0f));
        return v;
    }

    // Convolution with zero padding to `out_channels` in memory; the weights as the arithmetic rounds them.
    Map convolve(const Map& in, const test::ConvWeight& w, int out_channels) const {
        Map out(k.batch * k.height * k.width * out_channels);
        const int side = w.side;
        const int around = side / 2;
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    for (int f = 0; f < w.filters; ++f) {
                        double sum = 0.0;
                        for (int dy = 0; dy < side; ++dy)
                            for (int dx = 0; dx < side; ++dx) {
                                const int64_t iy = y + dy - around, ix = x + dx - around;
                                if (iy < 0 || iy >= k.height || ix < 0 || ix >= k.width) continue;
                                const double* pixel = &in[((b * k.height + iy) * k.width + ix) * n];
                                for (int c = 0; c < w.channels; ++c)
                                    sum +=
                                        pixel[c] * F::rounded(w.value[((f * w.channels + c) * side + dy) * side + dx]);
                            }
                        out[((b * k.height + y) * k.width + x) * out_channels + f] = sum;
                    }
        return out;
    }

    void compare(const char* what, const Map& got, const Map& exact) const {
        double error = 0.0, norm = 0.0;
        for (size_t i = 0; i < exact.size(); ++i) {
            error += (got[i] - exact[i]) * (got[i] - exact[i]);
            norm += exact[i] * exact[i];
        }
        const double relative = std::sqrt(error / norm);
        // Operands of both products and the result are rounded to half a unit each, about three independent roundings
        // of an element (2^-9 and 2^-12): below 3 units in norm.
        const double bound = 3.0 * (M == Arithmetic::kBFloat16 ? 1.0 / 512 : 1.0 / 4096);
        if (relative <= bound) return;
        std::printf("%s %s filters %d %lldx%lldx%lld channels %d skip %d: relative error %g beyond %g\n", what,
                    M == Arithmetic::kBFloat16 ? "bfloat16" : "float16", k.filters, static_cast<long long>(k.batch),
                    static_cast<long long>(k.height), static_cast<long long>(k.width), k.channels, k.skip, relative,
                    bound);
        ++failures;
    }

    explicit Check(const Case& c) : k(c) {}

    void run(TrunkKernel which) {
        const bool tail = which == TrunkKernel::kTail;
        const test::RandomNorm norm(random, k.filters, k.dtype), skip_norm(random, k.filters, k.dtype),
            norm1(random, k.filters, k.dtype);
        const auto t = features(), u = features();
        const test::ConvWeight weight1(random, k.filters, k.filters, 3, k.dtype),
            weight2(random, k.filters, k.filters, 3, k.dtype), weight(random, k.channels, k.filters, 7, k.dtype);
        const test::Parameter bias(test::draws(random, k.channels, 0.0, 0.5), k.dtype);
        const int64_t pixels = k.batch * k.height * k.width;
        auto base = test::draws(random, pixels * k.channels, 0.0, 1.0);
        for (auto& x : base) x = k.wide ? x : F::rounded(x);

        TrunkParams p{};
        PrologueParams& q = p.prologue;
        q.batch = k.batch, q.height = k.height, q.width = k.width;
        q.filters = k.filters, q.input = t.data(), q.norm = norm.norm(), q.negative_slope = 1.0f;
        if (k.skip || tail) q.skip = u.data(), q.skip_norm = skip_norm.norm();
        p.weight1 = weight1.weight(), p.norm1 = norm1.norm(), p.negative_slope = k.slope;
        p.weight2 = weight2.weight();
        p.channels = k.channels, p.weight = weight.weight(), p.bias = bias.vector(), p.base.wide = k.wide;
        const int64_t interleaved[4] = {k.height * k.width * k.channels, 1, k.width * k.channels, k.channels};
        const int64_t planar[4] = {k.height * k.width * k.channels, k.height * k.width, k.width, 1};
        const int64_t* stride = k.planes ? planar : interleaved;
        std::memcpy(p.base.stride, stride, sizeof(p.base.stride));
        std::memcpy(p.result_stride, stride, sizeof(p.result_stride));
        const auto at = [&](int64_t b, int c, int64_t y, int64_t x) {
            return b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
        };
        std::vector<S> small(base.size());
        for (size_t i = 0; i < base.size(); ++i) small[i] = F::encode(base[i]);
        p.base.data = k.wide ? static_cast<const void*>(base.data()) : small.data();

        // The formulas.
        Map v(pixels * n), exact;
        for (int64_t i = 0; i < pixels * n; ++i) {
            if (i % n >= k.filters) continue;
            v[i] = norm.apply(i % n, F::decode(t[i]));
            if (q.skip != nullptr) v[i] += skip_norm.apply(i % n, F::decode(u[i]));
        }
        Map middle = convolve(v, weight1, n);
        for (int64_t i = 0; i < pixels * n; ++i) {
            if (i % n >= k.filters) continue;
            middle[i] = norm1.apply(i % n, middle[i]);
            if (tail)
                middle[i] += skip_norm.apply(i % n, F::decode(u[i]));
            else if (middle[i] < 0)
                middle[i] *= k.slope;
        }
        if (tail) {
            const Map sum = convolve(middle, weight, k.channels);
            exact.resize(base.size());
            for (int64_t b = 0; b < k.batch; ++b)
                for (int64_t y = 0; y < k.height; ++y)
                    for (int64_t x = 0; x < k.width; ++x)
                        for (int c = 0; c < k.channels; ++c)
                            exact[at(b, c, y, x)] = sum[((b * k.height + y) * k.width + x) * k.channels + c] +
                                                    bias.value[c] + base[at(b, c, y, x)];
        } else {
            exact = convolve(middle, weight2, n);
        }

        // Twice: with the threads in both orders, and with one block per tile or two blocks in all.
        std::vector<float> results[2];
        for (int turn = 0; turn < 2; ++turn) {
            std::vector<S> out(exact.size(), 0xFFFF);
            std::vector<float> out_wide(exact.size(), std::nanf(""));
            p.output = out.data();
            p.result = k.wide ? static_cast<void*>(out_wide.data()) : out.data();
            p.tiles = tile_count(q, trunk_side(which), trunk_side(which));
            with_trunk_kernel(which, M == Arithmetic::kBFloat16, [&](auto kernel, int shared_bytes) {
                host::run({turn == 0 ? p.tiles : std::min<int64_t>(p.tiles, 2), kTrunkThreads,
                           static_cast<size_t>(shared_bytes), turn == 1},
                          [&] { kernel(p); });
            });
            results[turn] = out_wide;
            if (!tail || !k.wide)
                for (size_t i = 0; i < out.size(); ++i) results[turn][i] = F::decode(out[i]);
        }
        if (std::memcmp(results[0].data(), results[1].data(), results[0].size() * sizeof(float)) != 0) {
            std::printf("depends on the order of the threads or the number of blocks\n");
            ++failures;
        }
        compare(tail ? "tail" : "block", Map(results[0].begin(), results[0].end()), exact);
    }
};

void check(TrunkKernel which, const Case& k) {
    Check<Arithmetic::kBFloat16>(k).run(which);
    Check<Arithmetic::kFloat16>(k).run(which);
}

}  // namespace
}  // namespace learned_resizer

int main(int argc, char** argv) {
    using namespace learned_resizer;
    const TrunkKernel which = argc > 1 && std::string(argv[1]) == "tail" ? TrunkKernel::kTail : TrunkKernel::kBlock;
    check(which, {1, 1, 1, 3, false, false, false, 0.2f});
    check(which, {2, 1, 37, 3, true, true, false, 0.2f});
    check(which, {1, 61, 7, 1, true, false, true, 0.0f});
    check(which, {1, 27, 33, 4, false, true, true, 0.1f});
    check(which, {2, 31, 29, 3, true, false, true, 0.2f});
    check(which, {1, 9, 35, 3, true, false, false, 0.2f, 5, DType::kBFloat16});
    check(which, {2, 5, 6, 2, false, true, false, 0.2f, 1, DType::kFloat16});
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
