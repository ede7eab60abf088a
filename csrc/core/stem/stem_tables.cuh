// The programs of the stem's kernels, made on the device from the bands of each axis: every entry by a thread of its
// own.
#pragma once

#include "stem/stem_axis.cuh"

namespace learned_resizer {

constexpr int kStemTableThreads = 128;

struct StemTablesParams {
    StemPlanShape plan;
    unsigned char* tables;
};

template <int K>
LR_DEVICE void make_stem_row(const StemTablesParams& p, const StemTensor& t, const Bands& bands, int64_t entry) {
    const int outputs = static_cast<int>(p.plan.out_height);
    const auto begin = [&](int s) { return s == 0 ? 0 : bands.begin[s * t.strip_outputs]; };
    const int s = last_at_most(t.strips, entry, [&](int i) { return row_place(t, begin(i), i); });
    const StemStrip strip = strip_of(t, bands, outputs, s);
    const int y = static_cast<int>(entry - row_place(t, strip.begin, s)) + strip.begin;
    StemRow<K> row{};
    if (y < strip.end) {
        const auto open = [&](int at) {  // oldest output that is not complete before image row `at`
            const int o = first_above(bands.end, outputs, at);
            return o < strip.out_begin ? strip.out_begin : o < strip.out_end ? o : strip.out_end;
        };
        row.first = open(y), row.emits = open(y + 1) - row.first;
        // A further output may begin here by rounding, with a weight of nearly zero.
        for (int o = row.first; o < row.first + K && o < strip.out_end; ++o)
            row.weight[o % K] = static_cast<float>(band_weight(bands, t.rows.taps, o, y));
    }
    stem_table<StemRow<K>>(p.tables, t.row_table)[entry] = row;
}

// Weights of the last rows of an output's band, for the rows that the kernel keeps.
template <int K>
LR_DEVICE void make_stem_gather(const StemTablesParams& p, const StemTensor& t, const Bands& bands, int o) {
    float* weight = stem_table<float>(p.tables, t.gather_table) + int64_t{o} * K;
    for (int k = 0; k < K; ++k) {
        const int y = bands.end[o] - 1 - k;  // K neighbours have K slots
        if (y >= 0)
            weight[y % K] = static_cast<float>(band_weight(bands, t.rows.taps, o, y));
        else
            weight[(y + K) % K] = 0.0f;
    }
}

template <int K>
LR_KERNEL(kStemTableThreads)
stem_tables_kernel(const StemTablesParams p) {
    const auto* tensors = stem_table<StemTensor>(p.tables, p.plan.tensor_table);
    for (int64_t i = block_index() * thread_count() + thread_index(); i < p.plan.entries;
         i += block_count() * thread_count()) {
        const StemTensor& t = tensors[last_at_most(p.plan.tensors, i, [&](int j) { return tensors[j].entry; })];
        const Bands bands = stem_bands(p.tables, t.rows);
        const int64_t entry = i - t.entry, rows = row_place(t, t.rows.in, t.strips);
        if (entry < rows)
            make_stem_row<K>(p, t, bands, entry);
        else
            make_stem_gather<K>(p, t, bands, static_cast<int>(entry - rows));
    }
}

struct StemBackwardTablesParams {
    StemBackwardShape plan;
    unsigned char* tables;
};

LR_KERNEL(kStemTableThreads)
stem_backward_tables_kernel(const StemBackwardTablesParams p) {
    const auto* tensors = stem_table<StemBackwardTensor>(p.tables, p.plan.tensor_table);
    for (int64_t i = block_index() * thread_count() + thread_index(); i < p.plan.entries;
         i += block_count() * thread_count()) {
        const StemBackwardTensor& t = tensors[last_at_most(p.plan.tensors, i, [&](int j) { return tensors[j].entry; })];
        const int64_t entry = i - t.entry;
        const bool row = entry < t.rows.in;
        const StemAxis& axis = row ? t.rows : t.columns;
        const StemTransposed& to = row ? t.transposed_rows : t.transposed_columns;
        const Bands bands = stem_bands(p.tables, axis);
        const int pixel = static_cast<int>(row ? entry : entry - t.rows.in);
        const int outputs = static_cast<int>(row ? p.plan.out_height : p.plan.out_width);
        // Of an unread pixel: the next output, and no more.
        const int start = first_above(bands.end, outputs, pixel), end = first_above(bands.begin, outputs, pixel);
        const int count = end > start ? end - start : 0;
        stem_table<int32_t>(p.tables, to.start)[pixel] = start;
        stem_table<int32_t>(p.tables, to.count)[pixel] = count;
        float* weight = stem_table<float>(p.tables, to.weight) + int64_t{pixel} * to.capacity;
        for (int k = 0; k < count; ++k) weight[k] = static_cast<float>(band_weight(bands, axis.taps, start + k, pixel));
    }
}

}  // namespace learned_resizer
