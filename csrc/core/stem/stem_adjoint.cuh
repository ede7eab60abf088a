// The common part of the stem's two backward kernels: the features again, R^T dz, and from them dc' and da'
// (formulas in stem_backward.cuh).
#pragma once

#include "common/feature_map.cuh"
#include "common/statistics.cuh"
#include "stem/stem_axis.cuh"
#include "stem/stem_backward.h"
#include "stem/stem_features.cuh"

namespace learned_resizer {

// A block's item, at the begin of dynamic shared memory.
struct alignas(16) StemItem {
    StemImage image;
    StemTransposed rows, columns;
    const void* dz;      // the image's: [out_height][out_width][n]
    StemImageGrad dx;    // the image's
    int32_t begin, end;  // rows
    int32_t column;      // the block's first
};

// The lane, for one phase of a step: its addresses do not take registers in the others.
LR_DEVICE int phase_lane() { return opaque(thread_index()) & 31; }

// R^T dz at R rows of the warp's 16 columns. The columns' weights are a matrix A that does not change down the image;
// the rows' weights sum over what it makes of the rows of dz:
//
//   e_o[16 columns][n] = A[16 columns][16 outputs] dz[o][16 outputs][n],   dc[y] = sum_o weight[y][o] e_o
//
// In 16 bits and tf32 A is a sum, so that a rounded weight is no error that all pixels share; what rounding took is
// zero for weights such as 3/8, and then left out. dz is rounded to the arithmetic. 16 columns read up to 16 outputs
// unless the stem hardly shrinks, or enlarges: then A and dz have several steps of 16 outputs, and the weights are
// loaded again for each. An infinite dz is NaN at all of the warp's columns.
template <Arithmetic M, int n, int R>
struct StemPull {
    using F = Fragments<M>;
    using S = typename F::S;
    // 32-bit elements: the lanes' eight channels of pixels 2t are in different banks.
    using Map = FeatureMap<M, n, kIs16Bit<M> ? n + 8 : n + 4>;
    static constexpr int kTiles = n / 8;
    static constexpr bool kRounded = M != Arithmetic::kFloat32;
    static constexpr int kRing = 4;  // rows of dz; at half size three image rows read three
    static constexpr int kPiece = 16 * Map::kStride;
    static constexpr int kChunk = 16 / static_cast<int>(sizeof(S));  // elements of a copy
    static constexpr int kChunks = n / kChunk;                       // copies of a pixel

    const StemBackwardParams& p;
    const StemItem& item;
    S* ring;               // [kRing][16 outputs][Map::kStride], of this warp: row o is in o % kRing
    typename F::A* lower;  // [32 lanes], of this warp
    int column;            // of the image, of the warp's first
    int first, steps;      // its first output, and how many times 16 they are
    int end;               // of the rows of dz that were requested
    // Of the step that was loaded last: A rounded. The rest is in `lower`; `exact`: it is zero.
    typename F::A a;
    bool exact;

    LR_HOST_DEVICE static constexpr int shared_bytes(int warps) {
        return warps * static_cast<int>(kRing * kPiece * sizeof(S) + (kRounded ? 32 * sizeof(typename F::A) : 0));
    }
    LR_DEVICE StemPull(const StemBackwardParams& params, const StemItem& shared_item, unsigned char* shared)
        : p(params), item(shared_item) {
        ring = reinterpret_cast<S*>(shared) + warp_index() * kRing * kPiece;
        lower = reinterpret_cast<typename F::A*>(shared + warp_count() * kRing * kPiece * static_cast<int>(sizeof(S))) +
                warp_index() * 32;
    }

    LR_DEVICE void locate() {
        column = item.column + kStemWarpColumns * warp_index();
        const int left = column < 0 ? 0 : column, last = item.image.width - 1;
        const int right = column + kStemWarpColumns - 1 < last ? column + kStemWarpColumns - 1 : last;
        end = first = steps = 0;
        if (left > right) return;
        first = start_of(item.columns, left);
        steps = (end_of(item.columns, right) - first + 15) / 16;
        float rest = load_columns(0);
        LR_UNROLL
        for (int mask = 1; mask < 32; mask *= 2) rest = maximum(rest, shuffle_xor(rest, mask));
        exact = steps == 1 && rest == 0.0f;
    }

    // Of the outputs that read pixel i.
    LR_DEVICE int start_of(const StemTransposed& axis, int i) const {
        return load_element(stem_table<int32_t>(p.tables, axis.start) + i);
    }
    LR_DEVICE int count_of(const StemTransposed& axis, int i) const {
        return load_element(stem_table<int32_t>(p.tables, axis.count) + i);
    }
    LR_DEVICE int end_of(const StemTransposed& axis, int i) const { return start_of(axis, i) + count_of(axis, i); }
    LR_DEVICE float weight_at(const StemTransposed& axis, int at) const {
        return load_element(stem_table<float>(p.tables, axis.weight) + at);
    }

