// A stem's inputs and its float64 formulas, for the tests of the forward and the backward kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dense.h"
#include "parameters.h"
#include "stem/stem_features.cuh"
#include "stem/stem_plan.h"
#include "stem/stem_tables.cuh"

namespace learned_resizer::test {

inline int failures = 0;

enum class Layout { kNCHW, kNHWC, kPadded, kMirrored };

// Of an axis: the pixels that the outputs fill; an extent of 0: all.
struct Extent {
    double offset = 0.0, extent = 0.0;
};

struct StemCase {
    int64_t batch = 1;
    int channels = 3;
    int64_t height = 0, width = 0, out_height = 0, out_width = 0;
    Filter filter = Filter::kTriangle;
    bool antialias = true;
    Extent rows, columns;
    DType image = DType::kFloat32;
    Layout layout = Layout::kNCHW;
    bool statistics = true;
    float slope = 0.2f;
    int multiprocessors = 132;
    int filters = 0;  // 0: as many as the maps have channels
    DType parameters = DType::kFloat32;
};

inline const char* name_of(Arithmetic m) {
    constexpr const char* names[] = {"bfloat16", "float16", "tf32", "float32"};
    return names[static_cast<int>(m)];
}
// Half a spacing of the operands' values near 1. float32: what three tf32 products leave out, and a sum of 147 terms.
inline double unit_of(Arithmetic m) {
    return m == Arithmetic::kBFloat16 ? 1.0 / 512 : m == Arithmetic::kFloat32 ? 1.0 / (1 << 21) : 1.0 / 4096;
}

// Everything is drawn from the case's sizes, and is what the kernel sees: images in their dtype, weights as rounded.
template <Arithmetic M, int n>
struct StemData {
    using F = Fragments<M>;
    const StemCase& k;
    std::mt19937 random;
    std::vector<float> image32;
    std::vector<uint16_t> image16;
    std::vector<uint8_t> image8;
    int filters;
    ConvWeight weight0, weight1;
    Parameter bias0, bias1, mean, std;
    std::vector<float> w0, b0, w1, b1;  // [n][channels][7][7], [n], [n][n], [n]: with the zeros beyond the filters
    StemParams params{};
    Dense rows, columns;
    std::vector<double> x;  // [batch][height][width][channels], as the products see it

    float draw(double m, double s) { return static_cast<float>(std::normal_distribution<double>(m, s)(random)); }
    std::vector<float> draws(size_t count, double m, double s) { return test::draws(random, count, m, s); }

