// Runs the resample kernel on an image with given dtype, layout and strides, and compares with dense float64 matrices.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "common/device.cuh"
#include "dense.h"
#include "resample/resample_plan.h"
#include "resample_host.h"

namespace learned_resizer::test {

inline int failures = 0;
inline int checks = 0;

// Storage of the five dtypes: conversion from and to double, and the largest error of a stored value.
template <class T>
struct Storage;
template <>
struct Storage<double> {
    static constexpr DType dtype = DType::kFloat64;
    static constexpr const char* name = "float64";
    static constexpr double unit = 0x1p-53;  // unit roundoff of the accumulator
    static double put(double x) { return x; }
    static double get(double x) { return x; }
    static double half_spacing(double) { return 0.0; }
};
template <>
struct Storage<float> {
    static constexpr DType dtype = DType::kFloat32;
    static constexpr const char* name = "float32";
    static constexpr double unit = 0x1p-24;
    static float put(double x) { return static_cast<float>(x); }
    static double get(float x) { return x; }
    static double half_spacing(double) { return 0.0; }
};
template <>
struct Storage<Half> {
    static constexpr DType dtype = DType::kFloat16;
    static constexpr const char* name = "float16";
    static constexpr double unit = 0x1p-24;
    static Half put(double x) { return {float_to_half(static_cast<float>(x))}; }
    static double get(Half x) { return half_to_float(x.bits); }
    static double half_spacing(double x) { return std::max(std::fabs(x) * 0x1p-11, 0x1p-25); }
};
template <>
struct Storage<BFloat16> {
    static constexpr DType dtype = DType::kBFloat16;
    static constexpr const char* name = "bfloat16";
    static constexpr double unit = 0x1p-24;
    static BFloat16 put(double x) { return {float_to_bfloat16(static_cast<float>(x))}; }
    static double get(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }
    static double half_spacing(double x) { return std::fabs(x) * 0x1p-8; }
};
template <>
struct Storage<uint8_t> {
    static constexpr DType dtype = DType::kUInt8;
    static constexpr const char* name = "uint8";
    static constexpr double unit = 0x1p-24;
    static uint8_t put(double x) { return static_cast<uint8_t>(std::lround(x * 255.0)); }
    static double get(uint8_t x) { return x; }
    static double half_spacing(double) { return 0.0; }
};

enum class Layout { kNCHW, kNHWC };

// A case: sizes, layout and how the image lies in memory.
struct Case {
    int64_t batch = 1, channels = 1, height = 1, width = 1;
    Layout layout = Layout::kNCHW;
    int64_t offset = 0;       // elements by which the image is shifted from an aligned address
    int64_t row_padding = 0;  // elements between rows
    bool pixel_gap = false;   // every second column of a wider image
    bool flipped = false;     // rows stored bottom up: a negative stride
    bool expanded = false;    // one image for the whole batch: a stride of zero
};

template <class T>
struct Image {
    std::vector<T> memory;
    T* origin = nullptr;
    int64_t stride_image = 0, stride_plane = 0, stride_channel = 0, stride_row = 0, stride_column = 0;
    int64_t planes = 0, planes_per_image = 0, channels = 0;

    std::array<int64_t, 5> strides() const {
        return {stride_image, stride_plane, stride_channel, stride_row, stride_column};
    }