    // A of step s: of pixels g and g + 8, the outputs that are the lane's chained terms. Returns the most that rounding
    // took of one of them.
    LR_DEVICE float load_columns(int s) {
        const int lane = phase_lane();
        float w[2][4];
        LR_UNROLL
        for (int h = 0; h < 2; ++h) {
            const int x = column + lane / 4 + 8 * h;
            int from = 0, at = 0, taps = 0;
            if (x >= 0 && x < item.image.width) {
                from = start_of(item.columns, x), at = x * item.columns.capacity;
                taps = count_of(item.columns, x);
            }
            LR_UNROLL
            for (int i = 0; i < 4; ++i) {
                const int tap = first + 16 * s + chained_term(lane % 4, i) - from;
                w[h][i] = tap >= 0 && tap < taps ? weight_at(item.columns, at + tap) : 0.0f;
            }
        }
        a = operand(w);
        float most = 0.0f;
        if constexpr (kRounded) {
            LR_UNROLL
            for (int i = 0; i < 8; ++i) {
                float& rest = w[i / 4][i % 4];
                rest -= F::rounded(rest);
                most = maximum(most, maximum(rest, -rest));
            }
            lower[lane] = operand(w);
        }
        return most;
    }
    LR_DEVICE static typename F::A operand(const float (&w)[2][4]) {
        return F::chain({w[0][0], w[0][1], w[1][0], w[1][1]}, {w[0][2], w[0][3], w[1][2], w[1][3]});
    }

    // Rows of dz that the image rows y0 ... y1 read.
    struct Range {
        int from, to;
    };
    LR_DEVICE Range rows_of(int y0, int y1) const { return {start_of(item.rows, y0), end_of(item.rows, y1)}; }

    // Requests what the ring has room for of the rows that image rows y0 ... y1 will read. No lane reads the ring.
    LR_DEVICE void request_ahead(int y0, int y1) {
        if (steps != 1) return;
        const Range next = rows_of(y0, y1);
        seek(next.from);
        request(0, next.from, next.to);
    }
    // Keeps the rows in the ring if they reach row `from`; it never decreases.
    LR_DEVICE void seek(int from) {
        if (steps != 1 || from < end - kRing || from > end) end = from;
    }
    LR_DEVICE void request(int s, int from, int to) {
        const int lane = phase_lane();
        LR_NO_UNROLL
        for (; end < to && end < from + kRing; ++end) {
            LR_UNROLL
            for (int l = 0; l < kChunks / 2; ++l) {
                const int output = (lane + 32 * l) / kChunks, c = (lane + 32 * l) % kChunks * kChunk;
                const int64_t x = first + 16 * s + output;
                const S* source = static_cast<const S*>(item.dz) + (int64_t{end} * p.plan.out_width + x) * n + c;
                copy_async(ring + end % kRing * kPiece + Map::place(output, c), source, x < p.plan.out_width);
            }
        }
        commit_copies();
    }
    LR_DEVICE void fetch(int s, int from, int to) {
        warp_barrier();  // no lane reads the ring
        request(s, from, to);
        wait_copies<0>();
        warp_barrier();
    }

    // e += `of` dz[o].
    LR_DEVICE void multiply(float (&e)[kTiles][4], const typename F::A& of, int o, int lane) const {
        LR_UNROLL
        for (int j = 0; j < kTiles; j += 2) {
            typename F::B b[2];
            Map::load_pixels_b(b, ring + o % kRing * kPiece, 0, 8 * j, lane);
            if constexpr (!kIs16Bit<M>) {
                LR_UNROLL
                for (int i = 0; i < 8; ++i) b[i / 4].v[i % 4] = F::encode(b[i / 4].v[i % 4]);
            }
            F::multiply(e[j], of, b[0]);
            F::multiply(e[j + 1], of, b[1]);
        }
    }

