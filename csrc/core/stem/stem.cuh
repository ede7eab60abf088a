// The stem in one pass over the image: z = R c and the count, mean and M2 of c, with a and c of stem_features.cuh and R
// one band matrix per axis. No tensor with n channels at input resolution exists.
//
//   forward   z[b, y, x, f] = sum_i sum_j R_h[y, i] R_w[x, j] c[b, i, j, f]
//   adjoint   stem_backward.cuh
//
// An item of work is a strip of output rows of one column tile of one image; the images may differ in size. The block
// walks down the strip's image
// rows; each warp makes c of its 16 columns in registers and applies R_h there, in the layout of the product's result:
//   fold    (shrinking)  state[o % K] += weight c for the output rows o that are open; a complete one leaves.
//   gather  (enlarging)  state[y % K] holds the last K rows of c; an output row is their weighted sum.
// Which rows are open, complete and weighted at each step was decided before (stem_tables.cuh).
//
// R_w is a product of matrices, 16 outputs by the image columns of their bands. Complete rows go to shared memory as
// the arithmetic's elements, which is where z loses what it loses: c of an image row is never rounded. The weights are
// kept as two parts, high + low, where 16 outputs have some that are not exact: a rounded 1/9 would shift a whole map.
// Zeros beyond the bands are multiplied too, so that an infinite or NaN pixel reaches up to 15 outputs to either side
// of those that read it; those of R_h too, up to K - 1 output rows away.
//
// Statistics count every pixel of the image once, in the item that owns it; each block merges its own.
#pragma once

#include "common/dispatch.h"
#include "common/pixel_terms.cuh"
#include "common/statistics.cuh"
#include "stem/stem_axis.cuh"
#include "stem/stem_features.cuh"

namespace learned_resizer {

// float32 splits operands itself.
template <Arithmetic M>
constexpr int kStemParts = M == Arithmetic::kFloat32 ? 1 : 2;

template <Arithmetic M, int n, int K>
struct Stem {
    static constexpr int kRows = kIs16Bit<M> ? (n == 16 ? 3 : K == 2 ? 2 : 1) : (n == 16 ? 2 : 1);
    using Features = StemFeatures<M, n, kRows>;
    using F = typename Features::F;
    using S = typename Features::S;
    static constexpr int kTiles = Features::kTiles;
    static constexpr int kValues = 4 * kTiles;  // of a row of c that a lane holds
    // Elements between the pixels of a filtered row: its fragments then load without bank conflicts.
    static constexpr int kPitch = kIs16Bit<M> ? n + 8 : n + 4;
    // Rows that wait for R_w: as many are filtered while the next are written.
    static constexpr int kBuffer = kIs16Bit<M> && n == 16 ? 2 : 1;
    static constexpr int kBand = 32 * 8;  // elements of R_w's fragment
    // Of four channels of a lane: the center, the sum of deviations from it and the sum of their squares.
    static constexpr int kMoments = 3 * (n / 16);
    static constexpr int kRecenter = 8 * kRows;  // rows between new centers

    // What the registers have no room for: the item's image, strip and piece of a tile.
    struct alignas(16) Place {
        StemImage image;
        StemStrip strip;
        StemTile tile;
        StemAxis columns;
        int32_t steps, pieces;  // as in StemTensor
        Form form;
        int64_t rows;    // byte offset in the tables: StemRow<K> of the strip
        int64_t gather;  // and float [out_height][K]
        int64_t z;       // of the first output
        StemGroup group[kStemFragments];
    };

    const StemParams& p;
    Place& place;  // at the begin of dynamic shared memory
    Features features;
    // Behind what the features keep.
    S* rows;               // [2 kBuffer][16 warps][kPitch]
    Quad<float>* moments;  // [kMoments][threads], and behind them float [threads]: counted()
    S* bands;              // [fragments][32 lanes][8]: of a group [parts][steps]
    float* partial;        // [strip_outputs][n], only if pieces > 1

    int piece;
    int emitted, done;  // output rows of the strip that are complete, and those that R_w was applied to
    int next_work;      // index of the StemRow of the step's first row, within the strip
    int left;           // complete output rows that wait for a place in `rows`; -1: the next image row is to be added
    float state[K][kValues];

