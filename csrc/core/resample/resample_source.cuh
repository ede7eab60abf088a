// How a thread of the resample kernel reads its elements of an image row.
#pragma once

#include "common/device.cuh"
#include "resample/resample.h"

namespace learned_resizer {

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
    static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<float> {
    static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<Half> {
    static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<BFloat16> {
    static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<uint8_t> {
    static constexpr DType value = DType::kUInt8;
};

// n / d and n % d, in 32 bits where they fit: a 64-bit division costs about five times as much.
LR_DEVICE void divide(int64_t n, int64_t d, int64_t& quotient, int64_t& remainder) {
    if (((n | d) >> 32) == 0) {
        const uint32_t q = static_cast<uint32_t>(n) / static_cast<uint32_t>(d);
        quotient = q;
        remainder = static_cast<uint32_t>(n) - q * static_cast<uint32_t>(d);
    } else {
        quotient = n / d;
        remainder = n - quotient * d;
    }
}

// Row `row` of a column.
template <class T>
LR_DEVICE const T* row_of(const T* column, int32_t row, int64_t row_bytes) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(column) + row * row_bytes);
}
template <class T>
LR_DEVICE const T* row_of(const T* column, int32_t row, int32_t row_bytes) {
    return reinterpret_cast<const T*>(advance(reinterpret_cast<const char*>(column), row, row_bytes));
}

// The value that the kernel adds up.
template <class T>
struct Pixel : Decode<T> {};
// A byte in a float's bits 16 to 23 is b * 2^-133 without a conversion: linear from the subnormal numbers into the
// first exponent. The weights carry the factor 2^133 (resample.h).
template <>
struct Pixel<uint8_t> {
    LR_DEVICE static float at(const uint32_t* w, int i) { return float_from_bits(select_byte(w[i / 4], i % 4)); }
    LR_DEVICE static float of(uint8_t x) { return float_from_bits(uint32_t{x} << 16); }
};

// The elements of the image row that one thread owns.
template <class T, int V, bool kVectors>
struct Source;

// V consecutive elements, aligned.
template <class T, int V>
struct Source<T, V, true> {
    using Raw = Words<T, V>;
    using RowBytes = int32_t;  // vectors_allowed sees to it
    const T* base;
    bool valid;

    LR_DEVICE void load(Raw& raw, int32_t row, RowBytes row_bytes) const {
        if (valid && row >= 0) raw = load_words<T, V>(row_of(base, row, row_bytes));
    }
    LR_DEVICE static typename Accumulator<T>::type value(const Raw& raw, int v) { return Pixel<T>::at(raw.word, v); }
};

// V elements, one from each V-th part of the row, with any strides.
template <class T, int V>
struct Source<T, V, false> {
    struct Raw {
        T item[V];
    };
    using RowBytes = int64_t;
    const T* base[V];
    bool valid[V];

    LR_DEVICE void load(Raw& raw, int32_t row, RowBytes row_bytes) const {
        if (row < 0) return;
        LR_UNROLL
        for (int v = 0; v < V; ++v)
            if (valid[v]) raw.item[v] = load_element(row_of(base[v], row, row_bytes));
    }
    LR_DEVICE static typename Accumulator<T>::type value(const Raw& raw, int v) { return Pixel<T>::of(raw.item[v]); }
};

}  // namespace learned_resizer