    // b, c: batch and channel, whatever the layout.
    int64_t at(int64_t b, int64_t c, int64_t y, int64_t x) const {
        return b * stride_image + c * (channels > 1 ? stride_channel : stride_plane) + y * stride_row +
               x * stride_column;
    }
};

template <class T>
Image<T> make_image(const Case& k) {
    Image<T> m;
    const bool inner = k.layout == Layout::kNHWC;
    m.channels = inner ? k.channels : 1;
    m.planes = inner ? k.batch : k.batch * k.channels;
    m.planes_per_image = inner ? 1 : k.channels;
    m.stride_channel = 1;
    m.stride_column = m.channels * (k.pixel_gap ? 2 : 1);
    m.stride_row = k.width * m.stride_column + k.row_padding;
    m.stride_plane = k.height * m.stride_row;
    m.stride_image = inner ? m.stride_plane : k.channels * m.stride_plane;
    if (inner) m.stride_plane = 0;
    // Exactly the elements that exist (no padding after the last one): the address sanitizer sees any read beyond them.
    const int64_t last = (k.expanded ? 0 : k.batch - 1) * m.stride_image +
                         (inner ? 0 : k.channels - 1) * m.stride_plane + (k.height - 1) * m.stride_row +
                         (k.width - 1) * m.stride_column + m.channels - 1;
    m.memory.resize(k.offset + last + 1);
    if (k.expanded) m.stride_image = 0;
    m.origin = m.memory.data() + k.offset;
    if (k.flipped) {
        m.origin += (k.height - 1) * m.stride_row;
        m.stride_row = -m.stride_row;
    }
    return m;
}

// One axis of a case. In the adjoint `in` is the crop, which begins at `lead` of `whole` pixels.
struct Spec {
    int64_t in, out;
    Filter filter;
    bool antialias;
    double offset = 0.0, extent = 0.0;
    int64_t lead = 0, whole = 0;

    Axis axis() const {
        const learned_resizer::Filter filters[] = {learned_resizer::Filter::kBilinear,
                                                   learned_resizer::Filter::kBicubic, learned_resizer::Filter::kLanczos,
                                                   learned_resizer::Filter::kBox, learned_resizer::Filter::kHamming};
        return make_axis(static_cast<int32_t>(in), static_cast<int32_t>(out), filters[static_cast<int>(filter)],
                         antialias, offset, extent);
    }
    int64_t pixels() const { return whole == 0 ? in : whole; }
    // Of the adjoint: [pixels][out].
    Dense matrix(bool adjoint) const {
        Dense m = resampling_matrix(in, out, filter, antialias, offset, extent);
        // The package's tables have zeros where this has the roundings of a sine.
        for (double& value : m.value)
            if (std::fabs(value) < 1e-13) value = 0.0;
        if (!adjoint) return m;
        const Dense t = transposed(m);
        Dense padded{pixels(), out, std::vector<double>(pixels() * out)};
        std::copy(t.value.begin(), t.value.end(), padded.value.begin() + lead * out);
        return padded;
    }
};

// Images of one size and what becomes of them.
template <class T>
struct Setup {
    Image<T> image;  // in the adjoint the gradient of the result
    Spec rows, columns;
    bool adjoint = false, mirrored = false;  // mirrored: of the adjoint's output

