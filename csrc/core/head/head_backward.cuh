// The adjoint of the head:
//
//   dW = sum dy * v,   dbias = sum dy,   dbase = dy (the caller's),   dv = W^T * dy
//   then the prologue's adjoint (prologue.cuh)
//
// C is 3 or so, and a matrix product has 8 columns and 16 rows to fill:
//
//   dv    4 taps of a row times the channels, padded to 4, are the 16 terms of a step.
//   dW    the same 16 are the rows of a product whose terms are 16 pixels and whose columns are v's channels.
//
// It therefore reads v at its own pixels only and dy, which is narrow, with three pixels around.
#pragma once

#include "common/dispatch.h"
#include "common/pixel_terms.cuh"
#include "common/statistics.cuh"
#include "head/head.cuh"

namespace learned_resizer {

template <Arithmetic M, int n>
struct HeadBackward : HeadTraits<M, n, HeadKernel::kBackward> {
    using Traits = HeadTraits<M, n, HeadKernel::kBackward>;
    using typename Traits::F;
    using typename Traits::Map;
    using typename Traits::S;
    using Terms = PixelTerms<M>;
    using Product = Convolve3<M, n>;  // a lane's channels
    using Traits::kHeight;
    using Traits::kStride;
    static constexpr int kTiles = n / 8, kSteps = n / 16, kLane = Product::kLane;
    static constexpr int kRows = kHeight / 4;       // rows of dv that a warp holds: each has one unit of a tile
    static constexpr int kWide = kHeadColumns + 8;  // pixels of dy's row: three around, one read for a tap of no use
    static constexpr int kTall = kHeight + 6;
    // Elements of dy's pixel. 16 bits: its four channels, then those of its right neighbour, since a matrix row that
    // ldmatrix reads is 16 bytes on a boundary of 16.
    static constexpr int kGrad = kIs16Bit<M> ? 8 : 4;
    static constexpr int kWeights = 7 * 2 * 32 * kTiles * 4;

    // Dynamic shared memory, in this order.
    Prologue<M, n> prologue;
    S* v;        // [kHeight][32][kStride]
    S* grad;     // [kTall][kWide][kGrad]: dy
    S* weights;  // [7][2][32 lanes][kTiles][4]
    const HeadParams& p;

    LR_DEVICE int filters() const { return p.prologue.filters; }
    LR_DEVICE int elements() const { return p.channels * filters() * 49 + p.channels + kPrologueSums * filters(); }

    LR_HOST_DEVICE static constexpr int shared_bytes() {
        constexpr int working =
            (kHeight * kHeadColumns * kStride + kTall * kWide * kGrad + kWeights) * static_cast<int>(sizeof(S));
        // At the end the same memory holds the block's sums.
        constexpr int last = 4 * (kImageChannels * n * 49 + kImageChannels + kPrologueSums * n);
        return (working > last ? working : last) + 3 * n * 4;
    }

    LR_DEVICE explicit HeadBackward(const HeadParams& params)
        : prologue(params.prologue, reinterpret_cast<float*>(dynamic_shared())), p(params) {
        v = reinterpret_cast<S*>(prologue.affine + 3 * n);
        grad = v + kHeight * kHeadColumns * kStride;
        weights = grad + kTall * kWide * kGrad;
        // Term 4 (e % 4) + k of step (f, e / 4): channel k of the dy that lies e - 3 to the right and f - 3 below,
        // which the tap (6 - f, 6 - e) multiplies.
        load_weights<kWeights, 7>(weights, p.weight, kHeadThreads, F::encode, [&](uint32_t i) {
            const int tile = i / 4 % kTiles, lane = i / (4 * kTiles) % 32, step = i / (128 * kTiles);
            const int term = Map::term(lane % 4, i % 4), column = Product::channel(tile, lane / 4);
            const int f = step / 2, e = step % 2 * 4 + term / 4, k = term % 4;
            return e < 7 && k < p.channels && column < filters() ? weight_place(p.weight, k, column, 6 - f, 6 - e) : -1;
        });
    }

    LR_DEVICE void load(const MapTile& tile, float (&bias)[kImageChannels]) const {
        TileLoader<M, n>::template load<kHeight, kHeadColumns, 2>(
            v, prologue.source(), p.prologue, tile, 0,
            [](int y, int x, int c) { return y * kHeadColumns * kStride + Map::place(x, c); });
        if (is_wide<M>(p.grad))
            load_grad<float>(tile, bias);
        else
            load_grad<S>(tile, bias);
    }

