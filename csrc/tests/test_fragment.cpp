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
    return failures != 0;
}
