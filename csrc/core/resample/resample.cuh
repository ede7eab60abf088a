// Resampling as out = R_h in R_w^T on every plane, R_h and R_w band matrices; and its adjoint.
//
//   forward   out[p, y, x, c]  = sum_i sum_j  R_h[y, i] R_w[x, j]  in[p, i, j, c]
//   adjoint   gin[p, i, j, c]  = sum_y sum_x  R_h[y, i] R_w[x, j] gout[p, y, x, c]
//
// The adjoint of a band matrix is a band matrix, so the adjoint is this kernel with the transposed bands: a gather, no
// atomics, every sum in one fixed order whatever the tiling, hence bitwise reproducible.
//
// A block makes `strip_rows` output rows of one column tile. Each thread owns a few consecutive elements of the image
// row (columns and interleaved channels flattened, so the layout does not matter), reads them from each image row in
// turn straight into registers, and applies R_h there:
//   fold    (shrinking)  K accumulators, one per output row that is open; a row is folded into all of them.
//   gather  (enlarging)  the last K image rows; an output row is a weighted sum of them.
// Completed rows go to shared memory; after kBatchRows of them the block applies R_w from there, rounds once and
// stores. The order of steps, which slot a row takes and when a batch is complete were all decided on the host
// (resample_plan.cpp).
//
// A weight of zero means "not in the band" and never touches a sum: 0 * inf must not leak NaN out of a band.
#pragma once

#include "common/device.cuh"
#include "common/dispatch.h"
#include "resample/resample.h"
#include "resample/resample_source.cuh"
#include "resample/resample_taps.cuh"

namespace learned_resizer {

// T: element type. K: slots. F: form. kVectors: aligned vector loads.
template <class T, int K, Form F, bool kVectors>
struct Resample {
    using A = typename Accumulator<T>::type;
    static constexpr int V = vector_length(DTypeOf<T>::value, kVectors);
    static constexpr int E = row_capacity(DTypeOf<T>::value, kVectors);
    static constexpr int R = kBatchRows;
    static constexpr int kInFlight = F == Form::kFold ? kGroupSteps : 1;
    static constexpr int kOutputs = outputs_per_entry(F);
    using S = Step<A, K>;
    using Taps = ColumnTaps<A, R, kOutputs, E>;
    using RowBytes = typename Source<T, V, kVectors>::RowBytes;

    // Dynamic shared memory, in this order (the planner adds up the same sizes).
    A* rows;         // [R][E]: the batch, after the vertical filter
    S* steps;        // [kChunkSteps]
    A* weights;      // fold: [taps/2][entry_columns][2], gather: [taps][entry_columns][4]
    Entry* entries;  // [tile_entries]
    A* partial;      // [strip_rows][tile_entries][kOutputs], only if pieces > 1

    const ResampleParams& p;
    T* target;        // the tile's first output of the next batch
    int entry_count;  // of this tile
    int piece;

    LR_DEVICE explicit Resample(const ResampleParams& params) : p(params) {
        unsigned char* shared = dynamic_shared();
        rows = reinterpret_cast<A*>(shared);
        shared += sizeof(A) * R * E;
        steps = reinterpret_cast<S*>(shared);
        shared += sizeof(S) * kChunkSteps;
        weights = reinterpret_cast<A*>(shared);
        shared += weight_bytes();
        entries = reinterpret_cast<Entry*>(shared);
        shared += round_up_16(sizeof(Entry) * p.plan.tile_entries);
        partial = reinterpret_cast<A*>(shared);
    }

    LR_DEVICE int weight_bytes() const {
        return static_cast<int>(round_up_16(int64_t{p.plan.taps} * p.plan.entry_columns * kOutputs * sizeof(A)));
    }

    // Stores row `row` of the batch from one slot, in the order that Source hands out the elements.
    LR_DEVICE void put_row(int row, const A (&value)[V]) {
        A* to = rows + row * E;
        if constexpr (kVectors) {
            LR_UNROLL
            for (int v = 0; v < V; v += 16 / static_cast<int>(sizeof(A)))
                store_16(to + thread_index() * V + v, value + v);
        } else {
            LR_UNROLL
            for (int v = 0; v < V; ++v) to[thread_index() + v * thread_count()] = value[v];
        }
    }
    LR_DEVICE static void store_16(float* to, const float* from) {
        *reinterpret_cast<Quad<float>*>(to) = Quad<float>{{from[0], from[1], from[2], from[3]}};
    }
    LR_DEVICE static void store_16(double* to, const double* from) {
        *reinterpret_cast<Pair<double>*>(to) = Pair<double>{from[0], from[1]};
    }

