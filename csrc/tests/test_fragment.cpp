// The fragments of csrc/core/common/fragment.cuh against plain sums, in each arithmetic and both orders of terms.
// Usage: test_fragment

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "common/fragment.cuh"

namespace learned_resizer {
namespace {

int failures = 0;

// d = (A B) B2: a product of 32 terms from memory whose result, 16 columns, is the operand of a second one.
template <Arithmetic M>
void check_chain(const char* name, double unit) {
    using F = Fragments<M>;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<typename F::S> a(16 * 32), b(32 * 16), b2(16 * 16);
    for (auto* m : {&a, &b, &b2})
        for (auto& x : *m) x = F::encode(normal(random));
    // B in the order in which the lanes read it: [step][tile][lane][4].
    std::vector<typename F::S> linear(2 * 2 * 32 * 4), chained(2 * 32 * 4);
    for (int tile = 0; tile < 2; ++tile)
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) {
                const int column = 8 * tile + lane / 4;
                for (int step = 0; step < 2; ++step)
                    linear[((step * 2 + tile) * 32 + lane) * 4 + i] =
                        b[(16 * step + linear_term(lane % 4, i)) * 16 + column];
                chained[(tile * 32 + lane) * 4 + i] = b2[chained_term(lane % 4, i) * 16 + column];
            }
    std::vector<float> out(16 * 16);
    host::run({1, 32, 0, false}, [&] {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        float c[2][4] = {}, d[2][4] = {};
        for (int step = 0; step < 2; ++step) {
            const auto fragment = F::load_a(&a[g * 32 + 16 * step + 4 * t], &a[(g + 8) * 32 + 16 * step + 4 * t]);
            for (int tile = 0; tile < 2; ++tile)
                F::multiply(c[tile], fragment, F::load_b(&linear[((step * 2 + tile) * 32 + lane) * 4]));
        }
        const auto fragment = F::chain(c[0], c[1]);
        for (int tile = 0; tile < 2; ++tile) {
            F::multiply(d[tile], fragment, F::load_b(&chained[(tile * 32 + lane) * 4]));
            for (int i = 0; i < 4; ++i) out[(g + i / 2 * 8) * 16 + 8 * tile + 2 * t + i % 2] = d[tile][i];
        }
    });
    double worst = 0.0, scale = 0.0;
    for (int p = 0; p < 16; ++p)
        for (int q = 0; q < 16; ++q) {
            double exact = 0.0;
            for (int m = 0; m < 16; ++m) {
                double inner = 0.0;
                for (int k = 0; k < 32; ++k) inner += double(F::decode(a[p * 32 + k])) * F::decode(b[k * 16 + m]);
                exact += inner * F::decode(b2[m * 16 + q]);
            }
            worst = std::max(worst, std::fabs(out[p * 16 + q] - exact));
            scale = std::max(scale, std::fabs(exact));
        }
    std::printf("%s: %.2g of the largest value\n", name, worst / scale);
    // The operands are exact; the middle is rounded once, to half a unit of its own size, and 16 of those errors add
    // up.
    if (!(worst <= 4 * unit * scale)) {
        std::printf("%s: beyond the bound\n", name);
        ++failures;
    }
}

template <Arithmetic M>
void check_transposed(const char* name) {
    alignas(16) uint16_t memory[32][8];
    for (int i = 0; i < 32; ++i)
        for (int j = 0; j < 8; ++j) memory[i][j] = static_cast<uint16_t>(8 * i + j);
    int wrong = 0;
    host::run({1, 32, 0, false}, [&] {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        uint32_t r[4];
        load_matrices_transposed(r, memory[lane]);
        for (int m = 0; m < 4; ++m)
            wrong += r[m] != (memory[8 * m + 2 * t][g] | static_cast<uint32_t>(memory[8 * m + 2 * t + 1][g]) << 16);
        wrong += shuffle_xor(static_cast<float>(lane), 5) != static_cast<float>(lane ^ 5);
        wrong += shuffle(static_cast<float>(lane), 9) != 9.0f;
    });
    if (wrong != 0) {
        std::printf("%s: %d wrong elements\n", name, wrong);
        ++failures;
    }
}

// How the emulated tensor core sums (host/tensor_core.h). Elements (0, 0) and (8, 1) of C: `c` plus the products of `a`
// and `b`, of which tf32 takes the first 8.
struct Sum {
    const char* what;
    float c;
    std::vector<float> a, b;
    float expected;
};
enum class Format { kHalf, kBFloat16, kTF32 };

float multiply(Format format, float c, const std::vector<float>& a, const std::vector<float>& b) {
    float first = 0.0f, last = 0.0f;
    host::run({1, 32, 0, false}, [&] {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const auto element = [](const std::vector<float>& v, size_t k) { return k < v.size() ? v[k] : 0.0f; };
        const auto of_a = [&](int row, int k) { return g == row ? element(a, k) : 0.0f; };
        const auto of_b = [&](int k) { return g < 2 ? element(b, k) : 0.0f; };
        float sum[4] = {c, c, c, c};
        if (format == Format::kTF32) {
            mma_tf32(sum, {of_a(0, t), of_a(0, t), of_a(0, t + 4), of_a(0, t + 4)}, {of_b(t), of_b(t + 4)});
        } else {
            const auto pack = [&](float low, float high) {
                return format == Format::kHalf ? pack_half(low, high) : pack_bfloat16(low, high);
            };
            const uint32_t low = pack(of_a(0, 2 * t), of_a(0, 2 * t + 1)),
                           high = pack(of_a(0, 2 * t + 8), of_a(0, 2 * t + 9));
            const uint32_t x[4] = {low, low, high, high};
            const uint32_t y[2] = {pack(of_b(2 * t), of_b(2 * t + 1)), pack(of_b(2 * t + 8), of_b(2 * t + 9))};
            if (format == Format::kHalf)
                mma_half(sum, x, y);
            else
                mma_bfloat16(sum, x, y);
        }
        if (lane == 0) first = sum[0], last = sum[3];
    });
    if (first != last && !(std::isnan(first) && std::isnan(last))) {
        std::printf("two equal elements of a product differ: %.9g, %.9g\n", first, last);
        ++failures;
    }
    return first;
}

void check_sums() {
    const auto two = [](int exponent) { return std::ldexp(1.0f, exponent); };
    const float x = two(-12), y = two(-13), infinity = INFINITY;
    const Sum sums[] = {
        {"2^-24 + 2^-25 beyond 1 would be rounded up, and are cut off", 1.0f, {x, x}, {x, y}, 1.0f},
        {"1.5 units in the last place are one", 1.0f, {x, x, x}, {x, x, x}, 1.0f + two(-23)},
        {"two products of half a unit meet in the guard bit", 1.0f, {x, x}, {x, x}, 1.0f + two(-23)},
        {"four of a quarter are below it, though together one unit", 1.0f, {x, x, x, x}, {y, y, y, y}, 1.0f},
        {"which they keep where nothing is larger", 0.0f, {x, x, x, x}, {y, y, y, y}, two(-23)},
        {"a small accumulator is lost beside a large product", two(-25), {1.0f}, {1.0f}, 1.0f},
        {"a product of two significands of 1.5 has exponent 0: 2^-24 stays beside it",
         0.0f,
         {1.5f, -1.5f, x},
         {1.5f, 1.5f, x},
         two(-24)},
        {"2^24 in the accumulator: 1.5 below its last bit of 2", two(24), {1.0f, 0.5f}, {1.0f, 1.0f}, two(24)},
        {"cancellation within a block keeps the accumulator", 1.0f, {two(12), two(12)}, {two(12), -two(12)}, 1.0f},
        {"infinity", 1.0f, {infinity, 1.0f}, {1.0f, 1.0f}, infinity},
        {"infinity of both signs", -infinity, {infinity}, {1.0f}, NAN},
        {"infinity times zero", 0.0f, {infinity}, {0.0f}, NAN},
    };
    const auto expect = [](const char* what, float got, float expected) {
        if (got == expected || (std::isnan(got) && std::isnan(expected))) return;
        std::printf("%s: %.9g, expected %.9g\n", what, got, expected);
        ++failures;
    };
    const auto negative = [](std::vector<float> v) {
        for (float& e : v) e = -e;
        return v;
    };
    for (const Format format : {Format::kHalf, Format::kBFloat16, Format::kTF32}) {
        for (const Sum& s : sums) {
            expect(s.what, multiply(format, s.c, s.a, s.b), s.expected);
            // Towards zero, not down.
            expect(s.what, multiply(format, -s.c, negative(s.a), s.b), -s.expected);
        }
        // The same cancellation in two blocks: 1 + 2^24 is cut off to 2^24 between them.
        std::vector<float> a(format == Format::kTF32 ? 5 : 9, 0.0f);
        a.front() = two(12), a.back() = -two(12);
        expect("cancellation between blocks loses it", multiply(format, 1.0f, a, std::vector<float>(a.size(), two(12))),
               0.0f);
    }
    expect("a subnormal float16 counts as 2^-14", multiply(Format::kHalf, 0.0f, {two(-24)}, {two(-14)}), two(-38));
    expect("a subnormal float32", multiply(Format::kTF32, two(-149), {two(-75)}, {two(-74)}), two(-148));
}

// The gradient of a weight: one element's chain over a warp's pixels. A training step of 64 images of 448x448 has 6 082
// pixels for each of the stem's 16 warps on 132 multiprocessors; here 8192, and products of one sign, all of which are
// cut off in the same direction. A block of N terms loses at most 2^-23 of its sum and N times 2^-24 of its largest
// exponent, so that M blocks lose at most (2 + N) 2^-24 M of the last sum.
template <Arithmetic M>
void check_drift(const char* name, int terms, double bound) {
    using F = Fragments<M>;
    constexpr int kSteps = 8192 / 16;
    std::mt19937 random(5);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    std::vector<typename F::S> a(16 * 16 * kSteps), b(16 * 8 * kSteps);
    for (auto* m : {&a, &b})
        for (auto& e : *m) e = F::encode(uniform(random));
    std::vector<float> got(16 * 8);
    host::run({1, 32, 0, false}, [&] {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        float c[4] = {};
        for (int step = 0; step < kSteps; ++step) {
            const auto* rows = &a[step * 256 + 4 * t];
            F::multiply(c, F::load_a(rows + 16 * g, rows + 16 * (g + 8)), F::load_b(&b[step * 128 + 16 * g + 4 * t]));
        }
        for (int i = 0; i < 4; ++i) got[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
    });
    double error = 0.0, norm = 0.0;
    for (int p = 0; p < 16; ++p)
        for (int q = 0; q < 8; ++q) {
            double exact = 0.0;
            for (int step = 0; step < kSteps; ++step)
                for (int k = 0; k < 16; ++k)
                    exact += double(F::decode(a[step * 256 + 16 * p + k])) * F::decode(b[step * 128 + 16 * q + k]);
            error += std::pow(got[p * 8 + q] - exact, 2), norm += exact * exact;
        }
    const double drift = std::sqrt(error / norm), most = std::ldexp(2.0 + terms, -24) * (8192 / terms);
    std::printf("%s: 8192 products of one sign drift by %.2g of at most %.2g, bound %.2g\n", name, drift, most, bound);
    if (!(drift <= bound) || !(drift <= most)) {
        std::printf("%s: beyond the bound\n", name);
        ++failures;
    }
}

}  // namespace
}  // namespace learned_resizer

int main() {
    using namespace learned_resizer;
    // Units: 2^-9 and 2^-12 for half a spacing of the 16-bit types, 2^-12 for tf32; three tf32 products leave out
    // 2^-22 of each term of both products, and float32 sums add 2^-24 each.
    check_chain<Arithmetic::kBFloat16>("bfloat16", 1.0 / 512);
    check_chain<Arithmetic::kFloat16>("float16", 1.0 / 4096);
    check_chain<Arithmetic::kTF32>("tf32", 1.0 / 4096);
    check_chain<Arithmetic::kFloat32>("float32", 1.0 / (1 << 21));
    check_transposed<Arithmetic::kBFloat16>("transposed load");
    check_sums();
    // The bounds of dW in test_conv, test_head and test_stem_backward. float32 flushes, and does not drift.
    check_drift<Arithmetic::kBFloat16>("bfloat16", 8, 3.0 / 512);
    check_drift<Arithmetic::kFloat16>("float16", 8, 3.0 / 4096);
    check_drift<Arithmetic::kTF32>("tf32", 4, 3.0 / 4096);
    check_drift<Arithmetic::kFloat32>("float32", 4, 3.0 / (1 << 21));
    return failures != 0;
}
