// Tiles of feature maps: a block's walk over them, and the loader that takes their pixels through the prologue into
// shared memory, once a pixel. Shared by conv, head and trunk, forward and adjoint.
#pragma once

#include "common/feature_map.cuh"
#include "common/prologue.h"

namespace learned_resizer {

// Tile `index` of `rows` by `columns` pixels, row by row of an image, image by image.
struct MapTile {
    int image, top, left;

    LR_DEVICE MapTile(const PrologueParams& p, uint32_t index, int rows, int columns) {
        const uint32_t across = (static_cast<uint32_t>(p.width) + columns - 1) / columns,
                       down = (static_cast<uint32_t>(p.height) + rows - 1) / rows;
        const uint32_t row = index / across;
        image = static_cast<int>(row / down);
        top = static_cast<int>(row % down) * rows;
        left = static_cast<int>(index % across) * columns;
    }
    // Number of an image's pixel. Within a tile, int is enough to count from there (kMostWidth).
    LR_DEVICE int64_t pixel(const PrologueParams& p, int y, int x) const {
        return (image * p.height + y) * p.width + x;
    }
    // A block's tiles.
    LR_DEVICE static uint32_t first() { return static_cast<uint32_t>(block_index()); }
    LR_DEVICE static uint32_t stride() { return static_cast<uint32_t>(block_count()); }
};

// lrelu(scale t + shift [+ skip_scale u])
struct TileSource {
    const void* t;         // [batch][height][width][n]
    const void* u;         // likewise, or null
    const float* affine;   // [3][n] in shared memory: scale, shift, skip_scale
    float negative_slope;  // 1: no activation
};

template <Arithmetic M, int n>
struct TileLoader {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr int kChunk = 16 / static_cast<int>(sizeof(S));  // channels of a 16-byte access
    static constexpr int kChunks = n / kChunk;
    LR_DEVICE static float element(const uint32_t* words, int i) {
        if constexpr (kIs16Bit<M>)
            return F::decode(static_cast<uint16_t>(words[i / 2] >> (16 * (i % 2))));
        else
            return float_from_bits(words[i]);
    }

    // The kHeight rows of kWidth pixels from `around` before the tile's first on; zero outside the image. Channel c of
    // the pixel (y, x) goes to to[place(y, x, c)]. The loads of kTogether passes of the block are on their way
    // together, as many as the kernel's registers allow: a batch of them waits for memory once.
    template <int kHeight, int kWidth, int kTogether, class Place>
    LR_DEVICE static void load(S* to, const TileSource& source, const PrologueParams& p, const MapTile& tile,
                               int around, const Place& place) {
        if (source.u == nullptr)
            load<kHeight, kWidth, kTogether, false>(to, source, p, tile, around, place);
        else
            load<kHeight, kWidth, kTogether, true>(to, source, p, tile, around, place);
    }

  private:
    template <int kHeight, int kWidth, int kTogether, bool kSkip, class Place>
    LR_DEVICE static void load(S* to, const TileSource& source, const PrologueParams& p, const MapTile& tile,
                               int around, const Place& place) {
        constexpr int kPixels = kHeight * kWidth, kPass = kTileThreads / kChunks;  // pixels of a pass of the block
        constexpr int kBatches = ((kPixels + kPass - 1) / kPass + kTogether - 1) / kTogether;
        constexpr int kBatch = (kPixels + kBatches * kPass - 1) / (kBatches * kPass);
        // In the last batch, passes from here on are beyond the tile for some of the threads.
        constexpr int kWhole = kPixels / kPass - (kBatches - 1) * kBatch;
        // The threads are a multiple of a pixel's chunks: a thread always has the same channels.
        const int c = thread_index() % kChunks * kChunk;
        float scale[kChunk], shift[kChunk], skip_scale[kChunk];
        LR_UNROLL
        for (int j = 0; j < kChunk; ++j) {
            scale[j] = source.affine[c + j];
            shift[j] = source.affine[n + c + j];
            skip_scale[j] = source.affine[2 * n + c + j];
        }
        const int height = static_cast<int>(p.height), width = static_cast<int>(p.width);
        const int top = tile.top - around, left = tile.left - around;
        const int64_t first = tile.pixel(p, top, left) * n + c;
        const S* from = static_cast<const S*>(source.t) + first;
        const S* from_skip = static_cast<const S*>(source.u) + (kSkip ? first : 0);
        const int corner = ((top < 0 ? -top : 0) * width + (left < 0 ? -left : 0)) * n;  // the first within the image
        LR_NO_UNROLL
        for (int batch = 0; batch < kBatches; ++batch) {
            const int pixel = batch * kBatch * kPass + thread_index() / kChunks;
            Words<S, kChunk> t[kBatch], u[kBatch];
            bool inside[kBatch];
            LR_UNROLL
            for (int k = 0; k < kBatch; ++k) {
                const int i = pixel + k * kPass, y = i / kWidth, x = i - y * kWidth;
                const int row = top + y, column = left + x;
                inside[k] = static_cast<uint32_t>(row) < static_cast<uint32_t>(height) &&
                            static_cast<uint32_t>(column) < static_cast<uint32_t>(width);
                // No branch, so that the loads follow one another.
                const int at = inside[k] ? (y * width + x) * n : corner;
                t[k] = load_words<S, kChunk>(from + at);
                if constexpr (kSkip) u[k] = load_words<S, kChunk>(from_skip + at);
            }
            LR_UNROLL
            for (int k = 0; k < kBatch; ++k) {
                const int i = pixel + k * kPass, y = i / kWidth, x = i - y * kWidth;
                float v[kChunk];
                LR_UNROLL
                for (int j = 0; j < kChunk; ++j) {
                    v[j] = fused_multiply_add(scale[j], element(t[k].word, j), shift[j]);
                    if constexpr (kSkip) v[j] = fused_multiply_add(skip_scale[j], element(u[k].word, j), v[j]);
                }
                if (source.negative_slope != 1.0f) {
                    LR_UNROLL
                    for (int j = 0; j < kChunk; ++j)
                        if (!(v[j] > 0.0f)) v[j] *= source.negative_slope;
                }
                if (k < kWhole || i < kPixels) store(to + place(y, x, c), v, inside[k]);
            }
        }
    }

    LR_DEVICE static void store(S* to, const float (&v)[kChunk], bool inside) {
        if constexpr (kIs16Bit<M>) {
            Quad<uint32_t> words;
            LR_UNROLL
            for (int j = 0; j < 4; ++j) words.v[j] = inside ? F::pack(v[2 * j], v[2 * j + 1]) : 0u;
            *reinterpret_cast<Quad<uint32_t>*>(to) = words;
        } else {
            Quad<float> words;
            LR_UNROLL
            for (int j = 0; j < 4; ++j) words.v[j] = inside ? F::encode(v[j]) : 0.0f;
            *reinterpret_cast<Quad<float>*>(to) = words;
        }
    }
};

}  // namespace learned_resizer
