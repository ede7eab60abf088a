// The head's kernels, run on the host, against float64 formulas. Usage: test_head forward|backward

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "head/head_backward.cuh"
#include "parameters.h"

namespace learned_resizer {
namespace {

int failures = 0;

struct Case {
    int64_t batch, height, width;
    int channels;
    bool skip, channels_last, wide;
    bool earlier;  // uses of the skip whose gradients are to be added
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
    // tf32 rounds in products only: in memory its features are float32.
    static S stored(float x) {
        if constexpr (kIs16Bit<M>) return F::encode(x);
        return x;
    }

    const Case& k;
    std::mt19937 random;
    const int filters;
    HeadParams p{};
    std::vector<S> t, u, earlier_skip;
    test::RandomNorm norm, skip_norm;
    test::ConvWeight weight;
    test::Parameter bias;
    std::vector<double> v;        // as the products see it
    std::vector<double> image;    // base, or dy: [batch][height][width][channels]
    std::vector<S> image_narrow;  // in the layout that p names
    std::vector<float> image_wide;
    int64_t stride[4];

    explicit Check(const Case& given)
        : k(given),
          random(static_cast<unsigned>(given.height * 31 + given.width + n)),
          filters(given.filters == 0 ? n : given.filters) {
        const int64_t pixels = k.batch * k.height * k.width;
        for (auto* map : {&t, &u, &earlier_skip})
            for (float x : test::draws(random, pixels * n, 0.2, 1.0))
                map->push_back(stored(static_cast<int>(map->size() % n) < filters ? x : 0.0f));
        norm = {random, filters, k.dtype}, skip_norm = {random, filters, k.dtype};
        weight = {random, k.channels, filters, 7, k.dtype};
        bias = {test::draws(random, k.channels, 0.0, 0.5), k.dtype};
        PrologueParams& q = p.prologue;
        q.batch = k.batch, q.height = k.height, q.width = k.width, q.filters = filters;
        q.input = t.data(), q.norm = norm.norm(), q.negative_slope = k.slope;
        if (k.skip) q.skip = u.data(), q.skip_norm = skip_norm.norm();
        p.weight = weight.weight(), p.bias = bias.vector(), p.channels = k.channels;
        v.resize(t.size());
        each_channel([&](size_t i, int c) {
            double x = norm.apply(c, F::decode(t[i]));
            if (k.skip) x += skip_norm.apply(c, F::decode(u[i]));
            v[i] = F::rounded(static_cast<float>(x > 0 ? x : x * k.slope));
        });
        const int64_t plane = k.height * k.width;
        const int64_t nchw[4] = {plane * k.channels, plane, k.width, 1};
        const int64_t nhwc[4] = {plane * k.channels, 1, k.width * k.channels, k.channels};
        std::memcpy(stride, k.channels_last ? nhwc : nchw, sizeof stride);
        image.resize(pixels * k.channels), image_wide.resize(image.size()), image_narrow.resize(image.size());
        const auto values = test::draws(random, image.size(), 0.3, 1.0);
        each_value([&](int64_t i, int64_t at) {
            image_wide[at] = values[i], image_narrow[at] = stored(values[i]);
            image[i] = wide() ? values[i] : F::decode(stored(values[i]));
        });
    }
    // visit(index in a map, channel) for the channels that exist
    template <class Visit>
    void each_channel(const Visit& visit) const {
        for (size_t i = 0; i < t.size(); ++i)
            if (static_cast<int>(i % n) < filters) visit(i, static_cast<int>(i % n));
    }
    bool wide() const { return k.wide || !kIs16Bit<M>; }
    ImageView image_of() const {
        ImageView r{};
        r.data = wide() ? static_cast<const void*>(image_wide.data()) : image_narrow.data();
        std::memcpy(r.stride, stride, sizeof stride);
        r.wide = wide();
        return r;
    }
    // visit(index in `image`, place in memory)
    template <class Visit>
    void each_value(const Visit& visit) const {
        int64_t i = 0;
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    for (int c = 0; c < k.channels; ++c, ++i)
                        visit(i, b * stride[0] + c * stride[1] + y * stride[2] + x * stride[3]);
    }
    // visit(output pixel, input pixel, tap)
    template <class Visit>
    void taps(const Visit& visit) const {
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    for (int tap = 0; tap < 49; ++tap) {
                        const int64_t iy = y + tap / 7 - 3, ix = x + tap % 7 - 3;
                        if (iy < 0 || iy >= k.height || ix < 0 || ix >= k.width) continue;
                        visit((b * k.height + y) * k.width + x, (b * k.height + iy) * k.width + ix, tap);
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
            "%s arithmetic %d n=%d filters %d %lldx%lldx%lld channels %d skip %d: relative error %g beyond %g\n", what,
            static_cast<int>(M), n, filters, static_cast<long long>(k.batch), static_cast<long long>(k.height),
            static_cast<long long>(k.width), k.channels, k.skip, relative, bound);
        ++failures;
    }
    template <class Prepare>
    void run(HeadKernel kernel, int multiprocessors, bool backwards, const Prepare& prepare) {
        const bool found = with_head_kernel(kernel, M, filters, [&](auto instance, int shared_bytes, int rows) {
            p.tiles = tile_count(p.prologue, rows, kHeadColumns);
            p.blocks = tile_blocks(p.tiles, multiprocessors);
            prepare();
            host::run({p.blocks, kHeadThreads, static_cast<size_t>(shared_bytes), backwards}, [&] { instance(p); });
        });
        failures += !found;
    }
    template <class T>
    void same(const std::vector<T>& a, const std::vector<T>& b) {
        if (std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0) return;
        std::printf("depends on the order of the threads or the number of blocks\n");
        ++failures;
    }
    // A NaN of the type.
    template <class T>
    static T poison() {
        if constexpr (sizeof(T) == 2) return 0xFFFF;
        return static_cast<T>(std::nanf(""));
    }