    // dy and the block's sum of it, of two pixels a thread at a time: their loads wait for memory together.
    template <class T>
    LR_DEVICE void load_grad(const MapTile& tile, float (&bias)[kImageChannels]) const {
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        LR_NO_UNROLL
        for (int first = thread_index(); first < kTall * kWide; first += 2 * kHeadThreads) {
            uint32_t bits[2][kImageChannels] = {};
            bool inside[2];
            LR_UNROLL
            for (int k = 0; k < 2; ++k) {
                const int i = first + k * kHeadThreads, y = i / kWide, x = i - y * kWide;
                const int row = tile.top - 3 + y, column = tile.left - 3 + x;
                inside[k] = static_cast<uint32_t>(row) < static_cast<uint32_t>(height) &&
                            static_cast<uint32_t>(column) < static_cast<uint32_t>(width);
                const int64_t at = tile.image * p.grad.stride[0] +
                                   (inside[k] ? row * p.grad.stride[2] + column * p.grad.stride[3] : 0);
                LR_UNROLL
                for (int c = 0; c < kImageChannels; ++c)
                    if (c < p.channels) bits[k][c] = load_bits<T>(p.grad, at + c * p.grad.stride[1]);
            }
            LR_UNROLL
            for (int k = 0; k < 2; ++k) {
                const int i = first + k * kHeadThreads, y = i / kWide, x = i - y * kWide;
                if (y >= kTall) break;
                float d[kImageChannels];
                LR_UNROLL
                for (int c = 0; c < kImageChannels; ++c) d[c] = inside[k] ? decode_bits<M, T>(bits[k][c]) : 0.0f;
                if (y >= 3 && y < kHeight + 3 && x >= 3 && x < kHeadColumns + 3) {
                    LR_UNROLL
                    for (int c = 0; c < kImageChannels; ++c) bias[c] += d[c];
                }
                if constexpr (kIs16Bit<M>) {
                    const Pair<uint32_t> words{F::pack(d[0], d[1]), F::pack(d[2], d[3])};
                    *reinterpret_cast<Pair<uint32_t>*>(grad + i * kGrad) = words;
                    if (x > 0) *reinterpret_cast<Pair<uint32_t>*>(grad + (i - 1) * kGrad + 4) = words;
                } else {
                    *reinterpret_cast<Quad<float>*>(grad + i * kGrad) =
                        Quad<float>{{F::encode(d[0]), F::encode(d[1]), F::encode(d[2]), F::encode(d[3])}};
                }
            }
        }
    }

    // dv of 16 pixels of kRows rows, and what the prologue's adjoint makes of it.
    LR_DEVICE void data(const MapTile& tile, float (&sums)[kPrologueSums][kLane]) const {
        const int lane = opaque(lane_index()), g = lane / 4, t = lane % 4, c = kLane * t;
        const int x = warp_index() % 2 * 16, y = warp_index() / 2 * kRows;
        const int height = static_cast<int>(p.prologue.height), width = static_cast<int>(p.prologue.width);
        const int64_t first = tile.pixel(p.prologue, tile.top, tile.left) * n;
        constexpr int kPart = kIs16Bit<M> || n == 16 ? 2 : 1;  // rows at a time: registers
        LR_NO_UNROLL
        for (int part = 0; part < kRows; part += kPart) {
            float dv[kPart][kTiles][4] = {};
            LR_NO_UNROLL
            for (int s = 0; s < 2; ++s) {
                // Of 16 bits a pixel and its neighbour are a row of a matrix, as ldmatrix reads it.
                const S* first =
                    grad + ((y + part) * kWide + x + 4 * s + (kIs16Bit<M> ? lane % 16 + lane / 16 * 2 : g + t)) * kGrad;
                typename F::A a[kPart + 6];
                LR_UNROLL
                for (int r = 0; r < kPart + 6; ++r) {
                    const S* at = first + r * kWide * kGrad;
                    if constexpr (kIs16Bit<M>)
                        load_matrices(a[r].r, at);
                    else
                        a[r] = F::load_a(at, at + 8 * kGrad);
                }
                LR_UNROLL
                for (int f = 0; f < 7; ++f) {
                    LR_UNROLL
                    for (int j = 0; j < kTiles; ++j) {
                        const auto b = F::load_b(weights + (((f * 2 + s) * 32 + lane) * kTiles + j) * 4);
                        LR_UNROLL
                        for (int q = 0; q < kPart; ++q) F::multiply(dv[q][j], a[q + f], b);
                    }
                }
            }
            LR_UNROLL
            for (int q = 0; q < kPart; ++q) {
                typename Prologue<M, n>::Reads reads[2];
                bool valid[2];
                int at[2];
                const int row = y + part + q;
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    const int column = x + g + 8 * h;
                    valid[h] = tile.top + row < height && tile.left + column < width;
                    at[h] = (valid[h] ? (row * width + column) * n : 0) + c;
                    prologue.request_adjoint(reads[h], first, at[h]);
                }
                LR_UNROLL
                for (int h = 0; h < 2; ++h) {
                    if (!valid[h]) continue;
                    float of_lane[kLane];
                    LR_UNROLL
                    for (int i = 0; i < kLane; ++i) of_lane[i] = dv[q][i / 2][2 * h + i % 2];
                    prologue.adjoint(reads[h], of_lane, v + row * kHeadColumns * kStride + Map::place(x + g + 8 * h, c),
                                     c, first, at[h], sums);
                }
            }
        }
    }