    // Horizontal filter of the batch's `count` rows, the strip's rows from `first` on. Moves the target behind them.
    LR_DEVICE void filter_columns(int first, int count) {
        // Nearly all batches are whole and of one window: an entry is short, and each question asked for it counts.
        if (count != R || p.plan.pieces > 1)
            filter_entries<false, 0>(first, count);
        else if (F == Form::kFold ? p.plan.group_channels == 1 : p.plan.whole_store)
            filter_entries<true, 1>(first, R);
        else if (p.plan.group_channels == 3 && p.plan.channels == 3)
            filter_entries<true, 3>(first, R);
        else
            filter_entries<true, 0>(first, R);
        target += count * p.plan.out_row_elements;
    }

    // kWhole: four rows, one window. kStep: the interleaved channels of the block if known, else 0; gather: 1 if also
    // the outputs of an entry are stored together.
    template <bool kWhole, int kStep>
    LR_DEVICE void filter_entries(int first, int count) {
        const int step = kStep > 0 ? kStep : p.plan.group_channels;
        LR_NO_UNROLL
        for (int j = thread_index(); j < entry_count; j += thread_count()) {
            const Entry entry = entries[j];
            const A* from = rows + (entry.source & 0x1fffu);
            const A* weight = weights + (F == Form::kFold ? 2 : kOutputs) * (entry.source >> 16);
            A sum[R][kOutputs];
            LR_UNROLL
            for (int r = 0; r < R; ++r) {
                LR_UNROLL
                for (int o = 0; o < kOutputs; ++o) sum[r][o] = Encode<T>::kRoundingBias;
            }
            if (!kWhole && piece > 0) resume(sum, first, count, j);
            if (kStep == 1 || (!kWhole && step == 1))
                add_taps(sum, from, 1, weight);
            else
                add_taps_strided(sum, from, step, weight);
            if (!kWhole && piece + 1 < p.plan.pieces)
                keep(sum, first, count, j);
            else
                store<kWhole, kStep>(entry, sum, count);
        }
    }

