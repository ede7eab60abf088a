// Two convolutions of the trunk on one tile, the map between them in shared memory only. Inference: the statistics of
// every batch normalisation are known before the kernel starts, so nothing has to wait for the whole map.
//
//   block   output = W2 * lrelu(norm1(W1 * v))                      3x3 and 3x3, zero padding of v and of the lrelu
//   tail    result = W * (norm1(W1 * v) + skip_norm(u)) + bias + base    3x3 and 7x7
//   with    v = norm(t) [+ skip_norm(u)]
//
// There is no adjoint: training needs the batch's statistics between any two convolutions (conv.cuh, head.cuh).
//
// A block of 8 warps loads v for kTrunkGrid + 2 pixels square once, computes the first convolution on kTrunkGrid
// square and the second on what that leaves. Products have pixels as rows: a warp takes 16 pixels of a row and four
// rows below one another, so that a fragment of an image row serves three (seven) of the four sums, and a fragment of
// the weights serves all four.
#pragma once

#include "common/dispatch.h"
#include "common/feature_map.cuh"
#include "common/pair_columns.cuh"
#include "common/parameter.cuh"
#include "trunk/trunk.h"

namespace learned_resizer {

template <Arithmetic M, TrunkKernel K>
struct Trunk {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr int n = kTrunkFilters;
    using Map = FeatureMap<M, n>;
    static_assert(Map::kStride == n);
    static constexpr int kGrid = kTrunkGrid;
    static constexpr int kSource = kGrid + 2;  // side of v's tile
    static constexpr int kRows = 4;            // rows of sums that a warp holds
    static constexpr int kTiles = n / 8;       // column tiles of a 3x3's result
    static constexpr int kPairs = kGrid / 2;
    static constexpr int kAffine = trunk_affine_offset(K);

    // Dynamic shared memory, in this order (trunk_shared_bytes adds up the same sizes).
    S* source;   // [kSource][kSource][n]: v
    S* middle;   // [kGrid][kGrid][n]; the tail keeps a row's even columns before its odd ones
    S* weight1;  // [9][32 lanes][kTiles][4]
    S* weight2;  // block: as weight1; tail: [7 rows][8 columns][32 lanes][4]
    // [3][2][n]: scale and shift of norm, skip_norm and norm1; skip_norm's are zero without a skip.
    float* affine;

    const TrunkParams& p;
    int64_t image;
    int top, left;  // image position of the tile's first output

    LR_DEVICE explicit Trunk(const TrunkParams& params) : p(params) {
        source = reinterpret_cast<S*>(dynamic_shared());
        middle = source + kSource * kSource * n;
        weight1 = middle + kGrid * kGrid * n;
        weight2 = weight1 + 9 * 32 * kTiles * 4;
        affine = reinterpret_cast<float*>(dynamic_shared() + kAffine);
        for (int i = thread_index(); i < 3 * n; i += thread_count()) {
            const int c = i % n, which = i / n;
            const Norm& norm = which == 0 ? p.norm : which == 1 ? p.skip_norm : p.norm1;
            const bool exists = c < p.filters && (which != 1 || p.skip != nullptr);
            affine[2 * which * n + c] = exists ? scale_of(norm, c) : 0.0f;
            affine[(2 * which + 1) * n + c] = exists ? shift_of(norm, c) : 0.0f;
        }
    }

    LR_DEVICE void locate(int64_t tile, int side) {
        const int64_t across = (p.width + side - 1) / side, down = (p.height + side - 1) / side;
        image = tile / (across * down);
        const int64_t within = tile - image * (across * down);
        top = static_cast<int>(within / across) * side;
        left = static_cast<int>(within % across) * side;
    }

