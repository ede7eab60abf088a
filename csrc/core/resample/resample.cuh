// Resampling as out = R_h in R_w^T on every plane, R_h and R_w band matrices; and its adjoint.
//
//   forward   out[p, y, x, c]  = sum_i sum_j  R_h[y, i] R_w[x, j]  in[p, i, j, c]
//   adjoint   gin[p, i, j, c]  = sum_y sum_x  R_h[y, i] R_w[x, j] gout[p, y, x, c]
//
// The adjoint of a band matrix is a band matrix, so the adjoint is this kernel with the transposed bands: a gather, no
// atomics, every sum in one fixed order whatever the tiling, hence bitwise reproducible.
//
// A launch takes images of any number of sizes. A block makes `strip_rows` output rows of one column tile of one of
// them. Each thread owns a few consecutive elements of the image row (columns and interleaved channels flattened, so
// the layout does not matter), reads them from each image row in turn straight into registers, and applies R_h there: K
// accumulators, one for each output row that is open; a row is folded into all of them. Completed rows go to shared
// memory; after kBatchRows of them the block applies R_w from there, rounds once and stores. The order of steps, which
// slot a row takes and when a batch is complete are in the tables (resample_tables.cuh). A sum's order depends on its
// band alone, so that an image has the same bits whatever else the launch holds.
//
// A weight of zero means "not in the band" and never touches a sum: 0 * inf must not leak NaN out of a band.
#pragma once

#include "common/device.cuh"
#include "common/dispatch.h"
#include "resample/resample.h"
#include "resample/resample_source.cuh"
#include "resample/resample_tables.cuh"
#include "resample/resample_taps.cuh"

namespace learned_resizer {

// T: element type. K: slots. kOutputs: of an entry. kVectors: aligned vector loads.
template <class T, int K, int kOutputs, bool kVectors>
struct Resample {
    using A = typename Accumulator<T>::type;
    static constexpr int V = vector_length(DTypeOf<T>::value, kVectors);
    static constexpr int E = row_capacity(DTypeOf<T>::value, kVectors);
    static constexpr int R = kBatchRows;
    // Only bytes become another type.
    static constexpr bool kConverts = DTypeOf<T>::value == DType::kUInt8;
    using S = Step<A, K>;
    using Taps = ColumnTaps<A, R, kOutputs, E>;
    using RowBytes = typename Source<T, V, kVectors>::RowBytes;

    // In dynamic shared memory behind `place`, in this order (the planner adds up the same sizes).
    A* rows;         // [R][E]: the batch, after the vertical filter
    S* steps;        // [kChunkSteps]
    A* weights;      // outputs 1: [taps/2][entry_columns][2], 4: [taps][entry_columns][4]
    Entry* entries;  // [tile_entries]
    A* partial;      // [strip_rows][tile_entries][kOutputs], only if pieces > 1

    const ResampleParams& p;
    ResamplePlace& place;
    const ResampleTensor& t;
    char* target;     // the tile's first output of the next batch
    int entry_count;  // of this tile
    int piece;

    LR_DEVICE explicit Resample(const ResampleParams& params)
        : p(params), place(*reinterpret_cast<ResamplePlace*>(dynamic_shared())), t(place.tensor) {
        rows = reinterpret_cast<A*>(dynamic_shared() + sizeof(ResamplePlace));
        steps = reinterpret_cast<S*>(rows + R * E);
        weights = reinterpret_cast<A*>(steps + kChunkSteps);
    }
    LR_DEVICE void divide_memory() {
        unsigned char* shared = reinterpret_cast<unsigned char*>(weights) + weight_bytes();
        entries = reinterpret_cast<Entry*>(shared);
        partial = reinterpret_cast<A*>(shared + round_up_16(sizeof(Entry) * t.tile_entries));
    }

    LR_DEVICE int weight_bytes() const {
        return static_cast<int>(round_up_16(int64_t{t.taps} * t.entry_columns * kOutputs * sizeof(A)));
    }
    LR_DEVICE int64_t out_row() const { return int64_t{t.columns.out} * t.channels; }
    LR_DEVICE int out_bytes() const {
        if (!kConverts || p.plan.out_dtype == DType::kUInt8) return sizeof(T);
        return p.plan.out_dtype == DType::kFloat32 ? 4 : 2;
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
        if (count != R || t.pieces > 1)
            filter_entries<false, 0>(first, count);
        else if (kOutputs == 1 ? t.group_channels == 1 : t.whole_store)
            filter_entries<true, 1>(first, R);
        else if (t.group_channels == 3 && t.channels == 3)
            filter_entries<true, 3>(first, R);
        else
            filter_entries<true, 0>(first, R);
        target += count * out_row() * out_bytes();
    }