    // The sums of an output whose taps come in several windows, between two of them.
    LR_DEVICE A* kept_sum(int row, int j) const {
        return partial + (static_cast<int64_t>(row) * p.plan.tile_entries + j) * kOutputs;
    }
    LR_DEVICE void resume(A (&sum)[R][kOutputs], int first, int count, int j) const {
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            if (r >= count) break;
            LR_UNROLL
            for (int o = 0; o < kOutputs; ++o) sum[r][o] = kept_sum(first + r, j)[o];
        }
    }
    LR_DEVICE void keep(const A (&sum)[R][kOutputs], int first, int count, int j) const {
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            if (r >= count) break;
            LR_UNROLL
            for (int o = 0; o < kOutputs; ++o) kept_sum(first + r, j)[o] = sum[r][o];
        }
    }

    // All taps of an entry. Two trips at a time hide the latency of shared memory; more would only take registers.
    // `taps` is at least 2 (fold) or 1 (gather). With a step that is the constant 1, addresses become immediates.
    LR_DEVICE void add_taps(A (&sum)[R][kOutputs], const A* from, int step, const A* weight) const {
        const int stride = (F == Form::kFold ? 2 : kOutputs) * p.plan.entry_columns;
        int taps = p.plan.taps;
        if constexpr (F == Form::kFold) {
            LR_NO_UNROLL
            for (; taps >= 4; taps -= 4, from += 4, weight += 2 * stride) {
                Taps::add_neighbours(sum, from, weight);
                Taps::add_neighbours(sum, from + 2, weight + stride);
            }
            if (taps > 0) Taps::add_neighbours(sum, from, weight);
        } else {
            LR_NO_UNROLL
            for (int left = taps; left >= 2; left -= 2, from += 2 * step, weight += 2 * stride) {
                Taps::add_shared(sum, from, weight);
                Taps::add_shared(sum, from + step, weight + stride);
            }
            if (taps % 2 != 0) Taps::add_shared(sum, from, weight);
        }
    }
    LR_DEVICE void add_taps_strided(A (&sum)[R][kOutputs], const A* from, int step, const A* weight) const {
        if constexpr (F == Form::kFold) {
            const int stride = 2 * p.plan.entry_columns;
            int taps = p.plan.taps;
            LR_NO_UNROLL
            for (; taps >= 4; taps -= 4, from += 4 * step, weight += 2 * stride) {
                Taps::add_strided(sum, from, step, weight);
                Taps::add_strided(sum, from + 2 * step, step, weight + stride);
            }
            if (taps > 0) Taps::add_strided(sum, from, step, weight);
        } else {
            add_taps(sum, from, step, weight);
        }
    }

    struct alignas(kOutputs * sizeof(T) < 16 ? kOutputs * sizeof(T) : 16) Outputs {
        T value[kOutputs];
    };

    template <bool kWhole, int kStep>
    LR_DEVICE void store(const Entry& entry, const A (&sum)[R][kOutputs], int count) const {
        T* to = target + entry.target;
        LR_UNROLL
        for (int r = 0; r < R; ++r, to += p.plan.out_row_elements) {
            if (!kWhole && r >= count) break;
            if constexpr (F == Form::kFold)
                *to = Encode<T>::of(sum[r][0]);
            else if (kStep == 1 || (!kWhole && p.plan.whole_store))
                store_together(to, sum[r]);
            else
                store_apart(to, sum[r], (entry.source >> 13) & 7, kStep > 0 ? kStep : p.plan.channels);
        }
    }
    LR_DEVICE static void store_together(T* to, const A (&sum)[kOutputs]) {
        Outputs outputs;
        LR_UNROLL
        for (int o = 0; o < kOutputs; ++o) outputs.value[o] = Encode<T>::of(sum[o]);
        *reinterpret_cast<Outputs*>(to) = outputs;
    }
    LR_DEVICE static void store_apart(T* to, const A (&sum)[kOutputs], uint32_t outputs, int64_t step) {
        LR_UNROLL
        for (int o = 0; o < kOutputs; ++o)
            if (o < static_cast<int>(outputs)) to[o * step] = Encode<T>::of(sum[o]);
    }

    // Element e of the row buffer: its plane within the group, column of the window and channel.
    LR_DEVICE bool locate(int e, int planes, const Tile& tile, int64_t plane, int64_t channel, const T*& base) const {
        const int g = e / p.plan.plane_elements;
        const int within = e - g * p.plan.plane_elements;
        const int column = within / p.plan.group_channels;
        const int c = within - column * p.plan.group_channels;
        if (g >= planes || column >= tile.column_count) return false;
        int64_t image, inner;
        divide(plane + g, p.planes_per_image, image, inner);
        base = static_cast<const T*>(p.image) + image * p.stride_image + inner * p.stride_plane +
               (channel + c) * p.stride_channel + (tile.column_begin + column) * p.stride_column;
        return true;
    }

    LR_DEVICE void run_strip(const Source<T, V, kVectors>& source, int strip, int64_t window) {
        const int32_t* strip_begin = reinterpret_cast<const int32_t*>(p.tables + p.plan.strip_begin) + strip;
        const int32_t* strip_first =
            reinterpret_cast<const int32_t*>(p.tables + p.plan.strip_first) + strip * kGroupSteps;
        const int begin = strip_begin[0];
        const int end = strip_begin[1];
        const S* program = reinterpret_cast<const S*>(p.tables + p.plan.steps);
        const auto row_bytes = static_cast<RowBytes>(p.stride_row * static_cast<int64_t>(sizeof(T)));
        typename Source<T, V, kVectors>::Raw raw[kInFlight] = {};
        LR_UNROLL
        for (int q = 0; q < kInFlight; ++q) source.load(raw[q], strip_first[q], row_bytes);
        // While the first rows arrive. The tables of the window before are free: its last batch ended with a barrier.
        copy_to_shared(weights, p.tables + p.plan.weight_table + window * weight_bytes(), weight_bytes());
        const int64_t entry_bytes = round_up_16(sizeof(Entry) * p.plan.tile_entries);
        copy_to_shared(entries, p.tables + p.plan.entry_table + window * entry_bytes, static_cast<int>(entry_bytes));
        A kept[K][V] = {};  // fold: the open output rows; gather: the last image rows
        int done = 0;       // output rows that have gone through the horizontal filter
        for (int chunk = begin; chunk < end; chunk += kChunkSteps) {
            const int count = end - chunk < kChunkSteps ? end - chunk : kChunkSteps;
            if (chunk > begin) barrier();  // the steps before are free
            copy_to_shared(steps, program + chunk, count * static_cast<int>(sizeof(S)));
            barrier();
            LR_NO_UNROLL
            for (int group = 0; group < count; group += kGroupSteps) {
                int flush = 0;
                LR_UNROLL
                for (int q = 0; q < kGroupSteps; ++q) {
                    const S step = steps[group + q];
                    run_step(source, step, row_bytes, raw[q % kInFlight], kept);
                    flush = step.flags >> kStepFlushShift;
                }
                if (flush != 0) {
                    barrier();  // the batch is complete
                    filter_columns(done, flush);
                    barrier();  // and free again
                    done += flush;
                }
            }
        }
    }

    LR_DEVICE void run_step(const Source<T, V, kVectors>& source, const S& step, RowBytes row_bytes,
                            typename Source<T, V, kVectors>::Raw& raw, A (&kept)[K][V]) {
        if constexpr (F == Form::kFold) {
            // An idle step has zero weights only; where folding is short, a branch around it costs more than it saves.
            if (K * V <= 16 || step.flags & kStepRow) fold_row(step, raw, kept);
            source.load(raw, step.next_row, row_bytes);
            if (step.flags & kStepEmit) emit_folded(step, kept);
        } else {
            if (step.flags & kStepRow) {
                keep_row(step, raw, kept);
                source.load(raw, step.next_row, row_bytes);
            }
            if (step.flags & kStepEmit) emit_gathered(step, kept);
        }
    }

    LR_DEVICE static int batch_row_of(const S& step) { return (step.flags >> kStepBatchShift) & 3; }

    // Fold: adds the image row to every open output row.
    LR_DEVICE static void fold_row(const S& step, const typename Source<T, V, kVectors>::Raw& raw, A (&kept)[K][V]) {
        A x[V];
        LR_UNROLL
        for (int v = 0; v < V; ++v) x[v] = Source<T, V, kVectors>::value(raw, v);
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            LR_UNROLL
            for (int v = 0; v < V; ++v) add_weighted(step.weight[k], x[v], kept[k][v]);
        }
    }
    // Calls `use` with the row in the step's slot. A switch, not a loop over the slots: the compiler may replace a
    // loop's counter by the slot that it was compared with, and then the registers become an array in memory; and it
    // predicates the bodies of a loop, so that all of them are issued.
    template <class Use>
    LR_DEVICE static void with_slot(const S& step, A (&kept)[K][V], const Use& use) {
        switch ((step.flags >> kStepSlotShift) & 7) {
            case 0:
                return use(kept[0]);
            case 1:
                if constexpr (K > 2) return use(kept[1]);
                break;
            case 2:
                if constexpr (K > 3) return use(kept[2]);
                break;
            case 3:
                if constexpr (K > 4) return use(kept[3]);
                break;
            case 4:
                if constexpr (K > 5) return use(kept[4]);
                break;
            case 5:
                if constexpr (K > 6) return use(kept[5]);
                break;
            case 6:
                if constexpr (K > 7) return use(kept[6]);
                break;
        }
        use(kept[K - 1]);
    }

    // Fold: the oldest output row is complete; its slot becomes the newest one's.
    LR_DEVICE void emit_folded(const S& step, A (&kept)[K][V]) {
        with_slot(step, kept, [&](A(&row)[V]) {
            put_row(batch_row_of(step), row);
            LR_UNROLL
            for (int v = 0; v < V; ++v) row[v] = A(0);
        });
    }
    // Gather: the image row replaces the oldest.
    LR_DEVICE static void keep_row(const S& step, const typename Source<T, V, kVectors>::Raw& raw, A (&kept)[K][V]) {
        A x[V];
        LR_UNROLL
        for (int v = 0; v < V; ++v) x[v] = Source<T, V, kVectors>::value(raw, v);
        put_in_slot<0>((step.flags >> kStepSlotShift) & 7, x, kept);
    }
    // Here every slot is written under a predicate: with a switch the compiler moves the other slots' registers about.
    template <int k>
    LR_DEVICE static void put_in_slot(int slot, const A (&x)[V], A (&kept)[K][V]) {
        if (slot == k) {
            LR_UNROLL
            for (int v = 0; v < V; ++v) kept[k][v] = x[v];
        }
        if constexpr (k + 1 < K) put_in_slot<k + 1>(slot, x, kept);
    }
    // Gather: an output row from the image rows that are kept.
    LR_DEVICE void emit_gathered(const S& step, const A (&kept)[K][V]) {
        A sum[V] = {};
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            LR_UNROLL
            for (int v = 0; v < V; ++v) add_weighted(step.weight[k], kept[k][v], sum[v]);
        }
        put_row(batch_row_of(step), sum);
    }

    LR_DEVICE void run() {
        const PlanShape& plan = p.plan;
        int64_t block = block_index();
        piece = 0;
        // One loop over blocks and pieces: what it computes from them need not be kept in registers over a strip.
        LR_NO_UNROLL
        while (block < plan.blocks) {
            // Neighbouring tiles and strips run together and share their halos in L2.
            int64_t rest, tile_index, strip, channel_group, plane_group;
            divide(block, plan.tiles, rest, tile_index);
            divide(rest, plan.strips, rest, strip);
            divide(rest, plan.channel_groups, plane_group, channel_group);
            const int64_t plane = plane_group * plan.group_planes;
            const int64_t channel = channel_group * plan.group_channels;
            const int planes =
                static_cast<int>(plan.planes - plane < plan.group_planes ? plan.planes - plane : plan.group_planes);
            target = static_cast<T*>(p.output) +
                     ((plane * plan.out_height + strip * plan.strip_rows) * plan.out_width +
                      tile_index * plan.tile_columns) *
                         plan.channels +
                     channel;
            const int64_t window = tile_index * plan.pieces + piece;
            const Tile tile = reinterpret_cast<const Tile*>(p.tables + plan.tile_table)[window];
            entry_count = planes * tile.entries_per_plane;
            Source<T, V, kVectors> source;
            if constexpr (kVectors) {
                source.base = nullptr;
                source.valid = locate(thread_index() * V, planes, tile, plane, channel, source.base);
            } else {
                LR_UNROLL
                for (int v = 0; v < V; ++v) {
                    source.base[v] = nullptr;
                    source.valid[v] =
                        locate(thread_index() + v * thread_count(), planes, tile, plane, channel, source.base[v]);
                }
            }
            run_strip(source, static_cast<int>(strip), window);
            if (++piece == plan.pieces) {
                piece = 0;
                block += block_count();
            }
        }
    }
};