    // Weights [filters][filters][3][3] in the order in which the lanes read them.
    LR_DEVICE void load_weights(S* to, const Weight& weight) const {
        LR_NO_UNROLL
        for (int i = thread_index(); i < 9 * 32 * kTiles * 4; i += thread_count()) {
            const int term = i % 4, tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, tap = i / (4 * kTiles * 32);
            const int filter = 8 * tile + lane / 4, channel = Map::term(lane % 4, term);
            const bool exists = filter < p.filters && channel < p.filters;
            to[i] = F::encode(exists ? load_weight(weight, filter, channel, tap / 3, tap % 3) : 0.0f);
        }
    }
    // Weights [channels][filters][7][7] of the head for two neighbouring pixels at once: column 2i + ... of the product
    // is pixel i of the pair, so that the 3 channels of the image fill 6 of 8 columns. A tap beyond a pixel's own seven
    // columns is zero.
    LR_DEVICE void load_head_weights() {
        LR_NO_UNROLL
        for (int i = thread_index(); i < 7 * 8 * 32 * 4; i += thread_count()) {
            const int term = i % 4, lane = i / 4 % 32, tap = i / 128;
            const int channel = Map::term(lane % 4, term);
            weight2[i] = F::encode(pair_weight(p.weight, p.channels, p.filters, lane / 4, channel, tap / 8, tap % 8));
        }
    }