    LR_HOST_DEVICE static constexpr int shared_bytes(const StemPlanShape& plan) {
        return static_cast<int>(sizeof(Place)) + Features::shared_bytes(plan.warps) +
               static_cast<int>(sizeof(S)) *
                   (2 * kBuffer * kStemWarpColumns * plan.warps * kPitch + plan.fragments * kBand) +
               4 * ((4 * kMoments + 1) * 32 * plan.warps + (plan.pieces > 1 ? plan.strip_outputs * n : 0));
    }

    LR_DEVICE explicit Stem(const StemParams& params)
        : p(params),
          place(*reinterpret_cast<Place*>(dynamic_shared())),
          features(dynamic_shared() + sizeof(Place), place.image, params.format, params.weights) {
        rows = reinterpret_cast<S*>(dynamic_shared() + sizeof(Place) + Features::shared_bytes(warp_count()));
        moments = reinterpret_cast<Quad<float>*>(rows + 2 * kBuffer * kStemWarpColumns * warp_count() * kPitch);
        bands = reinterpret_cast<S*>(moments + kMoments * thread_count()) + 4 / sizeof(S) * thread_count();
        partial = reinterpret_cast<float*>(bands + p.plan.fragments * kBand);
        for (int i = 0; i < kMoments; ++i) moments[i * thread_count() + thread_index()] = {};
        counted() = 0.0f;
    }

    LR_DEVICE void run_item(int64_t item) {
        piece = 0;
        do {
            barrier();  // the ring, the bands and the rows of the piece before are free
            if (thread_index() == 0) locate(item);
            barrier();
            clear_bands();
            barrier();
            load_bands();
            run_strip();
        } while (++piece < place.pieces);
    }
    LR_DEVICE void locate(int64_t item) const {
        const auto* tensors = stem_table<StemTensor>(p.tables, p.plan.tensor_table);
        const int index = last_at_most(p.plan.tensors, item, [&](int i) { return tensors[i].item; });
        const StemTensor& t = tensors[index];
        const int outputs = static_cast<int>(p.plan.out_width);
        const int64_t strip = (item - t.item) / t.tiles, image = strip / t.strips;
        const int s = static_cast<int>(strip - image * t.strips);
        const int first = static_cast<int>(item - t.item - strip * t.tiles) * t.tile_outputs;
        place.image = p.images == nullptr ? p.image : p.images[index];
        place.image.data = static_cast<const char*>(place.image.data) + image * place.image.stride[0];
        place.strip = strip_of(t, stem_bands(p.tables, t.rows), static_cast<int>(p.plan.out_height), s);
        place.columns = t.columns;
        place.steps = t.steps, place.pieces = t.pieces, place.form = t.form;
        place.rows = t.row_table + row_place(t, place.strip.begin, s) * static_cast<int64_t>(sizeof(StemRow<K>));
        place.gather = t.gather_table;
        place.z = (((t.image + image) * p.plan.out_height + place.strip.out_begin) * p.plan.out_width + first) * n;
        const Bands columns = stem_bands(p.tables, t.columns);
        // A tile's own columns partition the image, as a strip's rows.
        const int last = first + t.tile_outputs < outputs ? first + t.tile_outputs : outputs;
        const int all = first == 0 ? 0 : columns.begin[first], begin = all + piece * window();
        const int own_end = last == outputs ? t.columns.in : columns.begin[last];
        const auto within = [&](int x) { return x < begin ? begin : x < begin + window() ? x : begin + window(); };
        const int end = columns.end[last - 1];
        place.tile = {first, last, begin, within(end > own_end ? end : own_end), within(own_end)};
    }
    LR_DEVICE static int window() { return kStemWarpColumns * warp_count(); }