    // Neighbouring warps share pixels: each has the products of four columns of taps by 8 channels, for which there are
    // registers.
    static constexpr int kChannelParts = n / 8, kShare = 2 * kChannelParts;
    using Grad = float[7][4];
    LR_DEVICE static int tap_half() { return warp_index() % 2; }
    LR_DEVICE static int channel_part() { return warp_index() / 2 % kChannelParts; }

    // Rows of the product: the dy's channel k that lies e to the right, row 4 (e % 4) + k. Its terms: 16 pixels.
    LR_DEVICE static typename F::A load_rows(const S* from) {
        if constexpr (kIs16Bit<M>) {
            const int lane = lane_index();
            typename F::A a;
            // Matrices: pixels 0-7 and 8-15 (bit 4 of the lane), e of 0, 1 and of 2, 3 (bit 3).
            load_matrices_transposed(a.r, from + (lane / 16 * 8 + lane % 8 + lane / 8 % 2 * 2) * kGrad);
            return a;
        } else {
            return Terms::load_a(from, kGrad);
        }
    }

    // dw[f]: taps of row 6 - f.
    LR_DEVICE void weight_products(Grad& dw) const {
        constexpr int kDown = kIs16Bit<M> ? 4 : 2;  // rows of v at a time: each row of dy serves them all
        LR_NO_UNROLL
        for (int unit = warp_index() / kShare; unit < 2 * (kHeight / kDown); unit += warp_count() / kShare) {
            const int x = unit % 2 * 16, y = unit / 2 * kDown;
            typename F::B b[kDown];
            LR_UNROLL
            for (int q = 0; q < kDown; ++q)
                b[q] = Map::load_pixels_b(v + (y + q) * kHeadColumns * kStride, x, 8 * channel_part());
            LR_UNROLL
            for (int r = 0; r < kDown + 6; ++r) {
                const auto a = load_rows(grad + ((y + r) * kWide + x + 4 * tap_half()) * kGrad);
                LR_UNROLL
                for (int q = 0; q < kDown; ++q) {
                    const int f = r - q;
                    if (f < 0 || f > 6) continue;
                    F::multiply(dw[f], a, b[q]);
                }
            }
        }
    }

    // The block's sums, warp after warp.
    LR_DEVICE void finish(const Grad& dw, float (&bias)[kImageChannels], float (&sums)[kPrologueSums][kLane],
                          float* partial) {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const int biases = p.channels * filters() * 49;
        Prologue<M, n>::reduce(sums);
        LR_UNROLL
        for (int mask = 1; mask < 32; mask *= 2) {
            LR_UNROLL
            for (int k = 0; k < kImageChannels; ++k) bias[k] += shuffle_xor(bias[k], mask);
        }
        // [C][filters][7][7], [C], [3][filters]
        sum_warps(reinterpret_cast<float*>(v), elements(), partial, [&](float* total) {
            LR_UNROLL
            for (int f = 0; f < 7; ++f) {
                LR_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const int row = g + i / 2 * 8, e = 4 * tap_half() + row / 4, k = row % 4;
                    const int channel = 8 * channel_part() + 2 * t + i % 2;
                    if (e < 7 && k < p.channels && channel < filters())
                        total[((k * filters() + channel) * 7 + 6 - f) * 7 + 6 - e] += dw[f][i];
                }
            }
            LR_UNROLL
            for (int k = 0; k < kImageChannels; ++k)
                if (lane == 0 && k < p.channels) total[biases + k] += bias[k];
            prologue.add(sums, total + biases + p.channels);
        });
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(kHeadThreads, (HeadTraits<M, n, HeadKernel::kBackward>::kResident))
head_backward_kernel(const HeadParams p) {
    using H = HeadBackward<M, n>;
    H head(p);
    typename H::Grad dw = {};
    float sums[kPrologueSums][H::kLane] = {}, bias[kImageChannels] = {};
    barrier();  // the vectors are there
    for (uint32_t i = MapTile::first(); i < p.tiles; i += MapTile::stride()) {
        const MapTile tile(p.prologue, i, H::kHeight, kHeadColumns);
        head.load(tile, bias);
        barrier();  // v and dy are there
        head.data(tile, sums);
        head.weight_products(dw);
        barrier();  // and free again
    }
    head.finish(dw, bias, sums, p.partials + block_index() * head.elements());
}

// Calls launch(kernel, shared_bytes, rows of a tile) with the instance; false if it does not exist.
template <class Launch>
bool with_head_kernel(HeadKernel kernel, Arithmetic arithmetic, int filters, const Launch& launch) {
    return dispatch_tensor(arithmetic, filters, [&](auto M, auto n) {
        if (kernel == HeadKernel::kForward)
            launch(head_kernel<M, n>, HeadForward<M, n>::shared_bytes(), HeadForward<M, n>::kHeight);
        else
            launch(head_backward_kernel<M, n>, HeadBackward<M, n>::shared_bytes(), HeadBackward<M, n>::kHeight);
    });
}

}  // namespace learned_resizer
