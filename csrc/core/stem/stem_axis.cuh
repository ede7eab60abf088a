// What the stem's kernels find in their tables: tensors, bands, strips.
#pragma once

#include "bands/band_lookup.cuh"
#include "stem/stem_backward.h"

namespace learned_resizer {

template <class T>
LR_DEVICE const T* stem_table(const unsigned char* tables, int64_t offset) {
    return reinterpret_cast<const T*>(tables + offset);
}
template <class T>
LR_DEVICE T* stem_table(unsigned char* tables, int64_t offset) {
    return reinterpret_cast<T*>(tables + offset);
}

LR_DEVICE Bands stem_bands(const unsigned char* tables, const StemAxis& axis) {
    return {stem_table<int32_t>(tables, axis.begin), stem_table<int32_t>(tables, axis.end),
            stem_table<double>(tables, axis.weight)};
}

// The last of `count` elements whose first(element) is at most `value`; that of element 0 is.
template <class First>
LR_DEVICE int last_at_most(int count, int64_t value, const First& first) {
    int low = 0;
    while (count - low > 1) {
        const int middle = low + (count - low) / 2;
        (first(middle) <= value ? low : count) = middle;
    }
    return low;
}
// Strip s of an image.
LR_DEVICE StemStrip strip_of(const StemTensor& t, const Bands& rows, int outputs, int s) {
    StemStrip strip;
    strip.out_begin = s * t.strip_outputs;
    strip.out_end = strip.out_begin + t.strip_outputs < outputs ? strip.out_begin + t.strip_outputs : outputs;
    strip.begin = s == 0 ? 0 : rows.begin[strip.out_begin];
    strip.own_end = strip.out_end == outputs ? t.rows.in : rows.begin[strip.out_end];
    const int end = rows.end[strip.out_end - 1];
    strip.end = end > strip.own_end ? end : strip.own_end;
    return strip;
}
// Index of a strip's first StemRow. Two strips share at most a band; a step of three rows may end two beyond a strip.
LR_DEVICE int64_t row_place(const StemTensor& t, int begin, int s) { return begin + int64_t{s} * (t.rows.taps + 2); }

}  // namespace learned_resizer