    LR_DEVICE void clear_bands() const {
        const Bands columns = stem_bands(p.tables, place.columns);
        const int groups = (place.tile.out_end - place.tile.out_begin + 15) / 16;
        if (const int i = thread_index(); i < groups) {
            const int first = columns.begin[place.tile.out_begin + 16 * i] - place.tile.begin;
            const int last = window() - 16 * place.steps;
            place.group[i] = {first < 0      ? 0
                              : first < last ? first
                                             : last,
                              static_cast<int16_t>(i * kStemParts<M> * place.steps), 1};
        }
        LR_NO_UNROLL
        for (int i = thread_index(); i < p.plan.fragments * kBand / 4; i += thread_count())
            reinterpret_cast<Four<S>*>(bands)[i] = {};
    }
    // R_w in the order of the lanes, from the taps of each output.
    LR_DEVICE void load_bands() const {
        const Bands columns = stem_bands(p.tables, place.columns);
        const int taps = place.columns.taps, count = (place.tile.out_end - place.tile.out_begin) * taps;
        LR_NO_UNROLL
        for (int i = thread_index(); i < count; i += thread_count()) {
            const int o = i / taps, at = place.tile.out_begin + o, tap = i - o * taps;
            const int from = columns.begin[at], within = from + tap - place.tile.begin;
            if (from + tap >= columns.end[at] || within < 0 || within >= window()) continue;
            const float weight = static_cast<float>(load_element(columns.weight + int64_t{at} * taps + tap));
            StemGroup& group = place.group[o / 16];
            const int column = within - group.column;
            // The one that rounding added.
            if (column >= 16 * place.steps) continue;
            // Chained terms: the lane's i-th of pixel g and of pixel g + 8.
            const int term = column % 16, lane = o % 8 * 4 + term % 8 / 2, low = term % 2, high = term / 8,
                      h = o / 8 % 2;
            const int element = kIs16Bit<M> ? 4 * high + 2 * h + low : 4 * h + 2 * high + low;
            S* to = bands + (group.fragment + column / 16) * kBand + lane * 8 + element;
            to[0] = F::encode(weight);
            if (kStemParts<M> == 1 || weight == F::decode(to[0])) continue;
            to[place.steps * kBand] = F::encode(weight - F::decode(to[0]));
            group.parts = 2;  // the same from every thread
        }
    }
    LR_DEVICE static typename F::A load_band(const S* at) {
        if constexpr (kIs16Bit<M>) {
            const auto words = *reinterpret_cast<const Quad<uint32_t>*>(at);
            return {{words.v[0], words.v[1], words.v[2], words.v[3]}};
        } else {
            return F::load_a(at, at + 4);
        }
    }

    LR_DEVICE void run_strip() {
        emitted = done = 0, left = -1, next_work = 0;
        LR_UNROLL
        for (int k = 0; k < K; ++k) clear(state[k]);
        features.column = place.tile.begin;
        features.begin(place.strip.begin);
        barrier();
        // Warps beyond the tile only keep the zeros that its last products read.
        const bool has_columns = place.tile.begin + kStemWarpColumns * warp_index() < place.tile.end;
        LR_NO_UNROLL
        for (int row = place.strip.begin; row < place.strip.end; row += kRows, next_work += kRows) {
            typename Features::Raw raw;
            // With 32 filters and six rows of them no registers are left to hold the pixels meanwhile.
            constexpr bool kEarly = n == 16 || K == 2;
            if constexpr (kEarly) features.request(raw, Features::next(row));
            {
                float a[kRows][kTiles][4], c[kRows][kTiles][4];
                if (has_columns) {
                    features.compute(row, a, c);
                    if (p.partials != nullptr) count(row, c);
                } else {
                    Features::each(c, [](float) { return 0.0f; });
                }
                int from = filter_rows(row, c);
                LR_NO_UNROLL
                for (; from < kRows; from = filter_more(from, row, c)) filter_columns();
            }
            if constexpr (!kEarly) features.request(raw, Features::next(row));
            features.store(raw, Features::next(row));
            filter_columns();  // its barrier: the new image rows are there
        }
        if (p.partials != nullptr)
            counted() += static_cast<float>(valid_columns() * (place.strip.own_end - place.strip.begin));
    }

    LR_DEVICE static void clear(float (&v)[kValues]) {
        LR_UNROLL
        for (int i = 0; i < kValues; ++i) v[i] = 0.0f;
    }