template <class T, int K, Form F, bool kVectors>
LR_KERNEL_RESIDENT(kThreads, resident_blocks(DTypeOf<T>::value, K, kVectors))
resample_kernel(const ResampleParams params) {
    Resample<T, K, F, kVectors>(params).run();
}

template <class T, int... kSlots, class Launch>
bool with_resample_type(const PlanShape& plan, const Launch& launch) {
    return dispatch<kSlots...>(plan.slots, [&](auto K) {
        return dispatch<Form::kFold, Form::kGather>(plan.form, [&](auto F) {
            if (plan.vectors)
                launch(resample_kernel<T, K, F, true>);
            else
                launch(resample_kernel<T, K, F, false>);
            return true;
        });
    });
}

// Calls launch(kernel) with the instance for `plan`; false if it does not exist.
template <class Launch>
bool with_resample_kernel(const PlanShape& plan, const Launch& launch) {
    switch (plan.dtype) {
        // float64 is for checks, not for speed: the planner always gives it eight slots.
        case DType::kFloat64:
            return with_resample_type<double, 8>(plan, launch);
        case DType::kFloat32:
            return with_resample_type<float, 2, 4, 6, 8>(plan, launch);
        case DType::kFloat16:
            return with_resample_type<Half, 2, 4, 6, 8>(plan, launch);
        case DType::kBFloat16:
            return with_resample_type<BFloat16, 2, 4, 6, 8>(plan, launch);
        case DType::kUInt8:
            return with_resample_type<uint8_t, 2, 4, 6, 8>(plan, launch);
    }
    return false;
}

}  // namespace learned_resizer