    // kWhole: four rows, one window. kStep: the interleaved channels of the block if known, else 0; of several outputs:
    // 1 if also they are stored together.
    template <bool kWhole, int kStep>
    LR_DEVICE void filter_entries(int first, int count) {
        const int step = kStep > 0 ? kStep : t.group_channels;
        // Bytes round once, at the end; floats made of bytes do not.
        const A bias = kConverts && p.plan.out_dtype != DType::kUInt8 ? A(0) : A(Encode<T>::kRoundingBias);
        LR_NO_UNROLL
        for (int j = thread_index(); j < entry_count; j += thread_count()) {
            const Entry entry = entries[j];
            const A* from = rows + (entry.source & 0x1fffu);
            const A* weight = weights + (kOutputs == 1 ? 2 : kOutputs) * (entry.source >> 16);
            A sum[R][kOutputs];
            LR_UNROLL
            for (int r = 0; r < R; ++r) {
                LR_UNROLL
                for (int o = 0; o < kOutputs; ++o) sum[r][o] = bias;
            }
            if (!kWhole && piece > 0) resume(sum, first, count, j);
            if (kStep == 1 || (!kWhole && step == 1))
                add_taps(sum, from, 1, weight);
            else
                add_taps_strided(sum, from, step, weight);
            if (!kWhole && piece + 1 < t.pieces)
                keep(sum, first, count, j);
            else
                store<kWhole, kStep>(entry, sum, count, j);
        }
    }

