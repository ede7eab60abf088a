// Resampling as out = R_h in R_w^T on every plane, R_h and R_w band matrices; and its adjoint.
//
//   forward   out[p, y, x, c]  = sum_i sum_j  R_h[y, i] R_w[x, j]  in[p, i, j, c]
//   adjoint   gin[p, i, j, c]  = sum_y sum_x  R_h[y, i] R_w[x, j] gout[p, y, x, c]
//
// The adjoint of a band matrix is a band matrix, so the adjoint is this kernel with the transposed bands: a gather, no
// atomics, every sum in one fixed order whatever the tiling, hence bitwise reproducible.
//
// A block makes `strip_rows` output rows of one column tile. Each thread owns a few consecutive elements of the image row
// (columns and interleaved channels flattened, so the layout does not matter), reads them from each image row in turn
// straight into registers, and applies R_h there:
//   fold    (shrinking)  K accumulators, one per output row that is open; a row is folded into all of them.
//   gather  (enlarging)  the last K image rows; an output row is a weighted sum of them.
// Completed rows go to shared memory; after kBatchRows of them the block applies R_w from there, rounds once and stores.
// The order of steps, which slot a row takes and when a batch is complete were all decided on the host (resample_plan.cpp).
//
// A weight of zero means "not in the band" and never touches an accumulator: 0 * inf must not become NaN in an output whose
// band does not contain the infinite pixel.
#pragma once

#include "device.cuh"
#include "resample.h"

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

LR_DEVICE int64_t round_up_16(int64_t bytes) { return (bytes + 15) / 16 * 16; }

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

// Row `row` >= 0 of a column. Bytes and an unsigned row make this two instructions.
template <class T>
LR_DEVICE const T* row_of(const T* column, int32_t row, int64_t row_bytes) {
    const int64_t offset = static_cast<int64_t>(static_cast<uint32_t>(row)) * row_bytes;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(column) + offset);
}

// The elements of the image row that one thread owns.
template <class T, int V, bool kVectors>
struct Source;

// V consecutive elements, aligned.
template <class T, int V>
struct Source<T, V, true> {
    using Raw = Words<T, V>;
    const T* base;
    bool valid;

    LR_DEVICE void load(Raw& raw, int32_t row, int64_t row_bytes) const {
        if (valid && row >= 0) raw = load_words<T, V>(row_of(base, row, row_bytes));
    }
    LR_DEVICE static typename Accumulator<T>::type value(const Raw& raw, int v) { return Decode<T>::at(raw.word, v); }
};

// V elements, one from each V-th part of the row, with any strides.
template <class T, int V>
struct Source<T, V, false> {
    struct Raw {
        T item[V];
    };
    const T* base[V];
    bool valid[V];

    LR_DEVICE void load(Raw& raw, int32_t row, int64_t row_bytes) const {
        if (row < 0) return;
        LR_UNROLL
        for (int v = 0; v < V; ++v)
            if (valid[v]) raw.item[v] = load_element(row_of(base[v], row, row_bytes));
    }
    LR_DEVICE static typename Accumulator<T>::type value(const Raw& raw, int v) { return Decode<T>::of(raw.item[v]); }
};

// T: element type. K: slots. F: form. kVectors: aligned vector loads.
template <class T, int K, Form F, bool kVectors>
struct Resample {
    using A = typename Accumulator<T>::type;
    static constexpr int V = vector_length(DTypeOf<T>::value, kVectors);
    static constexpr int E = row_capacity(DTypeOf<T>::value, kVectors);
    static constexpr int R = kBatchRows;
    static constexpr int kInFlight = F == Form::kFold ? kGroupSteps : 1;
    using S = Step<A, K>;

    // Dynamic shared memory, in this order (the planner adds up the same sizes).
    A* rows;         // [R][E]: the batch, after the vertical filter
    S* steps;        // [kChunkSteps]
    A* weights;      // [fold: taps/2, gather: taps][entry_columns][2]
    Entry* entries;  // [tile_entries]
    A* partial;      // [strip_rows][tile_entries][2], only if pieces > 1

    const ResampleParams& p;
    T* target;        // the tile's first output of the strip
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

    LR_DEVICE int weight_pairs() const {
        return (F == Form::kFold ? p.plan.taps / 2 : p.plan.taps) * p.plan.entry_columns;
    }
    LR_DEVICE int weight_bytes() const {
        return static_cast<int>(round_up_16(static_cast<int64_t>(weight_pairs()) * 2 * sizeof(A)));
    }

