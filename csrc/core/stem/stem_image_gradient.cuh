// dx of the stem (formulas in stem_backward.cuh).
#pragma once

#include "stem/stem_adjoint.cuh"

namespace learned_resizer {

// dx. The block's columns begin three before those it writes and end three after them; the rows of da' that an output
// row reads are in a second ring.
template <Arithmetic M, int n>
struct StemImageGradient {
    using Adjoint = StemAdjoint<M, n, 1>;
    using F = typename Adjoint::F;
    using S = typename Adjoint::S;
    static constexpr int kTiles = n / 8, kSteps = n / 16;
    static constexpr int kStride = n + 8;
    static constexpr int kBlocks = 1;  // on a multiprocessor
    struct Map {
        LR_DEVICE static int place(int x, int c) { return x * kStride + c; }
    };
    static constexpr int kRing = 8;  // rows of da'; seven are read
    static constexpr int kWeights = 49 * kSteps * 32 * 4;

    const StemBackwardParams& p;
    Adjoint adjoint;
    S* ring;     // [kRing][16 warps][kStride]: da'
    S* weights;  // [49 taps][kSteps][32 lanes][4]: W0 with its filters as terms and channels as columns

    LR_HOST_DEVICE static constexpr int ring_offset(int warps) { return (Adjoint::shared_bytes(warps) + 15) / 16 * 16; }
    static int shared_bytes(int warps) {
        return ring_offset(warps) +
               (kRing * kStemWarpColumns * warps * kStride + kWeights) * static_cast<int>(sizeof(S));
    }

    LR_DEVICE explicit StemImageGradient(const StemBackwardParams& params) : p(params), adjoint(params) {
        ring = reinterpret_cast<S*>(dynamic_shared() + ring_offset(warp_count()));
        weights = ring + kRing * kStemWarpColumns * warp_count() * kStride;
        const int channels = p.format.channels;
        load_weights<kWeights, 7>(weights, p.weights.w0, thread_count(), F::encode, [&](uint32_t i) {
            const int lane = i / 4 % 32, step = i / 128 % kSteps, tap = i / (128 * kSteps);
            const int term = kIs16Bit<M> ? chained_term(lane % 4, i % 4) : linear_term(lane % 4, i % 4);
            const int filter = 16 * step + term, c = lane / 4;
            const bool exists = c < channels && filter < p.weights.filters;
            return exists ? weight_place(p.weights.w0, filter, c, tap / 7, tap % 7) : -1;
        });
    }

    LR_DEVICE S* ring_row(int row) const {
        return ring + (row & (kRing - 1)) * kStemWarpColumns * warp_count() * kStride;
    }

    LR_DEVICE void run_item(int64_t index) {
        adjoint.locate(index, StemGradient::kImage);
        const int begin = adjoint.item.begin, end = adjoint.item.end, height = adjoint.item.image.height;
        adjoint.features.begin(begin - 3);
        barrier();
        LR_NO_UNROLL
        for (int row = begin - 3; row < end + 3; ++row) {
            typename Adjoint::Features::Raw raw;
            adjoint.features.request(raw, Adjoint::Features::next(row));
            typename Adjoint::Row a[1];
            float dc[1][kTiles][4];
            adjoint.features_and_dc(row, height, a, dc);
            Adjoint::template put<Map>(ring_row(row) + kStemWarpColumns * warp_index() * kStride,
                                       adjoint.derive(a[0], Adjoint::pack(dc[0])));
            barrier();  // the row is complete
            if (row + 1 >= 0 && row + 1 < height) adjoint.pull.request_ahead(row + 1, row + 1);
            if (row >= begin + 3) write_row(row - 3);
            adjoint.features.store(raw, Adjoint::Features::next(row));
            barrier();  // the new image rows are there; the oldest row of da' is free
        }
    }

    // dx[y, x, c] = sum over taps and filters of W0[f, c, dy, dx] da'[y + 3 - dy, x + 3 - dx, f].
    LR_DEVICE void write_row(int y) const {
        const int lane = lane_index(), g = lane / 4, t = lane % 4;
        const int columns = static_cast<int>(stem_backward_columns(warp_count(), StemGradient::kImage));
        // Columns of the product beyond those that the block writes read its last pixels and are not stored.
        const int first = kStemWarpColumns * warp_index();
        const auto column_of = [&](int r) { return first + r < columns ? first + r : columns - 1; };
        // 48 or 80 bytes from pixel to pixel: eight rows of a matrix have no bank conflict.
        const int at = kIs16Bit<M> ? column_of(lane % 16) * kStride + lane / 16 * 8 : column_of(g) * kStride + 4 * t;
        const int at8 = column_of(g + 8) * kStride + 4 * t;
        constexpr int kUnroll = kIs16Bit<M> ? 7 : 1;
        (void)kUnroll;
        float sum[4] = {};
        LR_NO_UNROLL
        for (int dy = 0; dy < 7; ++dy) {
            const S* from = ring_row(y + 3 - dy);
            LR_UNROLL_BY(kUnroll)
            for (int dx = 0; dx < 7; ++dx) {
                LR_UNROLL
                for (int s = 0; s < kSteps; ++s) {
                    const S* pixel = from + (6 - dx) * kStride + 16 * s;
                    typename F::A a;
                    if constexpr (kIs16Bit<M>)
                        load_matrices(a.r, pixel + at);
                    else
                        a = F::load_a(pixel + at, pixel + at8);
                    F::multiply(sum, a, F::load_b(weights + (((dy * 7 + dx) * kSteps + s) * 32 + lane) * 4));
                }
            }
        }
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            const int c = 2 * t + i % 2, within = first + g + i / 2 * 8;
            const int64_t column = int64_t{adjoint.features.column} + 3 + within;
            const int64_t* stride = adjoint.item.dx.stride;
            if (c < p.format.channels && within < columns && column < adjoint.item.image.width)
                store(c * stride[1] + y * stride[2] + column * stride[3], sum[i]);
        }
    }
    LR_DEVICE void store(int64_t at, float value) const {
        void* dx = global(adjoint.item.dx.data);
        if (p.format.dtype == DType::kFloat32)
            static_cast<float*>(dx)[at] = value;
        else if (p.format.dtype == DType::kFloat16)
            static_cast<uint16_t*>(dx)[at] = float_to_half(value);
        else
            static_cast<uint16_t*>(dx)[at] = float_to_bfloat16(value);
    }
};

template <Arithmetic M, int n>
LR_KERNEL_RESIDENT(32 * kStemMaxWarps, (StemImageGradient<M, n>::kBlocks))
stem_image_kernel(const StemBackwardParams p) {
    StemImageGradient<M, n> gradient(p);
    for (int64_t item = block_index(); item < p.plan.items[1]; item += block_count()) gradient.run_item(item);
}

}  // namespace learned_resizer