    int64_t out_height() const { return adjoint ? rows.pixels() : rows.out; }
    int64_t out_width() const { return adjoint ? columns.pixels() : columns.out; }
    int64_t in_width() const { return adjoint ? columns.out : columns.in; }
    int64_t elements() const { return image.planes * out_height() * out_width() * image.channels; }
};

template <class T>
ResamplePlan plan_for(const std::vector<Setup<T>>& setups, int multiprocessors) {
    ResamplePlanRequest request{};
    request.dtype = request.out_dtype = Storage<T>::dtype;
    request.transposed = setups[0].adjoint;
    request.multiprocessors = multiprocessors;
    request.shared_memory = 227 * 1024;
    for (const Setup<T>& s : setups) {
        const Image<T>& image = s.image;
        ResamplePlanTensor t{};
        t.interleaved = image.channels > 1;
        t.channels = t.interleaved ? image.channels : image.planes_per_image;
        t.images = image.planes / image.planes_per_image;
        t.vectors = vectors_allowed(request.dtype, image.origin, s.in_width(), image.channels, image.strides());
        t.rows = s.rows.axis(), t.columns = s.columns.axis();
        t.out_height = static_cast<int32_t>(s.rows.pixels()), t.out_width = static_cast<int32_t>(s.columns.pixels());
        t.top = static_cast<int32_t>(s.rows.lead), t.left = static_cast<int32_t>(s.columns.lead);
        t.mirrored = s.mirrored;
        request.tensors.push_back(t);
    }
    return make_resample_plan(request);
}

// The results, one after another, each in exactly its memory. `tables` outlives the launches.
template <class T>
std::vector<std::vector<T>> run_plan(const ResamplePlan& plan, const std::vector<Setup<T>>& setups, bool backwards,
                                     int64_t most_blocks = INT64_MAX) {
    std::vector<Quad<uint32_t>> memory(plan.bytes / 16);
    std::memset(memory.data(), 0xFF, plan.bytes);
    auto* tables = reinterpret_cast<unsigned char*>(memory.data());
    std::memcpy(tables, plan.stored.data(), plan.stored.size());
    host::make_resample_tables(plan, tables, backwards);
    std::vector<std::vector<T>> outs;
    std::vector<ResampleImage> images;
    for (const Setup<T>& s : setups) {
        outs.emplace_back(s.elements());
        std::memset(static_cast<void*>(outs.back().data()), 0xFF, outs.back().size() * sizeof(T));
        ResampleImage image{s.image.origin, {}, outs.back().data()};
        const auto strides = s.image.strides();
        std::copy(strides.begin(), strides.end(), image.stride);
        images.push_back(image);
    }
    ResampleParams p{};
    p.plan = plan.shape;
    p.tables = tables;
    p.images = images.size() > 1 ? images.data() : nullptr;
    p.image = images[0];
    if (!host::run_resample(p, backwards, most_blocks)) {
        std::printf("no kernel for slots %d\n", p.plan.slots);
        ++failures;
    }
    return outs;
}

template <class T>
std::string describe(const char* what, const Case& k, const Setup<T>& s, const ResamplePlan& plan) {
    const ResampleTensor& t = plan.tensors[0];
    char text[256];
    std::snprintf(text, sizeof(text),
                  "%s %s %s %s %lldx%lld %lldx%lld -> %lldx%lld (slots %d, outputs %d, vectors %d, unit %d, pieces %d, "
                  "planes %d, channels %d)",
                  what, s.adjoint ? "adjoint" : "forward", Storage<T>::name,
                  k.layout == Layout::kNHWC ? "NHWC" : "NCHW", static_cast<long long>(k.batch),
                  static_cast<long long>(k.channels), static_cast<long long>(k.height), static_cast<long long>(k.width),
                  static_cast<long long>(s.out_height()), static_cast<long long>(s.out_width()), plan.shape.slots,
                  plan.shape.outputs, plan.shape.vectors, t.unit_rows, t.pieces, t.group_planes, t.group_channels);
    return text;
}

// The exact result of one plane, and the same sum with all terms positive, which the rounding error is proportional to.
inline void apply_dense(const Dense& rows, const Dense& columns, const std::vector<double>& plane,
                        std::vector<double>& exact, std::vector<double>& magnitude) {
    const int64_t h = rows.columns, w = columns.columns;
    std::vector<double> half(h * columns.rows), half_magnitude(h * columns.rows);
    for (int64_t y = 0; y < h; ++y)
        for (int64_t o = 0; o < columns.rows; ++o)
            for (int64_t x = 0; x < w; ++x) {
                half[y * columns.rows + o] += columns.at(o, x) * plane[y * w + x];
                half_magnitude[y * columns.rows + o] += std::fabs(columns.at(o, x) * plane[y * w + x]);
            }
    exact.assign(rows.rows * columns.rows, 0.0);
    magnitude.assign(rows.rows * columns.rows, 0.0);
    for (int64_t q = 0; q < rows.rows; ++q)
        for (int64_t y = 0; y < h; ++y)
            for (int64_t o = 0; o < columns.rows; ++o) {
                exact[q * columns.rows + o] += rows.at(q, y) * half[y * columns.rows + o];
                magnitude[q * columns.rows + o] += std::fabs(rows.at(q, y)) * half_magnitude[y * columns.rows + o];
            }
}

// Fills an image with numbers; gaps become NaN or 255.
template <class T>
Image<T> random_image(const Case& k, unsigned seed) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    Image<T> image = make_image<T>(k);
    std::memset(static_cast<void*>(image.memory.data()), 0xFF, image.memory.size() * sizeof(T));
    for (int64_t b = 0; b < (k.expanded ? 1 : k.batch); ++b)
        for (int64_t c = 0; c < k.channels; ++c)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    image.origin[image.at(b, c, y, x)] = Storage<T>::put(
                        Storage<T>::dtype == DType::kUInt8 ? std::round(uniform(random)) : uniform(random) - 0.25);
    return image;
}

