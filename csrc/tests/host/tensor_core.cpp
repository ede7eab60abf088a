#include "tensor_core.h"

#include <algorithm>
#include <cstring>

#include "device_host.h"

namespace learned_resizer::host {
namespace {

// Exponents of what has none. The exponent of a product with an infinity or NaN is above kNotFinite / 2, and only that.
constexpr int kZero = -4000, kNotFinite = 12000;
constexpr int kSmallest = -149;  // exponent of the smallest float32
constexpr int kSmallestNormal = -126, kSmallestNormalHalf = -14;

int exponent_of(float x, int smallest_normal) {
    if (x == 0.0f) return kZero;
    const int biased = static_cast<int>(bits_from_float(x) >> 23 & 255u);
    return biased == 255 ? kNotFinite : std::max(biased - 127, smallest_normal);
}
double power_of_two(int exponent) { return double_from_words(0, static_cast<uint32_t>(1023 + exponent) << 20); }

// Towards zero; exact for subnormal numbers, since x is a multiple of 2^kSmallest.
float truncate_to_float(double x) {
    uint64_t bits;
    std::memcpy(&bits, &x, sizeof(x));
    bits &= ~uint64_t{0x1fffffff};
    std::memcpy(&x, &bits, sizeof(x));
    return static_cast<float>(x);
}

template <int E, class Element>
Operands<E> operands(int smallest_normal, const Element& element_a, const Element& element_b) {
    Operands<E> r;
    for (int i = 0; i < 4 * E; ++i) r.a[i] = element_a(i), r.exponent_a[i] = exponent_of(r.a[i], smallest_normal);
    for (int i = 0; i < 2 * E; ++i) r.b[i] = element_b(i), r.exponent_b[i] = exponent_of(r.b[i], smallest_normal);
    return r;
}

// The terms of a block in a row of A or a column of B.
template <int N>
struct Terms {
    float value[N];
    int16_t exponent[N];
};

template <int N>
float add_block(float c, const Terms<N>& a, const Terms<N>& b) {
    double product[N];
    int16_t exponent[N];
    for (int k = 0; k < N; ++k) product[k] = static_cast<double>(a.value[k]) * b.value[k];
    for (int k = 0; k < N; ++k) exponent[k] = static_cast<int16_t>(a.exponent[k] + b.exponent[k]);
    int largest = exponent_of(c, kSmallestNormal);
    for (int k = 0; k < N; ++k) largest = std::max<int>(largest, exponent[k]);
    if (largest > kNotFinite / 2) {
        for (int k = 0; k < N; ++k) c += static_cast<float>(product[k]);
        return c;
    }
    const int unit = std::max(largest - 23 - kGuardBits, kSmallest);
    const double scale = power_of_two(-unit);
    // Nine terms below 2^26 units.
    int sum = static_cast<int>(c * scale);
    for (int k = 0; k < N; ++k) sum += static_cast<int>(product[k] * scale);
    return truncate_to_float(sum * power_of_two(unit));
}

}  // namespace

template <int E>
void multiply(float (&c)[4], const Operands<E>& mine, int line) {
    const auto* all = static_cast<const Operands<E>*>(warp_exchange(&mine, sizeof(mine), line));
    const int g = thread_index() % 32 / 4, t = thread_index() % 4;
    // A block's terms are those of one of B's registers and of two of A's, in four lanes.
    for (int block = 0; block < 2; ++block) {
        Terms<4 * E> rows[2], columns[2];
        for (int h = 0; h < 2; ++h)
            for (int lane = 0; lane < 4; ++lane)
                for (int e = 0; e < E; ++e) {
                    const Operands<E>&from_a = all[4 * g + lane], &from_b = all[4 * (2 * t + h) + lane];
                    const int k = lane * E + e, at_a = (2 * block + h) * E + e, at_b = block * E + e;
                    rows[h].value[k] = from_a.a[at_a], rows[h].exponent[k] = from_a.exponent_a[at_a];
                    columns[h].value[k] = from_b.b[at_b], columns[h].exponent[k] = from_b.exponent_b[at_b];
                }
        for (int i = 0; i < 4; ++i) c[i] = add_block(c[i], rows[i / 2], columns[i % 2]);
    }
}
template void multiply<1>(float (&c)[4], const Operands<1>& mine, int line);
template void multiply<2>(float (&c)[4], const Operands<2>& mine, int line);

Operands<2> half_operands(const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const auto of = [](const uint32_t* r) {
        return [r](int i) { return half_to_float(static_cast<uint16_t>(r[i / 2] >> 16 * (i % 2))); };
    };
    return operands<2>(kSmallestNormalHalf, of(a), of(b));
}
Operands<2> bfloat16_operands(const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    const auto of = [](const uint32_t* r) {
        return [r](int i) { return float_from_bits(r[i / 2] >> 16 * (i % 2) << 16); };
    };
    return operands<2>(kSmallestNormal, of(a), of(b));
}
Operands<1> tf32_operands(const float (&a)[4], const float (&b)[2]) {
    const auto of = [](const float* r) {
        return [r](int i) { return float_from_bits(bits_from_float(r[i]) & 0xffffe000u); };
    };
    return operands<1>(kSmallestNormal, of(a), of(b));
}

}  // namespace learned_resizer::host
