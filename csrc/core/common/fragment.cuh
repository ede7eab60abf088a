// Matrix products of a warp in four arithmetics behind one set of fragments, so that a kernel is written once.
//
// A product step is C[16][8] += A[16][16] B[16][8]. A's rows are pixels, its columns the 16 terms k of a sum (taps,
// channels), B's columns are filters. With g = lane / 4 and t = lane % 4:
//   C  float c[4]: pixel g, columns 2t and 2t+1; pixel g+8, columns 2t and 2t+1
//   A  four terms k_t(0..3) of pixel g and of pixel g+8
//   B  the same four terms of column g
// Which four terms lane t owns is free as long as A and B agree. Two choices are used:
//   linear   k_t(i) = 4t + i                         four neighbours in memory: one load
//   chained  k_t(i) = 8 (i / 2) + 2t + i % 2         what C of two neighbouring column tiles holds: no exchange
// so the result of one product becomes the operand of the next without leaving the registers.
#pragma once

#include "common/warp.cuh"

namespace learned_resizer {

// kFloat32: three tf32 products of the halves x = high + low; the product of the low halves, below 2^-22 of the term,
// is left out.
enum class Arithmetic : int32_t { kBFloat16 = 0, kFloat16 = 1, kTF32 = 2, kFloat32 = 3 };

template <Arithmetic M>
constexpr bool kIs16Bit = M == Arithmetic::kBFloat16 || M == Arithmetic::kFloat16;

LR_DEVICE constexpr int chained_term(int t, int i) { return 8 * (i / 2) + 2 * t + i % 2; }
LR_DEVICE constexpr int linear_term(int t, int i) { return 4 * t + i; }

template <class S>
struct alignas(4 * sizeof(S)) Four {
    S v[4];
};

template <Arithmetic M>
struct Fragments;

// 16-bit elements. S: as kept in shared memory.
template <Arithmetic M>
struct Fragments16 {
    using S = uint16_t;
    struct A {
        uint32_t r[4];
    };
    struct B {
        uint32_t r[2];
    };
    struct alignas(8) Two {
        uint32_t r[2];
    };