// Compares a result with the dense one.
template <class T>
void compare(const std::string& name, const Case& k, const Setup<T>& s, const std::vector<T>& out) {
    const Dense rows = s.rows.matrix(s.adjoint), columns = s.columns.matrix(s.adjoint);
    const Image<T>& image = s.image;
    ++checks;
    // Each term is rounded once as a weight of each axis, and once in each addition that follows it (Higham,
    // section 3.1).
    const int64_t additions = rows.columns + columns.columns;
    double worst = 0.0;
    for (int64_t b = 0; b < k.batch; ++b)
        for (int64_t c = 0; c < k.channels; ++c) {
            std::vector<double> plane(k.height * k.width), exact, magnitude;
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    plane[y * k.width + x] = Storage<T>::get(image.origin[image.at(b, c, y, x)]);
            apply_dense(rows, columns, plane, exact, magnitude);
            for (int64_t y = 0; y < rows.rows; ++y)
                for (int64_t x = 0; x < columns.rows; ++x) {
                    const int64_t at = y * columns.rows + x, to = s.mirrored ? columns.rows - 1 - x : x;
                    const int64_t where = image.channels > 1
                                              ? ((b * rows.rows + y) * columns.rows + to) * k.channels + c
                                              : ((b * k.channels + c) * rows.rows + y) * columns.rows + to;
                    const double got = Storage<T>::get(out[where]);
                    // 8: the dense weights are quotients of other sines than the tables', each a few units off.
                    const double bound = static_cast<double>(additions + 8) * Storage<T>::unit * (magnitude[at] + 1.0);
                    double error;
                    if constexpr (std::is_same_v<T, uint8_t>) {
                        // Half up and saturated; a value within the bound of a tie may go either way.
                        const double low = std::clamp(std::floor(exact[at] + 0.5 - bound), 0.0, 255.0);
                        const double high = std::clamp(std::floor(exact[at] + 0.5 + bound), 0.0, 255.0);
                        error = got < low ? low - got : got > high ? got - high : 0.0;
                    } else {
                        error =
                            std::fabs(got - exact[at]) - bound - Storage<T>::half_spacing(std::fabs(exact[at]) + bound);
                        if (std::isnan(got)) error = std::numeric_limits<double>::infinity();
                    }
                    worst = std::max(worst, error);
                }
        }
    if (worst > 0.0) {
        std::printf("%s: beyond the error bound by %g\n", name.c_str(), worst);
        ++failures;
    }
}

// Moved, not copied: an image points into its own memory.
template <class T>
std::vector<Setup<T>> one_setup(Setup<T>&& setup) {
    std::vector<Setup<T>> setups;
    setups.push_back(std::move(setup));
    return setups;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// `k`: the image, in the adjoint the gradient.
template <class T>
void check(const char* what, const Case& k, const Spec& rows, const Spec& columns, bool adjoint,
           int multiprocessors = 132, bool mirrored = false) {
    const auto seed = static_cast<unsigned>(k.height * 131 + k.width * 17 + rows.in * 7 + columns.out);
    const std::vector<Setup<T>> setups =
        one_setup(Setup<T>{random_image<T>(k, seed), rows, columns, adjoint, mirrored});
    const ResamplePlan plan = plan_for(setups, multiprocessors);
    const std::string name = describe(what, k, setups[0], plan);
    const auto out = run_plan(plan, setups, false);
    // Again with the threads in the other order, and with two blocks that take all the turns.
    const auto again = run_plan(plan, setups, true, 2);
    if (!same_bits(out[0], again[0])) {
        std::printf("%s: depends on the order of the threads: a barrier is missing\n", name.c_str());
        ++failures;
        return;
    }
    compare(name, k, setups[0], out[0]);
}

}  // namespace learned_resizer::test