    explicit StemData(const StemCase& c)
        : k(c),
          random(static_cast<unsigned>(c.height * 31 + c.width * 7 + c.out_width + n)),
          filters(c.filters == 0 ? n : c.filters) {
        const int channels = k.channels;
        weight0 = ConvWeight(random, filters, channels, 7, k.parameters);
        bias0 = Parameter(draws(filters, 0.0, 0.3), DType::kFloat32);
        weight1 = ConvWeight(random, filters, filters, 1, k.parameters);
        bias1 = Parameter(draws(filters, 0.0, 0.3), k.parameters);
        mean = Parameter(draws(4, 0.45, 0.05), DType::kFloat32), std = Parameter(draws(4, 0.25, 0.01), k.parameters);
        w0 = weight0.value, b0 = bias0.value, b1 = bias1.value;
        w0.resize(size_t(n) * channels * 49), b0.resize(n), b1.resize(n), w1.resize(n * n);
        for (int i = 0; i < filters * filters; ++i) w1[i / filters * n + i % filters] = weight1.value[i];
        const int64_t pad = k.layout == Layout::kPadded ? 3 : 0;
        int64_t* s = params.image.stride;
        if (k.layout == Layout::kNHWC)
            s[1] = 1, s[3] = channels, s[2] = k.width * channels, s[0] = k.height * s[2];
        else
            s[3] = 1 + pad, s[2] = k.width * s[3] + pad, s[1] = k.height * s[2], s[0] = channels * s[1];
        const int64_t last =
            (k.batch - 1) * s[0] + (channels - 1) * s[1] + (k.height - 1) * s[2] + (k.width - 1) * s[3];
        int64_t origin = 0;
        if (k.layout == Layout::kMirrored) origin = (k.width - 1) * s[3], s[3] = -s[3];
        image32.assign(last + 1, std::nanf(""));
        image16.assign(last + 1, 0xFFFF);
        image8.assign(last + 1, 255);
        x.resize(k.batch * k.height * k.width * channels);
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t i = 0; i < k.width; ++i)
                    for (int c = 0; c < channels; ++c) {
                        const int64_t at = origin + b * s[0] + c * s[1] + y * s[2] + i * s[3];
                        float value = draw(0.2, 1.0);
                        if (k.image == DType::kUInt8) {
                            image8[at] = static_cast<uint8_t>(random() % 256);
                            value = (static_cast<float>(image8[at]) / 255.0f - mean.value[c]) / std.value[c];
                        } else if (k.image == DType::kFloat16) {
                            image16[at] = float_to_half(value), value = half_to_float(image16[at]);
                        } else if (k.image == DType::kBFloat16) {
                            image16[at] = float_to_bfloat16(value);
                            value = float_from_bits(static_cast<uint32_t>(image16[at]) << 16);
                        } else {
                            image32[at] = value;
                        }
                        // A uint8's scaled value may be rounded to a neighbour of ours: no worse than one more
                        // rounding.
                        x[((b * k.height + y) * k.width + i) * channels + c] = F::rounded(value);
                    }
        for (int i = 0; i < 4; ++i) s[i] *= image_bytes(k.image);
        const void* data = k.image == DType::kFloat32 ? static_cast<const void*>(image32.data())
                           : k.image == DType::kUInt8 ? static_cast<const void*>(image8.data())
                                                      : image16.data();
        params.image.data = static_cast<const char*>(data) + origin * image_bytes(k.image);
        params.image.height = static_cast<int32_t>(k.height), params.image.width = static_cast<int32_t>(k.width);
        params.format.dtype = k.image, params.format.channels = channels;
        if (k.image == DType::kUInt8) params.format.mean = mean.vector(), params.format.std = std.vector();
        params.weights = {weight0.weight(), bias0.vector(), weight1.weight(), bias1.vector(), k.slope, filters};
        rows = resampling_matrix(k.height, k.out_height, k.filter, k.antialias, k.rows.offset, k.rows.extent);
        columns = resampling_matrix(k.width, k.out_width, k.filter, k.antialias, k.columns.offset, k.columns.extent);
    }

    int64_t pixels() const { return k.batch * k.height * k.width; }
    double activate(double v) const { return v < 0 ? v * k.slope : v; }

    // a and c, [batch][height][width][n]. `as_seen`: c of a as the product sees it, rounded. Where c is near zero that
    // decides its sign, and the adjoint's slope with it: an error of the whole gradient at that pixel, 5 % in norm for
    // bfloat16, that says nothing about a kernel.
    void features(std::vector<double>& a, std::vector<double>& c, bool as_seen) const {
        a.assign(pixels() * n, 0.0), c.assign(pixels() * n, 0.0);
        for (int64_t b = 0; b < k.batch; ++b)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t i = 0; i < k.width; ++i) {
                    const int64_t at = ((b * k.height + y) * k.width + i) * n;
                    for (int f = 0; f < n; ++f) {
                        double sum = b0[f];
                        for (int dy = 0; dy < 7; ++dy)
                            for (int dx = 0; dx < 7; ++dx) {
                                const int64_t iy = y + dy - 3, ix = i + dx - 3;
                                if (iy < 0 || iy >= k.height || ix < 0 || ix >= k.width) continue;
                                for (int ch = 0; ch < k.channels; ++ch)
                                    sum += F::rounded(w0[((f * k.channels + ch) * 7 + dy) * 7 + dx]) *
                                           x[((b * k.height + iy) * k.width + ix) * k.channels + ch];
                            }
                        a[at + f] = activate(sum);
                    }
                    for (int f = 0; f < n; ++f) {
                        double sum = b1[f];
                        for (int g = 0; g < n; ++g)
                            sum += F::rounded(w1[f * n + g]) *
                                   (as_seen ? F::rounded(static_cast<float>(a[at + g])) : a[at + g]);
                        c[at + f] = activate(sum);
                    }
                }
    }

    std::string name(const char* what) const {
        char text[240];
        std::snprintf(text, sizeof(text),
                      "%s %s n=%d filters=%d C=%d %lldx%lldx%lld -> %lldx%lld filter %d antialias %d image %d", what,
                      name_of(M), n, filters, k.channels, static_cast<long long>(k.batch),
                      static_cast<long long>(k.height), static_cast<long long>(k.width),
                      static_cast<long long>(k.out_height), static_cast<long long>(k.out_width),
                      static_cast<int>(k.filter), k.antialias, static_cast<int>(k.image));
        return text;
    }

    // Relative error in norm; NaN counts as beyond every bound.
    void compare(const char* what, const std::vector<double>& got, const std::vector<double>& exact,
                 double bound) const {
        double error = 0.0, norm = 0.0;
        for (size_t i = 0; i < exact.size(); ++i) {
            error += (got[i] - exact[i]) * (got[i] - exact[i]);
            norm += exact[i] * exact[i];
        }
        const double relative = std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
        if (relative <= bound) return;
        std::printf("%s: relative error %g beyond %g\n", name(what).c_str(), relative, bound);
        ++failures;
    }
};

