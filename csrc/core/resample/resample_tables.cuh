// The programs of the resample kernel, made on the device from the bands of each axis: every step, and every column of
// every window, by a thread of its own. They hold all that is special about an image; the kernel only executes them.
#pragma once

#include "bands/band_lookup.cuh"
#include "common/device.cuh"
#include "common/dispatch.h"
#include "resample/resample.h"

namespace learned_resizer {

constexpr int kTableThreads = 128;

template <class T>
LR_DEVICE const T* in_tables(const unsigned char* tables, int64_t offset) {
    return reinterpret_cast<const T*>(tables + offset);
}
template <class T>
LR_DEVICE T* in_tables(unsigned char* tables, int64_t offset) {
    return reinterpret_cast<T*>(tables + offset);
}

LR_DEVICE int64_t round_up_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

// Bands of an axis as a kernel runs it: outputs before and behind those that have bands read nothing.
struct AxisBands {
    const ResampleAxis& axis;
    Bands bands;

    LR_DEVICE AxisBands(const unsigned char* tables, const ResampleAxis& a)
        : axis(a),
          bands{in_tables<int32_t>(tables, a.begin), in_tables<int32_t>(tables, a.end),
                in_tables<double>(tables, a.weight)} {}
    LR_DEVICE int32_t begin(int32_t o) const {
        return o < axis.lead ? 0 : o >= axis.lead + axis.bands ? axis.in : bands.begin[o - axis.lead];
    }
    LR_DEVICE int32_t end(int32_t o) const {
        return o < axis.lead ? 0 : o >= axis.lead + axis.bands ? axis.in : bands.end[o - axis.lead];
    }
    LR_DEVICE double weight(int32_t o, int32_t i) const {
        return o < axis.lead || o >= axis.lead + axis.bands ? 0.0 : band_weight(bands, axis.taps, o - axis.lead, i);
    }
};

// The vertical program of a strip. Output o takes the image rows that complete it, from where the output before it was
// complete; the last of these rows emits it. An output that is complete with the one before it takes a step without a
// row. Every four outputs, a batch, end with a group of steps, filled up with idle ones.
struct Work {
    int32_t row = -1;     // image row, -1: none
    int32_t output = -1;  // that the row belongs to, -1: idle
    bool emits = false;
    int32_t flush = 0;  // rows of the batch that is complete
};

struct StripProgram {
    const AxisBands& bands;
    int32_t first, last, unit;  // outputs first ... last - 1; of which `unit` are swept together

    // The first image row of output o: rows before were folded with the outputs before.
    LR_DEVICE int32_t first_row(int32_t o) const {
        const int32_t begin = bands.begin(o);
        if ((o - first) % unit == 0) return begin;
        const int32_t before = bands.end(o - 1);
        return begin > before ? begin : before;
    }
    LR_DEVICE int32_t rows_of(int32_t o) const {
        const int32_t rows = bands.end(o) - first_row(o);
        return rows > 0 ? rows : 0;
    }
    LR_DEVICE int32_t steps_of(int32_t o) const {
        const int32_t rows = rows_of(o);
        return rows > 0 ? rows : 1;
    }
    LR_DEVICE int32_t batch_end(int32_t o) const { return o + kBatchRows < last ? o + kBatchRows : last; }
    // Of the batch that begins with output o.
    LR_DEVICE int32_t batch_steps(int32_t o) const {
        int32_t steps = 0;
        for (int32_t i = o; i < batch_end(o); ++i) steps += steps_of(i);
        return (steps + kGroupSteps - 1) / kGroupSteps * kGroupSteps;
    }
    LR_DEVICE int32_t count() const {
        int32_t steps = 0;
        for (int32_t o = first; o < last; o += kBatchRows) steps += batch_steps(o);
        return steps;
    }
    LR_DEVICE Work at(int32_t step) const {
        Work work;
        for (int32_t batch = first; batch < last; batch += kBatchRows) {
            const int32_t steps = batch_steps(batch);
            if (step >= steps) {
                step -= steps;
                continue;
            }
            if (step == steps - 1) work.flush = batch_end(batch) - batch;
            for (int32_t o = batch; o < batch_end(batch); ++o) {
                const int32_t own = steps_of(o);
                if (step >= own) {
                    step -= own;
                    continue;
                }
                work.output = o;
                work.emits = step == own - 1;
                if (rows_of(o) > 0) work.row = first_row(o) + step;
                break;
            }
            break;
        }
        return work;
    }
    // The end of the outputs that are swept together with output o.
    LR_DEVICE int32_t unit_end(int32_t o) const {
        const int32_t end = o - (o - first) % unit + unit;
        return end < last ? end : last;
    }
};

struct ResampleTablesParams {
    ResampleShape plan;
    unsigned char* tables;
};

template <class A, int K>
LR_DEVICE void make_step(const ResampleTablesParams& p, const ResampleTensor& t, int32_t strip, int32_t j) {
    const AxisBands rows(p.tables, t.rows);
    const int32_t first = strip * t.strip_rows;
    const int32_t last = first + t.strip_rows < t.rows.out ? first + t.strip_rows : t.rows.out;
    const StripProgram program{rows, first, last, t.unit_rows};
    const Work work = program.at(j);
    Step<A, K> step{};
    step.next_row = program.at(j + kGroupSteps).row;
    step.flags = work.flush << kStepFlushShift;
    if (work.row >= 0) {
        step.flags |= kStepRow;
        // Of the first K outputs that are not complete, each in its slot.
        const int32_t end = program.unit_end(work.output);
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            const int32_t o = work.output + (k + K - (work.output - first) % K) % K;
            step.weight[k] = o < end ? static_cast<A>(row_scale(p.plan.dtype) * rows.weight(o, work.row)) : A(0);
        }
    }
    if (work.emits) {
        const int32_t o = work.output - first;
        step.flags |= kStepEmit | o % kBatchRows << kStepBatchShift | o % K << kStepSlotShift;
    }
    in_tables<Step<A, K>>(p.tables, t.steps)[int64_t{strip} * t.strip_steps + j] = step;
    if (j < kGroupSteps) in_tables<int32_t>(p.tables, t.strip_first)[strip * kGroupSteps + j] = work.row;
    if (j == 0) in_tables<int32_t>(p.tables, t.strip_count)[strip] = program.count();
}