    // Statistics of c about a center near the mean, in float32: the variance loses digits only as far as the mean is
    // from the center. The first pixel is the first center; each kRecenter rows the mean of all that were counted is
    // the next.
    LR_DEVICE void count(int row, const float (&c)[kRows][kTiles][4]) {
        const int columns = valid_columns(), rows_left = place.strip.own_end - row;
        LR_UNROLL
        for (int m = 0; m < n / 16; ++m) {
            Quad<float>* kept = moments + 3 * m * thread_count() + thread_index();
            Quad<float> center = kept[0], sum = kept[thread_count()], squares = kept[2 * thread_count()];
            const auto value = [&](int q, int h, int v) { return c[q][2 * m + v / 2][2 * h + v % 2]; };
            const bool recenter = (row - place.strip.begin) % kRecenter == 0;
            if (recenter && counted() == 0.0f && row == place.strip.begin) {
                LR_UNROLL
                for (int v = 0; v < 4; ++v) center.v[v] = value(0, 0, v);
            }
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                if (q >= rows_left) break;
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    if (h >= columns) continue;
                    LR_UNROLL
                    for (int v = 0; v < 4; ++v) {
                        const float d = value(q, h, v) - center.v[v];
                        sum.v[v] += d;
                        squares.v[v] = fused_multiply_add(d, d, squares.v[v]);
                    }
                }
            }
            if (recenter) {
                const int rows = row - place.strip.begin + (rows_left < kRows ? rows_left : kRows);
                move_center(counted() + static_cast<float>(columns * rows), center, sum, squares);
                kept[0] = center;
            }
            kept[thread_count()] = sum, kept[2 * thread_count()] = squares;
        }
    }
    // Of the lane's two, those that this item counts.
    LR_DEVICE int valid_columns() const {
        const int left = place.tile.own_end - place.tile.begin - kStemWarpColumns * warp_index() - lane_index() / 4;
        return left > 8 ? 2 : left > 0 ? 1 : 0;
    }
    // Pixels of the lane, of the items before this one.
    LR_DEVICE float& counted() const {
        return reinterpret_cast<float*>(moments + kMoments * thread_count())[thread_index()];
    }
    // To the mean of `pixels`: then sum is 0, and squares is M2.
    LR_DEVICE static void move_center(float pixels, Quad<float>& center, Quad<float>& sum, Quad<float>& squares) {
        const float inverse = pixels > 0.0f ? 1.0f / pixels : 0.0f;
        LR_UNROLL
        for (int v = 0; v < 4; ++v) {
            const float by = sum.v[v] * inverse;
            center.v[v] += by;
            squares.v[v] = fused_multiply_add(-by, sum.v[v], squares.v[v]);
            sum.v[v] = 0.0f;
        }
    }
    LR_DEVICE void finish() {
        LaneMoments<n / 4> lane;
        lane.count = counted();
        LR_UNROLL
        for (int m = 0; m < n / 16; ++m) {
            Quad<float>* kept = moments + 3 * m * thread_count() + thread_index();
            Quad<float> center = kept[0], sum = kept[thread_count()], squares = kept[2 * thread_count()];
            move_center(lane.count, center, sum, squares);
            LR_UNROLL
            for (int v = 0; v < 4; ++v) lane.mean[4 * m + v] = center.v[v], lane.m2[4 * m + v] = squares.v[v];
        }
        barrier();  // the rows are free
        store_moments(lane, reinterpret_cast<float*>(rows), p.partials + block_index() * 3 * p.weights.filters,
                      p.weights.filters);
    }

    // An offset, not a pointer: the compiler then knows that it is in global memory.
    LR_DEVICE const StemRow<K>* strip_rows() const { return stem_table<StemRow<K>>(p.tables, place.rows); }

    // R_h: adds the rows of c and puts the output rows that they complete into `rows`, which is empty. The row at which
    // that became full, or kRows.
    LR_DEVICE int filter_rows(int row, const float (&c)[kRows][kTiles][4]) {
        StemRow<K> work[kRows];
        int each = 0, all = 0;
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            work[q] = strip_rows()[next_work + q];
            each |= work[q].emits, all += work[q].emits;
        }
        if (place.form == Form::kGather || each > 1 || all > kBuffer) return filter_more(0, row, c);
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            fold(work[q], c[q]);
            if (work[q].emits == 1) put_slot(work[q].first);
        }
        return kRows;
    }
    // When enlarging, and at the image's end: row after row, from the one at which `rows` was full.
    LR_DEVICE int filter_more(int from, int row, const float (&c)[kRows][kTiles][4]) {
        LR_UNROLL
        for (int q = 0; q < kRows; ++q) {
            if (q < from) continue;
            const StemRow<K> work = strip_rows()[next_work + q];
            if (left < 0) {
                left = work.emits;
                if (place.form == Form::kFold) {
                    fold(work, c[q]);
                } else {
                    const int slot = 1 << (row + q) % K;
                    LR_UNROLL
                    for (int k = 0; k < K; ++k) {
                        if ((slot >> k & 1) == 0) continue;
                        LR_UNROLL
                        for (int v = 0; v < kValues; ++v) state[k][v] = c[q][v / 4][v % 4];
                    }
                }
            }
            LR_NO_UNROLL
            for (; left > 0; --left) {
                if (emitted - done == kBuffer) return q;
                const int output = work.first + work.emits - left;
                if (place.form == Form::kFold)
                    put_slot(output);
                else
                    put_sum(output);
            }
            left = -1;
        }
        return kRows;
    }
    LR_DEVICE void fold(const StemRow<K>& work, const float (&c)[kTiles][4]) {
        LR_UNROLL
        for (int k = 0; k < K; ++k) add(state[k], work.weight[k], [&](int v) { return c[v / 4][v % 4]; });
    }
    LR_DEVICE void put_slot(int output) {
        const int slot = 1 << output % K;
        LR_UNROLL
        for (int k = 0; k < K; ++k) {
            if ((slot >> k & 1) == 0) continue;
            put(state[k]);
            clear(state[k]);
        }
    }
    LR_DEVICE void put_sum(int output) {
        const float* weight = stem_table<float>(p.tables, place.gather) + int64_t{output} * K;
        float sum[kValues] = {};
        LR_UNROLL
        for (int k = 0; k < K; ++k) add(sum, load_element(weight + k), [&](int v) { return state[k][v]; });
        put(sum);
    }
    template <class Value>
    LR_DEVICE static void add(float (&sum)[kValues], float weight, const Value& value) {
        LR_UNROLL
        for (int v = 0; v < kValues; ++v) sum[v] = fused_multiply_add(weight, value(v), sum[v]);
    }

    // Of each 16 channels, channel 4 t + 2 j + i is kept at 8 j + 2 t + i, as column 2 t + i of the product's tile j,
    // so that a lane of the result has four neighbours.
    LR_DEVICE void put(const float (&row)[kValues]) {
        const int g = lane_index() / 4, t = lane_index() % 4;
        S* to = row_of(emitted) + (kStemWarpColumns * warp_index() + g) * kPitch + 8 * (t % 2) + t / 2 * 2;
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                S* at = to + 8 * h * kPitch + j / 2 * 16 + j % 2 * 4;
                const float x = row[4 * j + 2 * h], y = row[4 * j + 2 * h + 1];
                if constexpr (kIs16Bit<M>)
                    *reinterpret_cast<uint32_t*>(at) = F::pack(x, y);
                else
                    *reinterpret_cast<Pair<float>*>(at) = Pair<float>{F::encode(x), F::encode(y)};
            }
        }
        ++emitted;
    }

    LR_DEVICE S* row_of(int r) const {
        return rows + (r & (2 * kBuffer - 1)) * kStemWarpColumns * warp_count() * kPitch;
    }

    // R_w of the rows that wait; a warp takes 16 outputs of a row at a time. Rows that are written next are not those.
    LR_DEVICE void filter_columns() {
        barrier();  // the rows are complete
        const int thread = opaque(thread_index()), lane = thread % 32, g = lane / 4, t = lane % 4;
        const int outputs = place.tile.out_end - place.tile.out_begin, groups = (outputs + 15) / 16;
        int r = done;
        LR_NO_UNROLL
        for (int group = thread / 32;; group += warp_count()) {
            for (; group >= groups; group -= groups) ++r;
            if (r >= emitted) break;
            float sum[kTiles][4] = {};
            const StemGroup reads = place.group[group];
            LR_NO_UNROLL
            for (int part = 0; part < reads.parts; ++part) {
                const S* pixel = row_of(r) + reads.column * kPitch;
                const S* band = bands + (reads.fragment + part * place.steps) * kBand + lane * 8;
                LR_NO_UNROLL
                for (int s = 0; s < place.steps; ++s, pixel += 16 * kPitch, band += kBand) {
                    const auto a = load_band(band);
                    LR_UNROLL
                    for (int j = 0; j < kTiles; j += 2) {
                        typename F::B b[2];
                        PixelTerms<M>::load_b(b, pixel + 8 * j, kPitch);
                        F::multiply(sum[j], a, b[0]);
                        F::multiply(sum[j + 1], a, b[1]);
                    }
                }
            }
            const int o = 16 * group + g;
            S* z = static_cast<S*>(p.z) + place.z + (int64_t{r} * p.plan.out_width + o) * n + 4 * t;
            LR_UNROLL
            for (int h = 0; h < 2; ++h) {
                if (o + 8 * h >= outputs) continue;
                LR_UNROLL
                for (int j = 0; j < kTiles; j += 2) {
                    float four[4] = {sum[j][2 * h], sum[j][2 * h + 1], sum[j + 1][2 * h], sum[j + 1][2 * h + 1]};
                    if (place.pieces == 1 || add_piece(four, partial + r * n + 8 * j + 4 * t))
                        store(z + 8 * h * n + 8 * j, four);
                }
            }
        }
        done = emitted;
    }
    // Of the only output of a tile that is cut into pieces. Whether the sum is complete.
    LR_DEVICE bool add_piece(float (&sum)[4], float* kept) const {
        LR_UNROLL
        for (int v = 0; v < 4; ++v) {
            if (piece > 0) sum[v] += kept[v];
            kept[v] = sum[v];
        }
        return piece + 1 == place.pieces;
    }
    LR_DEVICE static void store(S* z, const float (&sum)[4]) {
        if constexpr (kIs16Bit<M>)
            *reinterpret_cast<Pair<uint32_t>*>(z) = {F::pack(sum[0], sum[1]), F::pack(sum[2], sum[3])};
        else
            *reinterpret_cast<Quad<float>*>(z) = {{sum[0], sum[1], sum[2], sum[3]}};
    }
};