// An axis as the planner sees it.
inline Axis axis_of(const Dense& matrix, const StemCase& k, const Extent& extent) {
    const auto filter = k.filter == Filter::kTriangle ? learned_resizer::Filter::kBilinear
                        : k.filter == Filter::kCubic  ? learned_resizer::Filter::kBicubic
                                                      : learned_resizer::Filter::kLanczos;
    return make_stem_axis(static_cast<int32_t>(matrix.columns), static_cast<int32_t>(matrix.rows), filter, k.antialias,
                          extent.offset, extent.extent);
}
inline StemPlanTensor plan_tensor(const StemCase& k, const Dense& rows, const Dense& columns) {
    return {k.batch, axis_of(rows, k, k.rows), axis_of(columns, k, k.columns)};
}

// Bands of a matrix where the kernels expect them; begins and ends in order.
inline void put_bands(const Dense& matrix, const BandAxis& to, unsigned char* tables) {
    auto* begin = stem_table<int32_t>(tables, to.begin);
    auto* end = stem_table<int32_t>(tables, to.end);
    auto* weight = stem_table<double>(tables, to.weight);
    const int64_t outputs = matrix.rows, pixels = matrix.columns;
    const auto counts = [&](int64_t o, int64_t i) { return std::fabs(matrix.at(o, i)) > 1e-14; };
    for (int64_t o = 0; o < outputs; ++o) {
        int64_t first = 0, last = pixels;
        while (!counts(o, first)) ++first;
        while (!counts(o, last - 1)) --last;
        begin[o] = static_cast<int32_t>(first), end[o] = static_cast<int32_t>(last);
    }
    for (int64_t o = outputs - 2; o >= 0; --o) begin[o] = std::min(begin[o], begin[o + 1]);
    for (int64_t o = 1; o < outputs; ++o) end[o] = std::max(end[o], end[o - 1]);
    for (int64_t o = 0; o < outputs; ++o) {
        const int32_t taps = to.axis.taps;
        if (end[o] - begin[o] > taps) std::printf("a band has %d taps\n", end[o] - begin[o]), ++failures;
        for (int32_t i = begin[o]; i < end[o]; ++i) weight[o * taps + i - begin[o]] = matrix.at(o, i);
    }
}

// Tables in 16-byte aligned memory: what the host stores, and the bands of all axes.
class Tables {
  public:
    Tables(const StemTables& tables, const std::vector<const Dense*>& axes) : memory_(tables.bytes / 16 + 1) {
        std::memcpy(data(), tables.stored.data(), tables.stored.size());
        for (size_t i = 0; i < axes.size(); ++i) put_bands(*axes[i], tables.axes[i], data());
    }
    unsigned char* data() { return reinterpret_cast<unsigned char*>(memory_.data()); }

  private:
    std::vector<Quad<uint32_t>> memory_;
};

// Runs a kernel that makes tables, in few blocks.
template <class Params>
void make_tables(void (*kernel)(Params), const Params& params) {
    host::run({2, kStemTableThreads, 0, false}, [&] { kernel(params); });
}

}  // namespace learned_resizer::test