    // v of the tile, whose first pixel is (top - around, left - around); zero outside the image.
    LR_DEVICE void load_source(int around) {
        // The stride of the loop is even: a thread always has the same half of a pixel's channels.
        const int half = thread_index() % 2 * 8;
        float scale[8], shift[8], skip_scale[8];
        LR_UNROLL
        for (int i = 0; i < 8; ++i) {
            scale[i] = affine[half + i];
            skip_scale[i] = affine[2 * n + half + i];
            shift[i] = affine[n + half + i] + affine[3 * n + half + i];
        }
        LR_NO_UNROLL
        for (int i = thread_index(); i < kSource * kSource * 2; i += thread_count()) {
            const int pixel = i / 2, y = pixel / kSource, x = pixel - y * kSource;
            const int64_t row = int64_t{top} - around + y, column = int64_t{left} - around + x;
            Quad<uint32_t> words{};
            if (row >= 0 && row < p.height && column >= 0 && column < p.width) {
                const int64_t at = ((image * p.height + row) * p.width + column) * n + half;
                const auto t = load_words<S, 8>(static_cast<const S*>(p.input) + at);
                float v[8];
                LR_UNROLL
                for (int j = 0; j < 8; ++j) v[j] = fused_multiply_add(scale[j], value(t.word, j), shift[j]);
                if (p.skip != nullptr) {
                    const auto u = load_words<S, 8>(static_cast<const S*>(p.skip) + at);
                    LR_UNROLL
                    for (int j = 0; j < 8; ++j) v[j] = fused_multiply_add(skip_scale[j], value(u.word, j), v[j]);
                }
                LR_UNROLL
                for (int j = 0; j < 4; ++j) words.v[j] = F::pack(v[2 * j], v[2 * j + 1]);
            }
            *reinterpret_cast<Quad<uint32_t>*>(source + y * kSource * n + Map::place(x, half)) = words;
        }
    }
    LR_DEVICE static float value(const uint32_t* words, int i) {
        return F::decode(static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))));
    }

    // sum[q] += the 3x3 convolution at rows y + q, columns x ... x + 15 of the result, whose pixel (0, 0) reads
    // `from`'s pixels (0 ... 2, 0 ... 2). `pitch`: pixels of a row.
    LR_DEVICE static void convolve(float (&sum)[kRows][kTiles][4], const S* from, int pitch, int y, int x,
                                   const S* weight) {
        const int lane = lane_index();
        const S* first = from + y * pitch * n;
        LR_UNROLL
        for (int dx = 0; dx < 3; ++dx) {
            typename F::A a[kRows + 2];
            const auto at = Map::reader(0, [&](int r) { return x + dx + r; });
            LR_UNROLL
            for (int r = 0; r < kRows + 2; ++r) a[r] = Map::load(first + r * pitch * n, at);
            LR_UNROLL
            for (int dy = 0; dy < 3; ++dy) {
                LR_UNROLL
                for (int j = 0; j < kTiles; ++j) {
                    const auto b = F::load_b(weight + (((dy * 3 + dx) * 32 + lane) * kTiles + j) * 4);
                    LR_UNROLL
                    for (int q = 0; q < kRows; ++q) F::multiply(sum[q][j], a[q + dy], b);
                }
            }
        }
    }

    // Where the middle map keeps column x of a row. The head's product has every second pixel as a row: with even
    // columns before odd ones those are neighbours, which have no bank conflict.
    template <bool kSplit>
    LR_DEVICE static int middle_column(int x) {
        return kSplit ? x / 2 + x % 2 * kPairs : x;
    }

    // The first convolution with its norm and skip or activation, into the middle map, whose first pixel is (top -
    // around, left - around) of the image; zero outside the image, as the second convolution pads.
    template <bool kTail>
    LR_DEVICE void fill_middle(int around) {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        float scale[kTiles][2], shift[kTiles][2], skip_scale[kTiles][2];
        LR_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            LR_UNROLL
            for (int i = 0; i < 2; ++i) {
                const int c = 8 * j + 2 * t + i;
                scale[j][i] = affine[4 * n + c];
                shift[j][i] = affine[5 * n + c];
                if constexpr (kTail) {
                    skip_scale[j][i] = affine[2 * n + c];
                    shift[j][i] += affine[3 * n + c];
                }
            }
        }
        // Two strips of 16 columns times eight groups of four rows.
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < 16; unit += warp_count()) {
            const int x = unit % 2 * 16, y = unit / 2 * kRows;
            float sum[kRows][kTiles][4] = {};
            convolve(sum, source, kSource, y, x, weight1);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const int column = x + g + 8 * h;
                    const int64_t at_y = int64_t{top} - around + y + q, at_x = int64_t{left} - around + column;
                    const bool inside = at_y >= 0 && at_y < p.height && at_x >= 0 && at_x < p.width;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        float low = fused_multiply_add(scale[j][0], sum[q][j][2 * h], shift[j][0]);
                        float high = fused_multiply_add(scale[j][1], sum[q][j][2 * h + 1], shift[j][1]);
                        if constexpr (kTail) {
                            if (inside) {
                                const int64_t at = ((image * p.height + at_y) * p.width + at_x) * n + 8 * j + 2 * t;
                                const auto u = load_words<S, 2>(static_cast<const S*>(p.skip) + at);
                                low = fused_multiply_add(skip_scale[j][0], value(u.word, 0), low);
                                high = fused_multiply_add(skip_scale[j][1], value(u.word, 1), high);
                            }
                        } else {
                            low = low < 0.0f ? low * p.negative_slope : low;
                            high = high < 0.0f ? high * p.negative_slope : high;
                        }
                        S* to = middle + (y + q) * kGrid * n + Map::place(middle_column<kTail>(column), 8 * j + 2 * t);
                        *reinterpret_cast<uint32_t*>(to) = inside ? F::pack(low, high) : 0u;
                    }
                }
            }
        }
    }

    LR_DEVICE void finish_block() {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        // The last strip and the last group of rows begin earlier instead of reading beyond the map: what they share
        // with the ones before is computed twice, to the same bits, and stored by both.
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < 16; unit += warp_count()) {
            const int x = unit % 2 * (kTrunkBlockSide - 16);
            const int y = unit / 2 * kRows < kTrunkBlockSide - kRows ? unit / 2 * kRows : kTrunkBlockSide - kRows;
            float sum[kRows][kTiles][4] = {};
            convolve(sum, middle, kGrid, y, x, weight2);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const int64_t at_y = int64_t{top} + y + q, at_x = int64_t{left} + x + g + 8 * h;
                    if (at_y >= p.height || at_x >= p.width) continue;
                    S* to = static_cast<S*>(p.output) + ((image * p.height + at_y) * p.width + at_x) * n + 2 * t;
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j)
                        *reinterpret_cast<uint32_t*>(to + 8 * j) = F::pack(sum[q][j][2 * h], sum[q][j][2 * h + 1]);
                }
            }
        }
    }

    LR_DEVICE void finish_tail() {
        constexpr int kLastPair = kTrunkTailSide / 2 - 1;
        constexpr int kGroups = (kTrunkTailSide + kRows - 1) / kRows;
        const int lane = lane_index(), g = lane / 4;
        // Rows of the product beyond the tile's pairs repeat the last one and are not stored.
        const PairColumns columns(p.channels);
        int64_t from[2], to[2];
        float bias[2];
        LR_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int c = columns.channel[i];
            bias[i] = load_parameter(p.bias, c);
            from[i] = image * p.base_stride[0] + c * p.base_stride[1];
            to[i] = image * p.result_stride[0] + c * p.result_stride[1];
        }
        LR_NO_UNROLL
        for (int unit = warp_index(); unit < kGroups; unit += warp_count()) {
            const int y = unit * kRows < kTrunkTailSide - kRows ? unit * kRows : kTrunkTailSide - kRows;
            float sum[kRows][4] = {};
            LR_NO_UNROLL
            for (int dx = 0; dx < 8; ++dx) {
                const S* first = middle + y * kGrid * n;
                typename F::A a[kRows + 6];
                const auto at =
                    Map::reader(0, [&](int r) { return middle_column<true>(dx) + (r < kLastPair ? r : kLastPair); });
                LR_UNROLL
                for (int r = 0; r < kRows + 6; ++r) a[r] = Map::load(first + r * kGrid * n, at);
                LR_UNROLL
                for (int dy = 0; dy < 7; ++dy) {
                    const auto b = F::load_b(weight2 + ((dy * 8 + dx) * 32 + lane) * 4);
                    LR_UNROLL
                    for (int q = 0; q < kRows; ++q) F::multiply(sum[q], a[q + dy], b);
                }
            }
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                const int64_t at_y = int64_t{top} + y + q;
                if (at_y >= p.height) break;
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int x = 2 * (g + i / 2 * 8) + columns.pixel[i % 2];
                    const int64_t at_x = int64_t{left} + x;
                    if (!columns.exists[i % 2] || x >= kTrunkTailSide || at_x >= p.width) continue;
                    store_result(sum[q][i] + bias[i % 2],
                                 from[i % 2] + at_y * p.base_stride[2] + at_x * p.base_stride[3],
                                 to[i % 2] + at_y * p.result_stride[2] + at_x * p.result_stride[3]);
                }
            }
        }
    }
    // Adds the base's element and stores the result's.
    LR_DEVICE void store_result(float sum, int64_t from, int64_t to) const {
        if (p.wide)
            static_cast<float*>(p.result)[to] = sum + static_cast<const float*>(p.base)[from];
        else
            static_cast<S*>(p.result)[to] = F::encode(sum + F::decode(static_cast<const S*>(p.base)[from]));
    }
};