// Warps that fit into a multiprocessor's registers, 65536 of them, without a spill.
template <Arithmetic M, int n, int K>
constexpr int kStemResident = kIs16Bit<M> && n == 16 ? (K == 2 ? 16 : 12)
                              : K == 2               ? 12
                                                     : 8;

// Of a block, for whatever images: over random widths of 150 to 900 pixels to 224 these leave the fewest columns
// unused, by the share of the issue slots that the resident warps fill (12 are estimated to fill 60 %).
template <Arithmetic M, int n, int K>
constexpr int kStemBlockWarps = kStemResident<M, n, K> == 16             ? 8
                                : kStemResident<M, n, K> == 12 && K != 2 ? 6
                                                                         : 4;
template <Arithmetic M>
constexpr int kStemMostFragments = kIs16Bit<M> ? kStemFragments : 16;

template <Arithmetic M, int n, int K>
LR_KERNEL(32 * (kStemResident<M, n, K>))
stem_kernel(const StemParams p) {
    Stem<M, n, K> stem(p);
    for (int64_t item = block_index(); item < p.plan.items; item += block_count()) stem.run_item(item);
    if (p.partials != nullptr) stem.finish();
}

// Calls launch(kernel, shared_bytes) with the instance; false if it does not exist.
template <class Launch>
bool with_stem_kernel(const StemPlanShape& plan, Arithmetic arithmetic, int filters, const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        if (plan.slots == 2)
            launch(stem_kernel<M, n, 2>, Stem<M, n, 2>::shared_bytes(plan));
        else
            launch(stem_kernel<M, n, kStemSlots>, Stem<M, n, kStemSlots>::shared_bytes(plan));
    });
}

}  // namespace learned_resizer