// Column x of the weights of a window, and its entries.
template <class A>
LR_DEVICE void make_column(const ResampleTablesParams& p, const ResampleTensor& t, int64_t window, int32_t x) {
    const AxisBands columns(p.tables, t.columns);
    const int32_t outputs = p.plan.outputs;
    const auto tile = static_cast<int32_t>(window / t.pieces);
    const int32_t first = tile * t.tile_columns;
    const int32_t last = first + t.tile_columns < t.columns.out ? first + t.tile_columns : t.columns.out;
    int32_t begin = columns.begin(first) / t.align * t.align;
    int32_t end = columns.end(last - 1);
    if (t.pieces > 1) {
        begin += static_cast<int32_t>(window % t.pieces) * t.piece_columns;
        if (begin + t.piece_columns < end) end = begin + t.piece_columns;
    }
    const int32_t count = (last - first + outputs - 1) / outputs;  // entries of a row of a channel
    if (x == 0) {
        Tile& to = in_tables<Tile>(p.tables, t.tile_table)[window];
        to = {begin, end > begin ? end - begin : 0, count * t.group_channels, 0};
    }
    if (x >= count) return;
    const int32_t output = first + x * outputs;
    int32_t tap = columns.begin(output) - begin;
    if (tap < 0) tap = 0;
    if (outputs == 1 && t.group_channels == 1) tap = tap / 2 * 2;  // the kernel reads pairs
    if (tap > t.slot_columns - t.taps) tap = t.slot_columns - t.taps;
    const int64_t stride = round_up_16(int64_t{t.taps} * t.entry_columns * outputs * sizeof(A)) / sizeof(A);
    A* weights = in_tables<A>(p.tables, t.weight_table) + window * stride;
    for (int32_t u = 0; u < t.taps; ++u)
        for (int32_t o = 0; o < outputs; ++o) {
            const int32_t column = begin + tap + u;
            const bool in_window = output + o < last && column < end;
            weights[outputs > 1 ? (u * t.entry_columns + x) * outputs + o : (u / 2 * t.entry_columns + x) * 2 + u % 2] =
                in_window ? static_cast<A>(column_scale(p.plan.dtype) * columns.weight(output + o, column)) : A(0);
        }
    const int64_t entry_stride = round_up_16(int64_t{t.tile_entries} * sizeof(Entry)) / sizeof(Entry);
    Entry* entries = in_tables<Entry>(p.tables, t.entry_table) + window * entry_stride;
    const int32_t stored = outputs < last - output ? outputs : last - output;
    // From the tile's first output.
    const int32_t place = t.mirrored != 0 ? t.columns.out - 1 - output - first : x * outputs;
    for (int32_t g = 0; g < t.group_planes; ++g)
        for (int32_t c = 0; c < t.group_channels; ++c) {
            Entry entry;
            entry.source = static_cast<uint32_t>(g * t.plane_elements + tap * t.group_channels + c) |
                           static_cast<uint32_t>(stored) << 13 | static_cast<uint32_t>(x) << 16;
            entry.target = (g * t.rows.out * t.columns.out + place) * t.channels + c;
            entries[(g * count + x) * t.group_channels + c] = entry;
        }
}

// The last of `count` tensors whose first(tensor) is at most `value`; that of tensor 0 is 0.
template <class First>
LR_DEVICE int32_t find_tensor(int32_t count, int64_t value, const First& first) {
    int32_t low = 0;
    while (count - low > 1) {
        const int32_t middle = low + (count - low) / 2;
        if (first(middle) <= value)
            low = middle;
        else
            count = middle;
    }
    return low;
}

template <class A, int K>
LR_KERNEL(kTableThreads)
resample_tables_kernel(const ResampleTablesParams p) {
    const auto* tensors = in_tables<ResampleTensor>(static_cast<const unsigned char*>(p.tables), p.plan.tensor_table);
    const int64_t stride = block_count() * thread_count();
    for (int64_t i = block_index() * thread_count() + thread_index(); i < p.plan.entries; i += stride) {
        const ResampleTensor& t = tensors[find_tensor(p.plan.tensors, i, [&](int32_t j) { return tensors[j].entry; })];
        const int64_t entry = i - t.entry, steps = int64_t{t.strips} * t.strip_steps;
        if (entry < steps)
            make_step<A, K>(p, t, static_cast<int32_t>(entry / t.strip_steps),
                            static_cast<int32_t>(entry % t.strip_steps));
        else
            make_column<A>(p, t, (entry - steps) / t.entry_columns,
                           static_cast<int32_t>((entry - steps) % t.entry_columns));
    }
}

// Calls launch(kernel) with the instance for `plan`; false if it does not exist.
template <class Launch>
bool with_resample_tables_kernel(const ResampleShape& plan, const Launch& launch) {
    if (plan.dtype == DType::kFloat64) {
        launch(resample_tables_kernel<double, 8>);
        return true;
    }
    return dispatch<2, 4, 6, 8>(plan.slots, [&](auto K) {
        launch(resample_tables_kernel<float, K>);
        return true;
    });
}

}  // namespace learned_resizer
