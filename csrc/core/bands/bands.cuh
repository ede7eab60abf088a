// The band matrices of all axes of a call, each output by a warp. Formulas and order of roundings are those of
// ops/bands.py, which explains them; docs/math.md, part 1, derives them.
#pragma once

#include "bands/band_lookup.cuh"
#include "common/device.cuh"
#include "common/warp.cuh"

namespace learned_resizer {

constexpr int kBandThreads = 128;
constexpr int kBandWarps = kBandThreads / 32;  // outputs of a block

constexpr double kZeroWeight = 1e-14;  // zeros of a filter with float64 rounding
constexpr double kEmptyWindow = 1e-7;  // a window whose weights sum to less has no usable pixel
constexpr double kPi = 3.14159265358979323846;

// Without the contraction to fused operations that the compiler may choose: at the edges of a box the last bit decides.
LR_DEVICE double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
    return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

// sin(pi x) and cos(pi x): the device's own need no reduction of large angles, which would take a stack frame.
#if defined(__CUDA_ARCH__)
LR_DEVICE double sine_of_pi(double x) { return sinpi(x); }
LR_DEVICE double cosine_of_pi(double x) { return cospi(x); }
#else
LR_DEVICE double sine_of_pi(double x) { return sin(kPi * x); }
LR_DEVICE double cosine_of_pi(double x) { return cos(kPi * x); }
#endif

LR_DEVICE double sinc(double x) { return x == 0.0 ? 1.0 : sine_of_pi(x) / (kPi * x); }

LR_DEVICE double filter_value(Filter filter, double x, double a) {
    switch (filter) {
        case Filter::kBox:
            return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
        case Filter::kBilinear:
            return fmax(1.0 - fabs(x), 0.0);
        case Filter::kHamming:
            // Pillow's constants are float32.
            return fabs(x) < 1.0 ? (x == 0.0 ? 1.0 : sinc(x) * (double{0.54f} + double{0.46f} * cosine_of_pi(x))) : 0.0;
        case Filter::kBicubic: {
            x = fabs(x);
            if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
            return x < 2.0 ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
        }
        default:
            return fabs(x) < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0;
    }
}

// Of one output, before weights of zero are cut off: pixels begin ... end - 1.
struct BandWindow {
    int32_t begin, end;
    double center;  // antialias: of the output; otherwise of its filter, from the first pixel's centre
};

LR_DEVICE int32_t clamp_index(double value, int32_t last) {
    return value < 0.0 ? 0 : value > last ? last : static_cast<int32_t>(value);
}

LR_DEVICE BandWindow band_window(const Axis& a, double support, int32_t o) {
    BandWindow w{};
    if (a.identity != 0) {
        w.begin = o, w.end = o + 1;
        return w;
    }
    w.center = rounded_product(a.scale, o + 0.5) + a.offset;
    if (a.filter == Filter::kNearest) {
        // Exact for whole pixels.
        const double place =
            a.extent > 0.0 ? a.offset + rounded_product(2.0 * o + 1.0, a.extent) / (2.0 * a.out) : w.center;
        w.begin = clamp_index(floor(place), a.in - 1);
        w.end = w.begin + 1;
    } else if (a.antialias != 0) {
        w.begin = clamp_index(trunc(w.center - support + 0.5), a.in - 1);
        w.end = clamp_index(trunc(w.center + support + 0.5), a.in);
        if (w.end <= w.begin) w.end = w.begin + 1;
    } else {
        w.center -= 0.5;
        if (a.filter == Filter::kBilinear && w.center < 0.0) w.center = 0.0;
        const double beyond = a.in - 1 + support;
        if (w.center > beyond) w.center = beyond;
        const double nearest = floor(w.center);
        w.begin = clamp_index(nearest + 1.0 - support, a.in - 1);
        w.end = clamp_index(nearest + support, a.in - 1) + 1;
        // Clamped to the first pixel, all outputs alike: the second one has no weight.
        if (a.filter == Filter::kBilinear && w.center == 0.0) w.end = 1;
    }
    return w;
}

// Weight of pixel i before normalisation.
LR_DEVICE double raw_weight(const Axis& a, const BandWindow& w, double support, double inverse_stretch, int32_t i) {
    if (a.identity != 0 || a.filter == Filter::kNearest) return 1.0;
    if (a.antialias != 0) return filter_value(a.filter, rounded_product(i - w.center + 0.5, inverse_stretch), -0.5);
    // Taps beyond the border all fall on the border pixel.
    const double nearest = floor(w.center), fraction = w.center - nearest;
    double sum = 0.0;
    for (double tap = 1.0 - support; tap <= support; tap += 1.0)
        if (clamp_index(nearest + tap, a.in - 1) == i) sum += filter_value(a.filter, tap - fraction, -0.75);
    return sum;
}

LR_DEVICE double sum_of_warp(double x) {
    LR_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
    return x;
}

LR_DEVICE bool is_zero(double weight) { return fabs(weight) < kZeroWeight; }

// Output o of an axis, by the lanes of a warp.
LR_DEVICE void make_band(const Axis& a, int32_t o, int32_t* begin, int32_t* end, double* weight) {
    const double stretch = a.antialias != 0 && a.scale > 1.0 ? a.scale : 1.0;
    const double support = filter_support(a.filter) * stretch, inverse = 1.0 / stretch;
    BandWindow w = band_window(a, support, o);
    double total = 0.0;
    for (int32_t i = w.begin + lane_index(); i < w.end; i += 32) total += raw_weight(a, w, support, inverse, i);
    total = sum_of_warp(total);
    const bool empty = fabs(total) < kEmptyWindow;
    const int32_t last = w.end - 1;
    if (!empty && a.antialias != 0 && a.identity == 0 && a.filter != Filter::kNearest) {
        // A pixel at the very edge has no weight but for rounding. Without it no more outputs are open at a pixel than
        // most_open() says; begin and end still do not decrease.
        const bool left = is_zero(raw_weight(a, w, support, inverse, w.begin));
        const bool right = is_zero(raw_weight(a, w, support, inverse, last));
        if (left && w.end - w.begin > 1 && (o + 1 == a.out || band_window(a, support, o + 1).begin > w.begin))
            ++w.begin;
        if (right && w.end - w.begin > 1 && (o == 0 || band_window(a, support, o - 1).end < w.end)) --w.end;
    }
    for (int32_t i = w.begin + lane_index(); i < w.end; i += 32) {
        const double raw = raw_weight(a, w, support, inverse, i);
        weight[i - w.begin] = empty ? (i == last ? 1.0 : 0.0) : is_zero(raw) ? 0.0 : raw / total;
    }
    if (lane_index() == 0) *begin = w.begin, *end = w.end;
}

LR_KERNEL(kBandThreads)
bands_kernel(const BandsParams p) {
    const auto* axes = reinterpret_cast<const BandAxis*>(p.tables + p.axes);
    const int64_t chunks = (p.most_outputs + kBandWarps - 1) / kBandWarps;
    for (int64_t i = block_index(); i < chunks * p.count; i += block_count()) {
        const BandAxis& to = axes[i / chunks];
        const int64_t o = i % chunks * kBandWarps + warp_index();
        if (o >= to.axis.out) continue;
        make_band(to.axis, static_cast<int32_t>(o), reinterpret_cast<int32_t*>(p.tables + to.begin) + o,
                  reinterpret_cast<int32_t*>(p.tables + to.end) + o,
                  reinterpret_cast<double*>(p.tables + to.weight) + o * to.axis.taps);
    }
}

// A thread for each pixel.
LR_KERNEL(kBandThreads)
transposed_bands_kernel(const TransposeParams p) {
    const auto* axes = reinterpret_cast<const TransposedAxis*>(p.tables + p.axes);
    const int64_t stride = block_count() * thread_count(), all = int64_t{p.count} * p.most_pixels;
    for (int64_t i = block_index() * thread_count() + thread_index(); i < all; i += stride) {
        const TransposedAxis& to = axes[i / p.most_pixels];
        const auto pixel = static_cast<int32_t>(i % p.most_pixels);
        if (pixel >= to.in) continue;
        const Bands bands{reinterpret_cast<const int32_t*>(p.tables + to.begin),
                          reinterpret_cast<const int32_t*>(p.tables + to.end),
                          reinterpret_cast<const double*>(p.tables + to.weight)};
        const int32_t first = first_above(bands.end, to.out, pixel), end = first_above(bands.begin, to.out, pixel);
        reinterpret_cast<int32_t*>(p.tables + to.to_begin)[pixel] = first;
        reinterpret_cast<int32_t*>(p.tables + to.to_end)[pixel] = end;
        auto* weight = reinterpret_cast<double*>(p.tables + to.to_weight) + int64_t{pixel} * to.to_taps;
        for (int32_t o = first; o < end; ++o) weight[o - first] = band_weight(bands, to.taps, o, pixel);
    }
}

}  // namespace learned_resizer