    // Adds R^T dz of the image rows row ... row + R - 1 that are inside 0 ... limit - 1.
    LR_DEVICE void add(float (&dc)[R][kTiles][4], int row, int limit) {
        // Rows outside read nothing. Of row `row` + q: the weight of output o is at + o.
        int from[R], at[R], taps[R];
        Range read{0, 0};
        LR_UNROLL
        for (int q = 0; q < R; ++q) {
            const int y = row + q < 0 ? 0 : row + q < limit ? row + q : limit - 1;
            from[q] = start_of(item.rows, y);
            taps[q] = y == row + q ? count_of(item.rows, y) : 0;
            at[q] = y * item.rows.capacity - from[q];
            if (q == 0) read.from = from[0];
            if (read.to < from[q] + taps[q]) read.to = from[q] + taps[q];
        }
        const int lane = phase_lane();
        wait_copies<0>();
        warp_barrier();  // what was requested ahead is there
        LR_NO_UNROLL
        for (int s = 0; s < steps; ++s) {
            if (steps > 1) load_columns(s);
            seek(read.from);
            LR_NO_UNROLL
            for (int o = read.from; o < read.to; ++o) {
                if (o == end) fetch(s, o, read.to);
                float e[kTiles][4] = {};
                if (kRounded && !exact) multiply(e, lower[lane], o, lane);
                multiply(e, a, o, lane);
                LR_UNROLL
                for (int q = 0; q < R; ++q) {
                    if (static_cast<uint32_t>(o - from[q]) >= static_cast<uint32_t>(taps[q])) continue;
                    const float weight = weight_at(item.rows, at[q] + o);
                    LR_UNROLL
                    for (int v = 0; v < 4 * kTiles; ++v)
                        dc[q][v / 4][v % 4] = fused_multiply_add(weight, e[v / 4][v % 4], dc[q][v / 4][v % 4]);
                }
            }
        }
    }
};

// dc' and da' of R rows of the warp's 16 columns.
template <Arithmetic M, int n, int R>
struct StemAdjoint {
    using Features = StemFeatures<M, n, R>;
    using F = typename Features::F;
    using S = typename Features::S;
    static constexpr int kTiles = Features::kTiles, kSteps = Features::kSteps;
    static constexpr int kW1 = Features::kW1;

    const StemBackwardParams& p;
    StemItem& item;
    Features features;
    float* statistics;  // [2][n]: the constant of c's gradient, and its factor of c
    S* w1;              // [kSteps][32 lanes][kTiles][4]: W1 transposed, chained terms
    StemPull<M, n, R> pull;

    LR_HOST_DEVICE static constexpr int statistics_offset(int warps) {
        return static_cast<int>(sizeof(StemItem)) + Features::shared_bytes(warps);
    }
    LR_HOST_DEVICE static constexpr int pull_offset(int warps) {
        return statistics_offset(warps) + 2 * n * 4 + kW1 * static_cast<int>(sizeof(S));
    }
    LR_HOST_DEVICE static constexpr int shared_bytes(int warps) {
        return pull_offset(warps) + StemPull<M, n, R>::shared_bytes(warps);
    }