template <Arithmetic M, TrunkKernel K>
LR_KERNEL(kTrunkThreads)
trunk_kernel(const TrunkParams p) {
    constexpr bool kTail = K == TrunkKernel::kTail;
    constexpr int kAround = kTail ? 3 : 1;  // pixels that the second convolution reads around an output
    Trunk<M, K> trunk(p);
    trunk.load_weights(trunk.weight1, p.weight1);
    if constexpr (kTail)
        trunk.load_head_weights();
    else
        trunk.load_weights(trunk.weight2, p.weight2);
    barrier();  // the vectors are there
    for (int64_t tile = block_index(); tile < p.tiles; tile += block_count()) {
        trunk.locate(tile, kTail ? kTrunkTailSide : kTrunkBlockSide);
        trunk.load_source(kAround + 1);
        barrier();  // v is there, and the weights; nobody still reads the middle map of the tile before
        trunk.template fill_middle<kTail>(kAround);
        barrier();  // the middle map is there, and v free
        if constexpr (kTail)
            trunk.finish_tail();
        else
            trunk.finish_block();
    }
}

// Calls launch(kernel) with the instance.
template <class Launch>
void with_trunk_kernel(TrunkKernel kernel, bool bfloat16, const Launch& launch) {
    dispatch<TrunkKernel::kBlock, TrunkKernel::kTail>(kernel, [&](auto K) {
        if (bfloat16)
            launch(trunk_kernel<Arithmetic::kBFloat16, K>);
        else
            launch(trunk_kernel<Arithmetic::kFloat16, K>);
        return true;
    });
}

}  // namespace learned_resizer
