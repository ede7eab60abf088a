// Random parameters in the dtypes and strides that modules have, and what the kernels should read from them.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "common/parameter.cuh"

namespace learned_resizer::test {

inline std::vector<float> draws(std::mt19937& random, size_t count, double mean, double deviation) {
    std::vector<float> r(count);
    for (auto& e : r) e = static_cast<float>(std::normal_distribution<double>(mean, deviation)(random));
    return r;
}

// Values in a dtype: `value` is what `data` holds.
struct Parameter {
    std::vector<float> value;
    std::vector<uint32_t> data;  // enough for float32
    DType dtype;

    Parameter() = default;
    Parameter(const std::vector<float>& values, DType dtype) : value(values.size()), data(values.size()), dtype(dtype) {
        for (size_t i = 0; i < values.size(); ++i) {
            store_parameter(data.data(), dtype, i, values[i]);
            value[i] = load_parameter(data.data(), dtype, i);
        }
    }
    Vector vector() const { return {data.data(), dtype}; }
};

// A weight [filters][channels][side][side], channels_last in memory; `value` is in logical order.
struct ConvWeight {
    int filters, channels, side;
    Parameter memory;
    std::vector<float> value;

    ConvWeight() = default;
    ConvWeight(std::mt19937& random, int filters, int channels, int side, DType dtype)
        : filters(filters),
          channels(channels),
          side(side),
          memory(draws(random, static_cast<size_t>(filters) * channels * side * side, 0.0,
                       1.0 / std::sqrt(side * side * channels)),
                 dtype) {
        const int taps = side * side;
        for (int f = 0; f < filters; ++f)
            for (int c = 0; c < channels; ++c)
                for (int tap = 0; tap < taps; ++tap) value.push_back(memory.value[(f * taps + tap) * channels + c]);
    }
    Weight weight() const {
        return {memory.data.data(), memory.dtype, {side * side * channels, 1, side * channels, channels}};
    }
};

// A norm whose vectors have different dtypes.
struct RandomNorm {
    Parameter mean, var, gamma, beta;
    float eps = 1e-3f;

    RandomNorm() = default;
    RandomNorm(std::mt19937& random, int filters, DType dtype)
        : mean(draws(random, filters, 0.3, 0.5), DType::kFloat32),
          var(draws(random, filters, 1.0, 0.1), DType::kFloat32),
          gamma(draws(random, filters, 1.0, 0.2), dtype),
          beta(draws(random, filters, 0.1, 0.3), dtype) {}
    Norm norm() const { return {mean.vector(), var.vector(), gamma.vector(), beta.vector(), eps}; }
    double scale(int c) const { return gamma.value[c] / std::sqrt(static_cast<double>(var.value[c]) + eps); }
    double shift(int c) const { return beta.value[c] - mean.value[c] * scale(c); }
    double apply(int c, double x) const { return scale(c) * x + shift(c); }
};

}  // namespace learned_resizer::test
