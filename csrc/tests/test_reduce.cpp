// The second stage of reductions, run on the host, against float64 formulas. Usage: test_reduce
// statistics|gradients|running

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "reduce/reduce.cuh"

namespace learned_resizer::test {
namespace {

int failures = 0;
std::mt19937 generator(1);

double draw(double mean, double deviation) { return std::normal_distribution<double>(mean, deviation)(generator); }

void expect(bool right, const char* what, int rows, int channels, int filters, double got, double exact) {
    if (right) return;
    std::printf("%s, %d rows, %d of %d channels: got %.9g, expected %.9g\n", what, rows, filters, channels, got, exact);
    ++failures;
}

double half_unit(DType dtype) {
    return dtype == DType::kFloat32 ? std::ldexp(1.0, -24) : std::ldexp(1.0, dtype == DType::kFloat16 ? -11 : -8);
}

// The values of a vector or tensor of one of the three dtypes.
struct Values {
    DType dtype;
    std::vector<float> wide;
    std::vector<uint16_t> narrow;
    Values(DType d, size_t count) : dtype(d), wide(count, std::nanf("")), narrow(count, 0xFFFF) {}
    void* data() { return dtype == DType::kFloat32 ? static_cast<void*>(wide.data()) : narrow.data(); }
    double at(size_t i) const { return load_parameter(const_cast<Values*>(this)->data(), dtype, i); }
    void set(size_t i, double value) { store_parameter(data(), dtype, i, static_cast<float>(value)); }
};

constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr int kRows[] = {1, 2, 131, 264, 350};
constexpr int kFilters[][2] = {{16, 5}, {16, 16}, {32, 24}, {32, 32}};

void test_statistics() {
    for (const int rows : kRows)
        for (const auto [n, filters] : kFilters)
            for (const bool empty : {false, true}) {
                std::vector<float> partials(rows * 3 * n);
                for (int r = 0; r < rows; ++r) {
                    // Counts whose sum float32 does not hold, some of them 0.
                    const float count = empty || r % 5 == 3 ? 0.0f : static_cast<float>(generator() % (1 << 20));
                    for (int c = 0; c < n; ++c) {
                        float* at = &partials[3 * r * n + c];
                        at[0] = count;
                        // Means 1e5 deviations from zero.
                        at[n] = count > 0.0f ? static_cast<float>(draw(1e5, 1.0)) : 0.0f;
                        at[2 * n] = count * static_cast<float>(std::abs(draw(1.0, 0.3)));
                    }
                }
                std::vector<float> got[2];
                for (int turn = 0; turn < 2; ++turn) {
                    got[turn].assign(3 * filters, std::nanf(""));
                    ReduceStatisticsParams p{partials.data(), rows, n, filters, got[turn].data()};
                    const int64_t blocks = (filters + kReduceChannels - 1) / kReduceChannels;
                    host::run({blocks, kReduceThreads, 8 * kReduceThreads, turn == 1},
                              [&] { reduce_statistics_kernel(p); });
                }
                expect(std::memcmp(got[0].data(), got[1].data(), 12 * filters) == 0, "order of threads", rows, n,
                       filters, 0, 0);
                for (int c = 0; c < filters; ++c) {
                    double count = 0.0, mean = 0.0, squares = 0.0;
                    for (int r = 0; r < rows; ++r) {
                        const float* at = &partials[3 * r * n + c];
                        count += at[0], mean += static_cast<double>(at[0]) * at[n];
                    }
                    mean /= std::max(count, 1.0);
                    for (int r = 0; r < rows; ++r) {
                        const float* at = &partials[3 * r * n + c];
                        squares += at[2 * n] + at[0] * (at[n] - mean) * (at[n] - mean);
                    }
                    const double exact[] = {mean, squares / std::max(count, 1.0), squares / std::max(count - 1, 1.0)};
                    for (int k = 0; k < 3; ++k)
                        // A part in 1e8 for the order of the float64 sums.
                        expect(std::abs(got[0][k * filters + c] - exact[k]) <= 7e-8 * std::abs(exact[k]), "statistics",
                               rows, n, filters, got[0][k * filters + c], exact[k]);
                }
            }
}

void check_gradients(int rows, int n, int filters, DType dtype, bool last, bool norm, bool skip, bool before) {
    constexpr int kChannels = 3, kSide = 7;
    const int sizes[2] = {filters * kChannels * kSide * kSide, filters};
    const int64_t elements = sizes[0] + sizes[1], pitch = elements + 3 * n;
    std::vector<float> partials(rows * pitch);
    for (auto& value : partials) value = static_cast<float>(draw(0.1, 1.0));
    std::vector<double> sums(pitch);
    for (int64_t i = 0; i < rows * pitch; ++i) sums[i % pitch] += partials[i];

    ReduceGradientsParams p{};
    p.partials = partials.data(), p.rows = rows, p.pitch = pitch, p.tensors = 2;
    Values weight(dtype, sizes[0]), bias(DType::kFloat32, sizes[1]);
    p.tensor[0] = {weight.data(), dtype, {filters, kChannels, kSide, kSide}, {147, 49, 7, 1}, sizes[0]};
    if (last) p.tensor[0].stride[1] = 1, p.tensor[0].stride[2] = 21, p.tensor[0].stride[3] = 3;
    p.tensor[1] = {bias.data(), DType::kFloat32, {filters, 1, 1, 1}, {1, 1, 1, 1}, filters};

    PrologueSumsParams& q = p.prologue;
    Values mean(DType::kFloat32, filters), var(dtype, filters), gamma(dtype, filters), beta(dtype, filters);
    Values grad_gamma(dtype, filters), grad_beta(DType::kFloat16, filters);
    std::vector<float> input_before, skip_before, grad_mean(filters), grad_var(filters), skip_sums(2 * filters);
    for (int i = 0; i < 2 * filters; ++i) {
        input_before.push_back(static_cast<float>(draw(0.0, 1.0)));
        skip_before.push_back(static_cast<float>(draw(0.0, 1.0)));
    }
    for (int c = 0; c < filters; ++c) {
        mean.set(c, draw(2.0, 1.0)), var.set(c, std::abs(draw(1.0, 0.3)));
        gamma.set(c, draw(1.0, 0.3)), beta.set(c, draw(0.0, 1.0));
    }
    if (norm || skip) q.channels = n, q.filters = filters;
    if (norm) {
        q.norm = {{mean.data(), mean.dtype}, {var.data(), dtype}, {gamma.data(), dtype}, {beta.data(), dtype}, 1e-3f};
        if (before) q.input_before = input_before.data();
        q.grad_mean = grad_mean.data(), q.grad_var = grad_var.data();
        q.grad_gamma = {grad_gamma.data(), dtype}, q.grad_beta = {grad_beta.data(), DType::kFloat16};
    }
    if (skip) {
        if (before) q.skip_before = skip_before.data();
        q.skip_sums = skip_sums.data();
    }
    const auto run = [&](bool backwards) {
        host::run({ReduceGradients::blocks(p), kReduceThreads, 8 * kReduceThreads, backwards},
                  [&] { reduce_gradients_kernel(p); });
    };
    run(true);
    const Values first = weight;
    run(false);
    expect(std::memcmp(first.wide.data(), weight.wide.data(), 4 * sizes[0]) == 0 && first.narrow == weight.narrow,
           "order of threads", rows, n, filters, 0, 0);

    // Sums of float64 that cancel: their error is a part of the terms, not of the result.
    const auto near = [&](double got, double exact, DType type, double terms = 0.0) {
        expect(std::abs(got - exact) <=
                   1.01 * half_unit(type) * std::abs(exact) + terms + 1e-7 * (type == DType::kFloat16),
               "gradients", rows, n, filters, got, exact);
    };
    for (int i = 0; i < sizes[0]; ++i) {
        const int f = i / 147, c = i / 49 % 3, pixel = i % 49;
        near(weight.at(last ? f * 147 + pixel * 3 + c : i), sums[i], dtype, 1e-13 * rows);
    }
    for (int c = 0; c < filters; ++c) {
        near(bias.at(c), sums[sizes[0] + c], DType::kFloat32, 1e-13 * rows);
        const double* own = &sums[elements + c];
        if (norm) {
            const double total = own[n] + (before ? input_before[c] : 0.0f);
            const double weighted = own[0] + (before ? input_before[filters + c] : 0.0f);
            const double r = 1.0 / std::sqrt(var.at(c) + double{1e-3f}), scale = r * gamma.at(c);
            const double grad = r * (weighted - mean.at(c) * total);
            // r is rounded to float32.
            const double extra = 2.0 * half_unit(DType::kFloat32);
            near(grad_mean[c], -scale * total, DType::kFloat32, extra * std::abs(scale * total));
            near(grad_var[c], -0.5 * scale * r * grad, DType::kFloat32, 3 * extra * std::abs(scale * r * grad));
            near(grad_gamma.at(c), grad, dtype, extra * std::abs(grad));
            near(grad_beta.at(c), total, DType::kFloat16);
        }
        if (skip) {
            near(skip_sums[c], own[n] + (before ? skip_before[c] : 0.0f), DType::kFloat32, 1e-13 * rows);
            near(skip_sums[filters + c], own[2 * n] + (before ? skip_before[filters + c] : 0.0f), DType::kFloat32,
                 1e-13 * rows);
        }
    }
}

void test_gradients() {
    int turn = 0;
    for (const int rows : kRows)
        for (const auto [n, filters] : kFilters) {
            ++turn;
            check_gradients(rows, n, filters, kDTypes[turn % 3], turn % 2 == 0, turn % 4 != 0, turn % 5 < 3,
                            turn % 3 > 0);
        }
    check_gradients(3, 16, 16, DType::kFloat32, false, false, false, false);
}

void test_running() {
    constexpr int kNorms = 3, kChannels = 24;
    const int64_t norm_stride = 100, row_stride = 32;
    for (const DType dtype : kDTypes)
        for (const float momentum : {0.1f, 0.9f, -1.0f}) {
            std::vector<float> statistics(kNorms * norm_stride);
            for (auto& value : statistics) value = static_cast<float>(draw(3.0, 1.0));
            std::vector<Values> mean(kNorms, Values(dtype, kChannels)), var = mean;
            std::vector<int64_t> tracked{0, 4, 77};
            RunningStatisticsParams p{};
            p.row_stride = row_stride, p.norms = kNorms, p.filters = kChannels;
            for (int i = 0; i < kNorms; ++i) {
                for (int c = 0; c < kChannels; ++c) mean[i].set(c, draw(3.0, 1.0)), var[i].set(c, draw(3.0, 1.0));
                p.norm[i] = {{mean[i].data(), dtype},
                             {var[i].data(), dtype},
                             &tracked[i],
                             momentum,
                             statistics.data() + i * norm_stride};
            }
            const std::vector<Values> old_mean = mean, old_var = var;
            const std::vector<int64_t> old_tracked = tracked;
            host::run({kNorms, kRunningThreads, 0, false}, [&] { running_statistics_kernel(p); });
            for (int i = 0; i < kNorms; ++i) {
                const int64_t batches = old_tracked[i] + 1;
                expect(tracked[i] == batches, "tracked", i, 0, 0, static_cast<double>(tracked[i]), 0);
                const double weight = momentum < 0.0f ? 1.0 / static_cast<double>(batches) : momentum;
                for (int c = 0; c < kChannels; ++c)
                    for (const bool second : {false, true}) {
                        const Values& from = second ? old_var[i] : old_mean[i];
                        const double old = from.at(c), got = (second ? var : mean)[i].at(c);
                        const double next = statistics[i * norm_stride + 2 * second * row_stride + c];
                        // `next`, the difference and the result are rounded.
                        expect(std::abs(got - (old + weight * (next - old))) <=
                                   half_unit(dtype) * (2.0 * std::abs(next) + 2.0 * std::abs(old)),
                               "running", 0, kChannels, kChannels, got, old + weight * (next - old));
                    }
            }
        }
}

}  // namespace
}  // namespace learned_resizer::test

int main(int argc, char** argv) {
    using namespace learned_resizer::test;
    const std::string group = argc > 1 ? argv[1] : "";
    if (group == "statistics") test_statistics();
    if (group == "gradients") test_gradients();
    if (group == "running") test_running();
    if (failures == 0) std::printf("ok\n");
    return failures != 0;
}