    LR_DEVICE static uint32_t pack(float low, float high) {
        if constexpr (M == Arithmetic::kBFloat16) return pack_bfloat16(low, high);
        return pack_half(low, high);
    }
    LR_DEVICE static S encode(float x) {
        if constexpr (M == Arithmetic::kBFloat16) return float_to_bfloat16(x);
        return float_to_half(x);
    }
    LR_DEVICE static float decode(S x) {
        if constexpr (M == Arithmetic::kBFloat16) return float_from_bits(static_cast<uint32_t>(x) << 16);
        return half_to_float(x);
    }
    // The lane's terms of pixel g and of pixel g+8, four neighbours each, 8-byte aligned.
    LR_DEVICE static A load_a(const S* pixel, const S* pixel8) {
        const Two p = *reinterpret_cast<const Two*>(pixel), q = *reinterpret_cast<const Two*>(pixel8);
        return {{p.r[0], q.r[0], p.r[1], q.r[1]}};
    }
    LR_DEVICE static B load_b(const S* column) {
        const Two p = *reinterpret_cast<const Two*>(column);
        return {{p.r[0], p.r[1]}};
    }
    // Two neighbouring column tiles, 16-byte aligned.
    LR_DEVICE static void load_b(B& even, B& odd, const S* columns) {
        const Quad<uint32_t> p = *reinterpret_cast<const Quad<uint32_t>*>(columns);
        even.r[0] = p.v[0], even.r[1] = p.v[1];
        odd.r[0] = p.v[2], odd.r[1] = p.v[3];
    }
    // From values in registers: `even` and `odd` are C of two neighbouring column tiles (chained terms).
    LR_DEVICE static A chain(const float (&even)[4], const float (&odd)[4]) {
        return {{pack(even[0], even[1]), pack(even[2], even[3]), pack(odd[0], odd[1]), pack(odd[2], odd[3])}};
    }
    // Of what a chained A was made of, one column tile: v times `slope` where it is not positive, LeakyReLU's adjoint.
    LR_DEVICE static void leaky_adjoint(float (&v)[4], const A& a, int odd, float slope) {
        LR_UNROLL
        for (int h = 0; h < 2; ++h) scale_unless_positive(v[2 * h], v[2 * h + 1], a.r[2 * odd + h], slope);
    }
    // Stores both of its values of pixel g or g+8, columns 2t and 2t+1.
    LR_DEVICE static void store(S* to, const A& a, int odd, int second) {
        *reinterpret_cast<uint32_t*>(to) = a.r[2 * odd + second];
    }
    LR_DEVICE static void multiply(float (&c)[4], const A& a, const B& b) {
        if constexpr (M == Arithmetic::kBFloat16)
            mma_bfloat16(c, a.r, b.r);
        else
            mma_half(c, a.r, b.r);
    }
    // B of ones or, where not `ones`, of zeros.
    LR_DEVICE static B columns(bool ones) {
        const uint32_t two = !ones ? 0u : M == Arithmetic::kBFloat16 ? 0x3f803f80u : 0x3c003c00u;
        return {{two, two}};
    }
    // x as the products use it.
    LR_DEVICE static float rounded(float x) { return decode(encode(x)); }
};

template <>
struct Fragments<Arithmetic::kBFloat16> : Fragments16<Arithmetic::kBFloat16> {};
template <>
struct Fragments<Arithmetic::kFloat16> : Fragments16<Arithmetic::kFloat16> {};

template <>
struct Fragments<Arithmetic::kTF32> {
    using S = float;
    struct A {
        float p[4], q[4];  // terms of pixel g, of pixel g+8
    };
    struct B {
        float v[4];
    };
    LR_DEVICE static S encode(float x) { return round_to_tf32(x); }
    LR_DEVICE static float decode(S x) { return x; }
    // Elements in shared memory were rounded when they were encoded.
    LR_DEVICE static A load_a(const S* pixel, const S* pixel8) {
        const Four<S> p = *reinterpret_cast<const Four<S>*>(pixel), q = *reinterpret_cast<const Four<S>*>(pixel8);
        return {{p.v[0], p.v[1], p.v[2], p.v[3]}, {q.v[0], q.v[1], q.v[2], q.v[3]}};
    }
    LR_DEVICE static B load_b(const S* column) {
        const Four<S> p = *reinterpret_cast<const Four<S>*>(column);
        return {{p.v[0], p.v[1], p.v[2], p.v[3]}};
    }
    LR_DEVICE static void load_b(B& even, B& odd, const S* columns) {
        even = load_b(columns), odd = load_b(columns + 4);
    }
    // From terms that were encoded already.
    LR_DEVICE static A make(const float (&p)[4], const float (&q)[4]) {
        return {{p[0], p[1], p[2], p[3]}, {q[0], q[1], q[2], q[3]}};
    }
    LR_DEVICE static B make_b(const float (&v)[4]) { return {{v[0], v[1], v[2], v[3]}}; }
    LR_DEVICE static A chain(const float (&even)[4], const float (&odd)[4]) {
        return {{encode(even[0]), encode(even[1]), encode(odd[0]), encode(odd[1])},
                {encode(even[2]), encode(even[3]), encode(odd[2]), encode(odd[3])}};
    }
    LR_DEVICE static void leaky_adjoint(float (&v)[4], const A& a, int odd, float slope) {
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int term = 2 * odd + i % 2;
            if (!((i / 2 == 0 ? a.p[term] : a.q[term]) > 0.0f)) v[i] *= slope;
        }
    }
    LR_DEVICE static void store(S* to, const A& a, int odd, int second) {
        const float (&v)[4] = second == 0 ? a.p : a.q;
        *reinterpret_cast<Pair<float>*>(to) = Pair<float>{v[2 * odd], v[2 * odd + 1]};
    }
    LR_DEVICE static void multiply(float (&c)[4], const A& a, const B& b) {
        mma_tf32(c, {a.p[0], a.q[0], a.p[1], a.q[1]}, {b.v[0], b.v[1]});
        mma_tf32(c, {a.p[2], a.q[2], a.p[3], a.q[3]}, {b.v[2], b.v[3]});
    }
    LR_DEVICE static B columns(bool ones) {
        const float one = ones ? 1.0f : 0.0f;
        return {{one, one, one, one}};
    }
    LR_DEVICE static float rounded(float x) { return encode(x); }
};