    template <class T>
    void forward_into() {
        std::vector<double> exact = image, got(image.size());
        for (size_t i = 0; i < exact.size(); ++i) exact[i] += bias.value[i % k.channels];
        taps([&](int64_t out, int64_t in, int tap) {
            for (int c = 0; c < k.channels; ++c)
                for (int f = 0; f < filters; ++f)
                    exact[out * k.channels + c] +=
                        v[in * n + f] * F::rounded(weight.value[(c * filters + f) * 49 + tap]);
        });
        std::vector<T> out[2];
        for (int turn = 0; turn < 2; ++turn) {
            out[turn].assign(image.size(), poison<T>());
            p.base = image_of(), p.result = out[turn].data();
            std::memcpy(p.result_stride, stride, sizeof stride);
            run(HeadKernel::kForward, turn == 0 ? 132 : 1, turn == 1, [] {});
        }
        same(out[0], out[1]);
        each_value([&](int64_t i, int64_t at) {
            if constexpr (sizeof(T) == 2)
                got[i] = F::decode(out[0][at]);
            else
                got[i] = out[0][at];
        });
        // The result's rounding beside the shared ones of v and the weights.
        compare("result", got, exact, 2 * unit_of(M));
    }
    void forward() {
        if (wide())
            forward_into<float>();
        else
            forward_into<S>();
    }

    void backward() {
        const int weights = k.channels * filters * 49, elements = weights + k.channels + 3 * filters;
        std::vector<double> dv(t.size(), 0.0), dw(weights, 0.0), db(k.channels, 0.0), dt(t.size()), du(t.size());
        std::vector<double> sums(3 * filters, 0.0);
        for (size_t i = 0; i < image.size(); ++i) db[i % k.channels] += image[i];
        taps([&](int64_t out, int64_t in, int tap) {
            for (int c = 0; c < k.channels; ++c)
                for (int f = 0; f < filters; ++f) {
                    const int at = (c * filters + f) * 49 + tap;
                    dw[at] += image[out * k.channels + c] * v[in * n + f];
                    dv[in * n + f] += F::rounded(weight.value[at]) * image[out * k.channels + c];
                }
        });
        each_channel([&](size_t i, int c) {
            const double d = v[i] > 0 ? dv[i] : dv[i] * k.slope;
            dt[i] = d * norm.scale(c), du[i] = d * skip_norm.scale(c);
            if (k.earlier) du[i] += F::decode(earlier_skip[i]);
            sums[c] += d * F::decode(t[i]), sums[filters + c] += d;
            if (k.skip) sums[2 * filters + c] += d * F::decode(u[i]);
        });
        std::vector<S> out[2], out_skip[2];
        std::vector<float> partials[2];
        for (int turn = 0; turn < 2; ++turn) {
            out[turn].assign(t.size(), poison<S>()), out_skip[turn].assign(t.size(), poison<S>());
            if (k.earlier) out_skip[turn] = earlier_skip, p.prologue.earlier_skip = out_skip[turn].data();
            p.grad = image_of();
            p.prologue.grad_input = out[turn].data(), p.prologue.grad_skip = k.skip ? out_skip[turn].data() : nullptr;
            run(HeadKernel::kBackward, 1, turn == 1, [&] {
                partials[turn].assign(p.blocks * elements, std::nanf(""));
                p.partials = partials[turn].data();
            });
        }
        same(out[0], out[1]), same(partials[0], partials[1]);
        std::vector<double> total(elements, 0.0);
        for (size_t i = 0; i < partials[0].size(); ++i) total[i % elements] += partials[0][i];
        const auto decoded = [](const std::vector<S>& map) {
            std::vector<double> r;
            for (S x : map) r.push_back(F::decode(x));
            return r;
        };
        const auto part = [&](int from, int count) {
            return std::vector<double>(total.begin() + from, total.begin() + from + count);
        };
        // dy is rounded once as an operand, the results once; both in norm.
        const double bound = 3 * unit_of(M);
        compare("dt", decoded(out[0]), dt, bound);
        if (k.skip) compare("du", decoded(out_skip[0]), du, bound);
        compare("dW", part(0, weights), dw, bound);
        // dy as it was given: float32 sums of a thousand.
        compare("dbias", part(weights, k.channels), db, 1e-5);
        compare("sums", part(weights + k.channels, 3 * filters), sums, bound);
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
    const Case one{1, 1, 1, 3, true, false, false, false, 0.2f}, row{2, 1, 37, 1, false, true, true, false, 1.0f},
        map{1, 19, 35, 3, true, true, false, true, 0.2f}, plain{2, 5, 6, 4, false, false, true, false, 0.0f},
        tall{1, 35, 3, 3, true, false, true, true, 1.0f};
    // Fewer filters than channels in memory; parameters in other dtypes than the features.
    const Case single{2, 5, 6, 3, true, false, false, true, 0.2f, 1, DType::kFloat16},
        few{1, 9, 35, 2, true, true, true, true, 0.2f, 5, DType::kBFloat16},
        many{1, 9, 7, 3, true, true, false, true, 0.2f, 24, DType::kFloat16},
        most{1, 4, 7, 4, false, false, false, false, 0.2f, 31, DType::kBFloat16};
    for (const Case& k : {one, row, map, plain, tall}) check<Arithmetic::kBFloat16, 16>(k, forward);
    for (const Case& k : {map, plain}) check<Arithmetic::kFloat32, 16>(k, forward);
    check<Arithmetic::kFloat16, 16>(map, forward);
    check<Arithmetic::kTF32, 16>(tall, forward);
    check<Arithmetic::kBFloat16, 32>(tall, forward);
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