    LR_DEVICE explicit StemAdjoint(const StemBackwardParams& params)
        : p(params),
          item(*reinterpret_cast<StemItem*>(dynamic_shared())),
          features(dynamic_shared() + sizeof(StemItem), item.image, params.format, params.weights),
          pull(params, item, dynamic_shared() + pull_offset(warp_count())) {
        statistics = reinterpret_cast<float*>(dynamic_shared() + statistics_offset(warp_count()));
        w1 = reinterpret_cast<S*>(statistics + 2 * n);
        for (int c = thread_index(); c < n; c += thread_count()) {
            StatisticsGradient of(0.0f, 0.0f, 0.0f, 1);
            if (p.mean != nullptr && c < p.weights.filters)
                of = StatisticsGradient(p.mean[c], p.grad_mean[c], p.grad_var[c], p.count);
            statistics[c] = of.constant;
            statistics[n + c] = of.factor;
        }
        load_weights<kW1, 2>(w1, p.weights.w1, thread_count(), F::encode, [&](uint32_t i) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles);
            const int from = 16 * step + chained_term(lane % 4, i % 4), to = 8 * tile + lane / 4;
            const bool exists = from < p.weights.filters && to < p.weights.filters;
            return exists ? weight_place(p.weights.w1, from, to, 0, 0) : -1;
        });
    }

    // A row of a map as the products see it, and as one of their operands: in 16 bits half the registers.
    struct Row {
        typename F::A step[kSteps];
    };
    LR_DEVICE static Row pack(const float (&v)[kTiles][4]) {
        Row row;
        LR_UNROLL
        for (int s = 0; s < kSteps; ++s) row.step[s] = F::chain(v[2 * s], v[2 * s + 1]);
        return row;
    }

    // a and dc' of rows row ... row + R - 1; dc' is zero where the pixel is outside the block's columns or 0 ... limit
    // - 1.
    LR_DEVICE void features_and_dc(int row, int limit, Row (&seen)[R], float (&dc)[R][kTiles][4]) {
        float a[R][kTiles][4], c[R][kTiles][4];
        features.compute(row, a, c);
        LR_UNROLL
        for (int q = 0; q < R; ++q) seen[q] = pack(a[q]);
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            const float* at = statistics + 8 * j + lane_index() % 4 * 2;
            const Pair<float> common = *reinterpret_cast<const Pair<float>*>(at);
            const Pair<float> each = *reinterpret_cast<const Pair<float>*>(at + n);
            LR_UNROLL
            for (int q = 0; q < R; ++q) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i)
                    dc[q][j][i] = i % 2 == 0 ? fused_multiply_add(each.x, c[q][j][i], common.x)
                                             : fused_multiply_add(each.y, c[q][j][i], common.y);
            }
        }
        Row sign[R];
        LR_UNROLL
        for (int q = 0; q < R; ++q) sign[q] = pack(c[q]);
        pull.add(dc, row, limit);
        LR_UNROLL
        for (int q = 0; q < R; ++q) {
            LR_UNROLL
            for (int j = 0; j < kTiles; ++j) F::leaky_adjoint(dc[q][j], sign[q].step[j / 2], j % 2, features.slope);
        }
        const bool left = column_exists(0), right = column_exists(1);
        if (!left || !right || row < 0 || row + R > limit) clear_outside(row, limit, left, right, dc);
    }
    LR_DEVICE static void clear_outside(int row, int limit, bool left, bool right, float (&dc)[R][kTiles][4]) {
        LR_UNROLL
        for (int v = 0; v < R * 4 * kTiles; ++v) {
            const int q = v / (4 * kTiles);
            if (row + q < 0 || row + q >= limit || !(v % 4 < 2 ? left : right)) dc[q][v / 4 % kTiles][v % 4] = 0.0f;
        }
    }

    // da' of a row, from its a and dc'.
    LR_DEVICE Row derive(const Row& a, const Row& dc) const {
        float da[kTiles][4] = {};
        LR_UNROLL
        for (int s = 0; s < kSteps; ++s) {
            LR_UNROLL
            for (int j = 0; j < kTiles; ++j)
                F::multiply(da[j], dc.step[s], F::load_b(w1 + ((s * 32 + lane_index()) * kTiles + j) * 4));
        }
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) F::leaky_adjoint(da[j], a.step[j / 2], j % 2, features.slope);
        return pack(da);
    }

    // A row of 16 pixels into a map in shared memory.
    template <class Map>
    LR_DEVICE static void put(S* map, const Row& row) {
        const int lane = phase_lane(), g = lane / 4, t = lane % 4;
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int h = 0; h < 2; ++h) F::store(map + Map::place(g + 8 * h, 8 * j + 2 * t), row.step[j / 2], j % 2, h);
        }
    }

    // Fills `item`, once no thread reads the one before; the barrier at its end is that for all that the block shares.
    LR_DEVICE void locate(int64_t index, StemGradient gradient) {
        barrier();
        if (thread_index() == 0) {
            const auto* tensors = stem_table<StemBackwardTensor>(p.tables, p.plan.tensor_table);
            const int g = static_cast<int>(gradient);
            const int i = last_at_most(p.plan.tensors, index, [&](int j) { return tensors[j].share[g].item; });
            const StemBackwardTensor& t = tensors[i];
            const StemShare& share = t.share[g];
            const int64_t strip = (index - share.item) / share.tiles, image = strip / share.strips;
            const int tile = static_cast<int>(index - share.item - strip * share.tiles);
            item.image = p.images == nullptr ? p.image : p.images[i];
            item.image.data = static_cast<const char*>(item.image.data) + image * item.image.stride[0];
            item.rows = t.transposed_rows, item.columns = t.transposed_columns;
            item.dz = static_cast<const S*>(p.dz) + (t.image + image) * p.plan.out_height * p.plan.out_width * n;
            if (gradient == StemGradient::kImage) {
                item.dx = p.grads == nullptr ? p.grad : p.grads[i];
                item.dx.data = static_cast<char*>(item.dx.data) +
                               image * item.dx.stride[0] * (p.format.dtype == DType::kFloat32 ? 4 : 2);
            }
            item.column = static_cast<int>(tile * stem_backward_columns(warp_count(), gradient)) -
                          (gradient == StemGradient::kImage ? 3 : 0);
            item.begin = static_cast<int>(strip - image * share.strips) * share.strip_rows;
            const int end = item.begin + share.strip_rows;
            item.end = end < item.image.height ? end : item.image.height;
        }
        barrier();
        features.column = item.column;
        pull.locate();
    }
    LR_DEVICE bool column_exists(int h) const {
        const int x = pull.column + phase_lane() / 4 + 8 * h;
        return x >= 0 && x < item.image.width;
    }
};

}  // namespace learned_resizer
