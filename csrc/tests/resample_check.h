// Runs the resample kernel on an image with given dtype, layout and strides, and compares with dense float64 matrices.
#pragma once

#include <algorithm>
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

template <class T>
Plan plan_for(const Image<T>& image, const Case& k, const Table& rows, const Table& columns, int multiprocessors) {
    PlanRequest request{};
    request.rows = {rows.in_size, static_cast<int64_t>(rows.start.size()), rows.start.data(), rows.offset.data(),
                    rows.weight.data()};
    request.columns = {columns.in_size, static_cast<int64_t>(columns.start.size()), columns.start.data(),
                       columns.offset.data(), columns.weight.data()};
    request.dtype = Storage<T>::dtype;
    request.planes = image.planes;
    request.channels = image.channels;
    request.vectors = vectors_allowed(request.dtype, image.origin, k.width, image.channels, image.stride_image,
                                      image.stride_plane, image.stride_channel, image.stride_row, image.stride_column);
    request.multiprocessors = multiprocessors;
    request.shared_memory = 227 * 1024;
    return make_plan(request);
}

template <class T>
std::vector<T> run_plan(const Plan& plan, const Image<T>& image, bool backwards, int64_t most_blocks = INT64_MAX) {
    std::vector<T> out(plan.shape.planes * plan.shape.out_height * plan.shape.out_width * plan.shape.channels);
    std::memset(static_cast<void*>(out.data()), 0xFF, out.size() * sizeof(T));
    ResampleParams p{};
    p.plan = plan.shape;
    p.tables = plan.tables.data();
    p.image = image.origin;
    p.planes_per_image = image.planes_per_image;
    p.stride_image = image.stride_image;
    p.stride_plane = image.stride_plane;
    p.stride_channel = image.stride_channel;
    p.stride_row = image.stride_row;
    p.stride_column = image.stride_column;
    p.output = out.data();
    if (!host::run_resample(p, backwards, most_blocks)) {
        std::printf("no kernel for form %d, slots %d\n", static_cast<int>(p.plan.form), p.plan.slots);
        ++failures;
    }
    return out;
}

inline std::string describe(const char* what, const char* dtype, const Case& k, const Dense& rows, const Dense& columns,
                            const Plan& plan) {
    char text[256];
    std::snprintf(
        text, sizeof(text),
        "%s %s %s %lldx%lld %lldx%lld -> %lldx%lld (form %d, slots %d, vectors %d, pieces %d, planes %d, channels %d)",
        what, dtype, k.layout == Layout::kNHWC ? "NHWC" : "NCHW", static_cast<long long>(k.batch),
        static_cast<long long>(k.channels), static_cast<long long>(k.height), static_cast<long long>(k.width),
        static_cast<long long>(rows.rows), static_cast<long long>(columns.rows), static_cast<int>(plan.shape.form),
        plan.shape.slots, plan.shape.vectors, plan.shape.pieces, plan.shape.group_planes, plan.shape.group_channels);
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

template <class T>
void check(const char* what, const Case& k, const Dense& rows, const Dense& columns, int multiprocessors = 132) {
    std::mt19937 random(static_cast<unsigned>(k.height * 131 + k.width * 17 + rows.rows * 7 + columns.rows));
    std::uniform_real_distribution<double> uniform(0.0, 1.0);
    Image<T> image = make_image<T>(k);
    std::memset(static_cast<void*>(image.memory.data()), 0xFF, image.memory.size() * sizeof(T));  // gaps: NaN or 255
    for (int64_t b = 0; b < (k.expanded ? 1 : k.batch); ++b)
        for (int64_t c = 0; c < k.channels; ++c)
            for (int64_t y = 0; y < k.height; ++y)
                for (int64_t x = 0; x < k.width; ++x)
                    image.origin[image.at(b, c, y, x)] = Storage<T>::put(
                        Storage<T>::dtype == DType::kUInt8 ? std::round(uniform(random)) : uniform(random) - 0.25);
    const Table row_table = table_of(rows), column_table = table_of(columns);
    const Plan plan = plan_for(image, k, row_table, column_table, multiprocessors);
    const std::string name = describe(what, Storage<T>::name, k, rows, columns, plan);
    const std::vector<T> out = run_plan(plan, image, false);
    // Again with the threads in the other order, and with two blocks that take all the turns.
    const std::vector<T> again = run_plan(plan, image, true, 2);
    ++checks;
    if (std::memcmp(out.data(), again.data(), out.size() * sizeof(T)) != 0) {
        std::printf("%s: depends on the order of the threads: a barrier is missing\n", name.c_str());
        ++failures;
        return;
    }
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
                    const int64_t at = y * columns.rows + x;
                    const int64_t where = image.channels > 1
                                              ? ((b * rows.rows + y) * columns.rows + x) * k.channels + c
                                              : ((b * k.channels + c) * rows.rows + y) * columns.rows + x;
                    const double got = Storage<T>::get(out[where]);
                    const double bound = static_cast<double>(additions + 4) * Storage<T>::unit * (magnitude[at] + 1.0);
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

}  // namespace learned_resizer::test