    // The sums of an output whose taps come in several windows, between two of them.
    LR_DEVICE A* kept_sum(int row, int j) const {
        return partial + (static_cast<int64_t>(row) * t.tile_entries + j) * kOutputs;
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
    // `taps` is at least 2, of several outputs 1. With a step that is the constant 1, addresses become immediates.
    LR_DEVICE void add_taps(A (&sum)[R][kOutputs], const A* from, int step, const A* weight) const {
        const int stride = (kOutputs == 1 ? 2 : kOutputs) * t.entry_columns;
        int taps = t.taps;
        if constexpr (kOutputs == 1) {
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
        if constexpr (kOutputs == 1) {
            const int stride = 2 * t.entry_columns;
            int taps = t.taps;
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

    // From one output of a row to the next, in elements.
    LR_DEVICE int64_t out_step() const { return t.mirrored != 0 ? -int64_t{t.channels} : t.channels; }

    template <bool kWhole, int kStep>
    LR_DEVICE void store(const Entry& entry, const A (&sum)[R][kOutputs], int count, int j) const {
        if constexpr (kConverts) {
            if (p.plan.out_dtype != DType::kUInt8) return store_converted(entry, sum, count, j);
        }
        T* to = reinterpret_cast<T*>(target) + entry.target;
        LR_UNROLL
        for (int r = 0; r < R; ++r, to += out_row()) {
            if (!kWhole && r >= count) break;
            if constexpr (kOutputs == 1)
                *to = Encode<T>::of(sum[r][0]);
            else if (kStep == 1 || (!kWhole && t.whole_store))
                store_together(to, sum[r]);
            else
                store_apart(to, sum[r], (entry.source >> 13) & 7);
        }
    }
    LR_DEVICE static void store_together(T* to, const A (&sum)[kOutputs]) {
        Outputs outputs;
        LR_UNROLL
        for (int o = 0; o < kOutputs; ++o) outputs.value[o] = Encode<T>::of(sum[o]);
        *reinterpret_cast<Outputs*>(to) = outputs;
    }
    LR_DEVICE void store_apart(T* to, const A (&sum)[kOutputs], uint32_t outputs) const {
        const int64_t step = out_step();
        LR_UNROLL
        for (int o = 0; o < kOutputs; ++o)
            if (o < static_cast<int>(outputs)) to[o * step] = Encode<T>::of(sum[o]);
    }
    // Floats of bytes, normalised.
    LR_DEVICE void store_converted(const Entry& entry, const A (&sum)[R][kOutputs], int count, int j) const {
        float scale = 1.0f, shift = 0.0f;
        if (p.norm != nullptr) {
            // Of planes the entry's, else the channel of the pixel.
            const int64_t plane = place.plane + j / (entry_count / planes());
            const int64_t channels = t.channels > 1 ? t.channels : t.planes_per_image;
            const int64_t c = t.channels > 1 ? place.channel + j % t.group_channels : plane % channels;
            scale = load_element(p.norm + c), shift = load_element(p.norm + channels + c);
        }
        const int64_t step = out_step();
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            if (r >= count) break;
            LR_UNROLL
            for (int o = 0; o < kOutputs; ++o) {
                if (o >= static_cast<int>((entry.source >> 13) & 7)) break;
                put_float(entry.target + r * out_row() + o * step, fused_multiply_add(sum[r][o], scale, shift));
            }
        }
    }
    LR_DEVICE void put_float(int64_t at, float value) const {
        if (p.plan.out_dtype == DType::kFloat32)
            reinterpret_cast<float*>(target)[at] = value;
        else if (p.plan.out_dtype == DType::kFloat16)
            reinterpret_cast<Half*>(target)[at] = Encode<Half>::of(value);
        else
            reinterpret_cast<BFloat16*>(target)[at] = Encode<BFloat16>::of(value);
    }

    // Planes of the block.
    LR_DEVICE int planes() const {
        const int64_t left = t.planes - place.plane;
        return static_cast<int>(left < t.group_planes ? left : t.group_planes);
    }

    // Element e of the row buffer: its plane within the group, column of the window and channel.
    LR_DEVICE bool locate(int e, const Tile& tile, const T*& base) const {
        const int g = e / t.plane_elements;
        const int within = e - g * t.plane_elements;
        const int column = within / t.group_channels;
        const int c = within - column * t.group_channels;
        if (g >= planes() || column >= tile.column_count) return false;
        int64_t image, inner;
        divide(place.plane + g, t.planes_per_image, image, inner);
        const int64_t (&stride)[5] = place.image.stride;
        base = static_cast<const T*>(place.image.image) + image * stride[0] + inner * stride[1] +
               (place.channel + c) * stride[2] + (tile.column_begin + column) * stride[4];
        return true;
    }

    LR_DEVICE void run_strip(const Source<T, V, kVectors>& source, int64_t strip, int64_t window) {
        const int32_t* strip_first = in_tables<int32_t>(p.tables, t.strip_first) + strip * kGroupSteps;
        const int end = in_tables<int32_t>(p.tables, t.strip_count)[strip];
        const auto row_bytes = static_cast<RowBytes>(place.image.stride[3] * static_cast<int64_t>(sizeof(T)));
        typename Source<T, V, kVectors>::Raw raw[kGroupSteps] = {};
        LR_UNROLL
        for (int q = 0; q < kGroupSteps; ++q) source.load(raw[q], strip_first[q], row_bytes);
        // While the first rows arrive. The tables of the window before are free: its last batch ended with a barrier.
        copy_to_shared(weights, p.tables + t.weight_table + window * weight_bytes(), weight_bytes());
        const int64_t entry_bytes = round_up_16(sizeof(Entry) * t.tile_entries);
        copy_to_shared(entries, p.tables + t.entry_table + window * entry_bytes, static_cast<int>(entry_bytes));
        A kept[K][V] = {};  // the open output rows
        int done = 0;       // output rows that have gone through the horizontal filter
        for (int chunk = 0; chunk < end; chunk += kChunkSteps) {
            const int count = end - chunk < kChunkSteps ? end - chunk : kChunkSteps;
            if (chunk > 0) barrier();  // the steps before are free
            // Found again for each chunk: kept, it would take a register that some instances do not have.
            const S* program = in_tables<S>(p.tables, t.steps) + place.strip * t.strip_steps;
            copy_to_shared(steps, program + chunk, count * static_cast<int>(sizeof(S)));
            barrier();
            LR_NO_UNROLL
            for (int group = 0; group < count; group += kGroupSteps) {
                int flush = 0;
                LR_UNROLL
                for (int q = 0; q < kGroupSteps; ++q) {
                    const S step = steps[group + q];
                    run_step(source, step, row_bytes, raw[q], kept);
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
        // An idle step has zero weights only; where folding is short, a branch around it costs more than it saves.
        if (K * V <= 16 || step.flags & kStepRow) fold_row(step, raw, kept);
        source.load(raw, step.next_row, row_bytes);
        if (step.flags & kStepEmit) emit_row(step, kept);
    }

    LR_DEVICE static int batch_row_of(const S& step) { return (step.flags >> kStepBatchShift) & 3; }

    // Adds the image row to every open output row.
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

    // The oldest output row is complete; its slot becomes the newest one's.
    LR_DEVICE void emit_row(const S& step, A (&kept)[K][V]) {
        with_slot(step, kept, [&](A(&row)[V]) {
            put_row(batch_row_of(step), row);
            LR_UNROLL
            for (int v = 0; v < V; ++v) row[v] = A(0);
        });
    }

    // The tensor and the place of a block. Neighbouring tiles and strips run together and share their halos in L2.
    LR_DEVICE void find(int64_t block, int64_t& strip, int64_t& tile) {
        const auto* tensors = in_tables<ResampleTensor>(p.tables, p.plan.tensor_table);
        const int32_t index = find_tensor(p.plan.tensors, block, [&](int32_t j) { return tensors[j].block; });
        barrier();  // the place of the block before is free
        copy_to_shared(&place.tensor, tensors + index, sizeof(ResampleTensor));
        if (thread_index() == 0) place.image = p.images == nullptr ? p.image : p.images[index];
        barrier();
        int64_t rest, channel_group, plane_group;
        divide(block - t.block, t.tiles, rest, tile);
        divide(rest, t.strips, rest, strip);
        divide(rest, t.channel_groups, plane_group, channel_group);
        if (thread_index() == 0) {
            place.block = block;
            place.strip = strip;
            place.plane = plane_group * t.group_planes;
            place.channel = channel_group * t.group_channels;
        }
        barrier();
        divide_memory();
    }

    LR_DEVICE void run() {
        int64_t block = block_index(), strip = 0, tile_index = 0;
        piece = 0;
        // One loop over blocks and pieces: what it computes from them need not be kept in registers over a strip.
        LR_NO_UNROLL
        while (block < p.plan.blocks) {
            find(block, strip, tile_index);
            target =
                static_cast<char*>(place.image.output) +
                (((place.plane * t.rows.out + strip * t.strip_rows) * t.columns.out + tile_index * t.tile_columns) *
                     t.channels +
                 place.channel) *
                    out_bytes();
            const int64_t window = tile_index * t.pieces + piece;
            const Tile tile = in_tables<Tile>(p.tables, t.tile_table)[window];
            entry_count = planes() * tile.entries_per_plane;
            Source<T, V, kVectors> source;
            if constexpr (kVectors) {
                source.base = nullptr;
                source.valid = locate(thread_index() * V, tile, source.base);
            } else {
                LR_UNROLL
                for (int v = 0; v < V; ++v) {
                    source.base[v] = nullptr;
                    source.valid[v] = locate(thread_index() + v * thread_count(), tile, source.base[v]);
                }
            }
            run_strip(source, strip, window);
            block = place.block;  // not kept in registers over the strip
            if (++piece == t.pieces) {
                piece = 0;
                block += block_count();
            }
        }
    }
};

template <class T, int K, int kOutputs, bool kVectors>
LR_KERNEL_RESIDENT(kThreads, resident_blocks(DTypeOf<T>::value, K, kVectors, kOutputs))
resample_kernel(const ResampleParams params) {
    Resample<T, K, kOutputs, kVectors>(params).run();
}

template <class T, int... kSlots, class Launch>
bool with_resample_type(const ResampleShape& plan, const Launch& launch) {
    return dispatch<kSlots...>(plan.slots, [&](auto K) {
        return dispatch<1, kSharedOutputs>(plan.outputs, [&](auto kOutputs) {
            if (plan.vectors)
                launch(resample_kernel<T, K, kOutputs, true>);
            else
                launch(resample_kernel<T, K, kOutputs, false>);
            return true;
        });
    });
}

// Calls launch(kernel) with the instance for `plan`; false if it does not exist.
template <class Launch>
bool with_resample_kernel(const ResampleShape& plan, const Launch& launch) {
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