    // Stores row `row` of the batch from one slot, in the order that Source hands out the elements.
    LR_DEVICE void put_row(int row, const A (&value)[V]) {
        A* to = rows + row * E;
        if constexpr (kVectors) {
            LR_UNROLL
            for (int v = 0; v < V; v += 16 / static_cast<int>(sizeof(A))) store_16(to + thread_index() * V + v, value + v);
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

    LR_DEVICE static A fma(A a, A b, A c) { return fused_multiply_add(a, b, c); }
    LR_DEVICE static Pair<A> pair(const A* p) { return *reinterpret_cast<const Pair<A>*>(p); }

    // Horizontal filter of the batch's `count` rows, which become output rows first ... first + count - 1 of the strip.
    LR_DEVICE void filter_columns(int first, int count) {
        const int step = p.plan.group_channels;
        const int stride = 2 * p.plan.entry_columns;
        LR_NO_UNROLL
        for (int j = thread_index(); j < entry_count; j += thread_count()) {
            const Entry entry = entries[j];
            const A* from = rows + (entry.source & 0xffffu);
            const A* weight = weights + 2 * ((entry.source >> 16) & 0x7fffu);
            A* kept = partial + (static_cast<int64_t>(first) * p.plan.tile_entries + j) * 2;
            A sum[R][2];
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = Encode<T>::kRoundingBias;
            if (piece > 0) resume(sum, kept, count);
            // Two trips at a time hide the latency of shared memory; more would only take registers.
            int taps = p.plan.taps;
            if constexpr (F == Form::kFold) {
                if (step == 1) {
                    LR_NO_UNROLL
                    for (; taps >= 4; taps -= 4, from += 4, weight += 2 * stride) {
                        add_neighbours(sum, from, weight);
                        add_neighbours(sum, from + 2, weight + stride);
                    }
                    if (taps > 0) add_neighbours(sum, from, weight);
                } else {
                    LR_NO_UNROLL
                    for (; taps > 0; taps -= 2, from += 2 * step, weight += stride) add_strided(sum, from, step, weight);
                }
            } else {
                LR_NO_UNROLL
                for (; taps >= 2; taps -= 2, from += 2 * step, weight += 2 * stride) {
                    add_shared(sum, from, weight);
                    add_shared(sum, from + step, weight + stride);
                }
                if (taps > 0) add_shared(sum, from, weight);
            }
            if (piece + 1 < p.plan.pieces) {
                keep(sum, kept, count);
            } else {
                store(entry, sum, first, count);
            }
        }
    }

    // The sums of an output whose taps come in several windows, between two of them.
    LR_DEVICE void resume(A (&sum)[R][2], const A* kept, int count) const {
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            if (r >= count) break;
            sum[r][0] = kept[2 * r * p.plan.tile_entries];
            sum[r][1] = kept[2 * r * p.plan.tile_entries + 1];
        }
    }
    LR_DEVICE void keep(const A (&sum)[R][2], A* kept, int count) const {
        LR_UNROLL
        for (int r = 0; r < R; ++r) {
            if (r >= count) break;
            kept[2 * r * p.plan.tile_entries] = sum[r][0];
            kept[2 * r * p.plan.tile_entries + 1] = sum[r][1];
        }
    }

    // Two taps of one output that are neighbours in memory; the planner made every first tap even.
    LR_DEVICE static void add_neighbours(A (&sum)[R][2], const A* from, const A* weight) {
        Pair<A> x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = pair(from + r * E);
        add_pair(sum, pair(weight), x);
    }
    // Two taps of one output that are a pixel of interleaved channels apart.
    LR_DEVICE static void add_strided(A (&sum)[R][2], const A* from, int step, const A* weight) {
        Pair<A> x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = {from[r * E], from[r * E + step]};
        add_pair(sum, pair(weight), x);
    }
    LR_DEVICE static void add_pair(A (&sum)[R][2], const Pair<A>& w, const Pair<A> (&x)[R]) {
        if (w.x != A(0)) {
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum[r][0] = fma(w.x, x[r].x, sum[r][0]);
        }
        if (w.y != A(0)) {
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum[r][0] = fma(w.y, x[r].y, sum[r][0]);
        }
    }
    // One tap that two neighbouring outputs share.
    LR_DEVICE static void add_shared(A (&sum)[R][2], const A* from, const A* weight) {
        const Pair<A> w = pair(weight);
        A x[R];
        LR_UNROLL
        for (int r = 0; r < R; ++r) x[r] = from[r * E];
        if (w.x != A(0)) {
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum[r][0] = fma(w.x, x[r], sum[r][0]);
        }
        if (w.y != A(0)) {
            LR_UNROLL
            for (int r = 0; r < R; ++r) sum[r][1] = fma(w.y, x[r], sum[r][1]);
        }
    }

    struct alignas(2 * sizeof(T)) Two {
        T x, y;
    };

    LR_DEVICE void store(const Entry& entry, const A (&sum)[R][2], int first, int count) {
        const int64_t stride_row = p.plan.out_width * p.plan.channels;
        T* to = target + first * stride_row + entry.target;
        LR_UNROLL
        for (int r = 0; r < R; ++r, to += stride_row) {
            if (r >= count) break;
            if constexpr (F == Form::kFold)
                *to = Encode<T>::of(sum[r][0]);
            else if (p.plan.pair_store)
                store_pair(to, sum[r]);
            else
                store_two(to, sum[r], entry);
        }
    }
    LR_DEVICE static void store_pair(T* to, const A (&sum)[2]) {
        *reinterpret_cast<Two*>(to) = Two{Encode<T>::of(sum[0]), Encode<T>::of(sum[1])};
    }
    LR_DEVICE void store_two(T* to, const A (&sum)[2], const Entry& entry) const {
        *to = Encode<T>::of(sum[0]);
        if (!(entry.source >> 31)) to[p.plan.channels] = Encode<T>::of(sum[1]);
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

    LR_DEVICE void run_strip(const Source<T, V, kVectors>& source, int strip) {
        const int32_t* strip_begin = reinterpret_cast<const int32_t*>(p.tables + p.plan.strip_begin) + strip;
        const int32_t* strip_first = reinterpret_cast<const int32_t*>(p.tables + p.plan.strip_first) + strip * kGroupSteps;
        const int begin = strip_begin[0];
        const int end = strip_begin[1];
        const S* program = reinterpret_cast<const S*>(p.tables + p.plan.steps);
        const int64_t row_bytes = p.stride_row * static_cast<int64_t>(sizeof(T));
        typename Source<T, V, kVectors>::Raw raw[kInFlight] = {};
        LR_UNROLL
        for (int q = 0; q < kInFlight; ++q) source.load(raw[q], strip_first[q], row_bytes);
        A kept[K][V] = {};  // fold: the open output rows; gather: the last image rows
        int done = 0;       // output rows that have gone through the horizontal filter
        for (int chunk = begin; chunk < end; chunk += kChunkSteps) {
            const int count = end - chunk < kChunkSteps ? end - chunk : kChunkSteps;
            barrier();  // nobody still reads the steps before
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

    LR_DEVICE void run_step(const Source<T, V, kVectors>& source, const S& step, int64_t row_bytes,
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
            if (step.weight[k] != A(0)) {
                LR_UNROLL
                for (int v = 0; v < V; ++v) kept[k][v] = fma(step.weight[k], x[v], kept[k][v]);
            }
        }
    }
    // Calls `use` with the row in the step's slot. A loop over the slots would not do: the compiler may replace its counter
    // by the slot that it was compared with, and then the registers become an array in memory.
    template <int k = 0, class Use>
    LR_DEVICE static void with_slot(const S& step, A (&kept)[K][V], const Use& use) {
        if (((step.flags >> kStepSlotShift) & 7) == k) use(kept[k]);
        if constexpr (k + 1 < K) with_slot<k + 1>(step, kept, use);
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
        with_slot(step, kept, [&](A(&row)[V]) {
            LR_UNROLL
            for (int v = 0; v < V; ++v) row[v] = Source<T, V, kVectors>::value(raw, v);
        });
    }
    // Gather: an output row from the image rows that are kept.
    LR_DEVICE void emit_gathered(const S& step, const A (&kept)[K][V]) {
        A sum[V] = {};
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            if (step.weight[k] != A(0)) {
                LR_UNROLL
                for (int v = 0; v < V; ++v) sum[v] = fma(step.weight[k], kept[k][v], sum[v]);
            }
        }
        put_row(batch_row_of(step), sum);
    }

    LR_DEVICE void run() {
        const PlanShape& plan = p.plan;
        LR_NO_UNROLL
        for (int64_t block = block_index(); block < plan.blocks; block += block_count()) {
            // Neighbouring tiles and strips run together and share their halos in L2.
            int64_t rest, tile_index, strip, channel_group, plane_group;
            divide(block, plan.tiles, rest, tile_index);
            divide(rest, plan.strips, rest, strip);
            divide(rest, plan.channel_groups, plane_group, channel_group);
            const int64_t plane = plane_group * plan.group_planes;
            const int64_t channel = channel_group * plan.group_channels;
            const int planes = static_cast<int>(plan.planes - plane < plan.group_planes ? plan.planes - plane
                                                                                         : plan.group_planes);
            target = static_cast<T*>(p.output) +
                     ((plane * plan.out_height + strip * plan.strip_rows) * plan.out_width +
                      tile_index * plan.tile_columns) * plan.channels + channel;
            LR_NO_UNROLL
            for (piece = 0; piece < plan.pieces; ++piece) {
                const int64_t window = tile_index * plan.pieces + piece;
                const Tile tile = reinterpret_cast<const Tile*>(p.tables + plan.tile_table)[window];
                entry_count = planes * tile.entries_per_plane;
                barrier();  // nobody still reads the tables of the window before
                copy_to_shared(weights, p.tables + plan.weight_table + window * weight_bytes(), weight_bytes());
                const int64_t entry_bytes = round_up_16(sizeof(Entry) * plan.tile_entries);
                copy_to_shared(entries, p.tables + plan.entry_table + window * entry_bytes, static_cast<int>(entry_bytes));
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
                run_strip(source, static_cast<int>(strip));
            }
        }
    }
};

template <class T, int K, Form F, bool kVectors>
LR_KERNEL(kThreads) resample_kernel(const ResampleParams params) {
    Resample<T, K, F, kVectors>(params).run();
}

}  // namespace learned_resizer