// Fragments hold the terms unsplit; each product splits them. A fragment used twice is split twice, but takes half the
// registers, of which these kernels have none to spare.
template <>
struct Fragments<Arithmetic::kFloat32> {
    using S = float;
    using T = Fragments<Arithmetic::kTF32>;
    using A = T::A;
    using B = T::B;
    LR_DEVICE static S encode(float x) { return x; }
    LR_DEVICE static float decode(S x) { return x; }
    LR_DEVICE static A make(const float (&p)[4], const float (&q)[4]) { return T::make(p, q); }
    LR_DEVICE static B make_b(const float (&v)[4]) { return T::make_b(v); }
    LR_DEVICE static A load_a(const S* pixel, const S* pixel8) { return T::load_a(pixel, pixel8); }
    LR_DEVICE static B load_b(const S* column) { return T::load_b(column); }
    LR_DEVICE static void load_b(B& even, B& odd, const S* columns) { T::load_b(even, odd, columns); }
    LR_DEVICE static A chain(const float (&even)[4], const float (&odd)[4]) {
        return make({even[0], even[1], odd[0], odd[1]}, {even[2], even[3], odd[2], odd[3]});
    }
    LR_DEVICE static void leaky_adjoint(float (&v)[4], const A& a, int odd, float slope) {
        T::leaky_adjoint(v, a, odd, slope);
    }
    LR_DEVICE static void store(S* to, const A& a, int odd, int second) { T::store(to, a, odd, second); }
    // Two terms at a time, small products first. Tensor cores cut off what they add (csrc/tests/host/tensor_core.h), up
    // to 2^-23 of the sum for every four terms and in the same direction: five times the bound after the head's 784. So
    // the 16 terms of a step are a sum of their own, which an ordinary, rounding addition takes to c. It starts from
    // c - c: a plain zero would let ptxas begin every sum at once, for which there are no registers. (An infinite c
    // becomes NaN, as an infinite operand's lower half is.)
    LR_DEVICE static void multiply(float (&c)[4], const A& a, const B& b) {
        float sum[4];
        LR_UNROLL
        for (int j = 0; j < 4; ++j) sum[j] = c[j] - c[j];
        LR_UNROLL
        for (int i = 0; i < 4; i += 2) {
            const float x[4] = {a.p[i], a.q[i], a.p[i + 1], a.q[i + 1]}, y[2] = {b.v[i], b.v[i + 1]};
            float high[4], low[4], high_b[2], low_b[2];
            LR_UNROLL
            for (int j = 0; j < 4; ++j) split(x[j], high[j], low[j]);
            LR_UNROLL
            for (int j = 0; j < 2; ++j) split(y[j], high_b[j], low_b[j]);
            mma_tf32(sum, low, high_b);
            mma_tf32(sum, high, low_b);
            mma_tf32(sum, high, high_b);
        }
        LR_UNROLL
        for (int j = 0; j < 4; ++j) c[j] += sum[j];
    }
    LR_DEVICE static void split(float x, float& high, float& low) {
        high = round_to_tf32(x);
        low = round_to_tf32(x - high);
    }
    LR_DEVICE static B columns(bool ones) { return T::columns(ones); }
    LR_DEVICE static float rounded(float x) { return x; }
};

}  // namespace learned_resizer
