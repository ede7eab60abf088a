// Feature maps in shared memory, as the operands of matrix products read them.
#pragma once

#include "common/pixel_terms.cuh"

namespace learned_resizer {

// [height][pitch][kStride] of n channels. With 16-bit elements the eight rows of a matrix that ldmatrix reads are eight
// neighbouring pixels, 16 bytes each, which must lie in different banks: 16 channels are two chunks of 16 bytes that
// change places in every second group of four columns; 32 channels have a stride of 80 bytes. With 32-bit elements
// lanes read 16 bytes of two pixels at a time, which do not conflict 64 and 192 bytes apart. kWide: another stride of
// 32 channels or 32-bit elements, where no such reads are made.
template <Arithmetic M, int n,
          int kWide = kIs16Bit<M> ? 40
                      : n == 16   ? 16
                                  : 48>
struct FeatureMap {
    using F = Fragments<M>;
    using S = typename F::S;
    static constexpr bool kSwizzled = kIs16Bit<M> && n == 16;
    static constexpr int kStride = kSwizzled ? 16 : kWide;

    // The position at which a pixel of column x keeps channel c.
    LR_DEVICE static int channel(int x, int c) { return kSwizzled ? c ^ (x / 4 % 2 * 8) : c; }
    LR_DEVICE static int place(int x, int c) { return x * kStride + channel(x, c); }

    // Index within a step of the lane's i-th term, for the weights' side.
    LR_DEVICE static constexpr int term(int t, int i) { return kIs16Bit<M> ? chained_term(t, i) : linear_term(t, i); }

    // Where a lane reads a fragment whose row r is the pixel of column x(r), of channels `from` on (a multiple of 16):
    // the same place in every row of the map.
    struct Reader {
        int first, second;
    };
    template <class Column>
    LR_DEVICE static Reader reader(int from, const Column& x) {
        const int lane = lane_index();
        if constexpr (kIs16Bit<M>) return {place(x(lane % 16), from + lane / 16 * 8), 0};
        const int c = from + 4 * (lane % 4);
        return {x(lane / 4) * kStride + c, x(lane / 4 + 8) * kStride + c};
    }
    LR_DEVICE static typename F::A load(const S* row, const Reader& at) {
        if constexpr (kIs16Bit<M>) {
            typename F::A a;
            // Matrices: rows 0-7 and 8-15 of the first eight channels, then of the others.
            load_matrices(a.r, row + at.first);
            return a;
        } else {
            return F::load_a(row + at.first, row + at.second);
        }
    }

    // Operands whose terms are the 16 pixels from column x on, in chained order. Rows of the product: the 16 channels
    // from c on.
    LR_DEVICE static typename F::A load_pixels_a(const S* row, int x, int c, int lane = lane_index()) {
        if constexpr (kIs16Bit<M>) {
            typename F::A a;
            // Matrices: pixels 0-7 and 8-15 (bit 4 of the lane) of channels 0-7 and 8-15 (bit 3).
            load_matrices_transposed(a.r, row + place(x + lane / 16 * 8 + lane % 8, c + lane / 8 % 2 * 8));
            return a;
        } else {
            return PixelTerms<M>::load_a(row + x * kStride + c, kStride, lane);
        }
    }
    // Columns of the product: the 8 channels from c on, and the 8 after them.
    LR_DEVICE static void load_pixels_b(typename F::B (&b)[2], const S* row, int x, int c, int lane = lane_index()) {
        if constexpr (kIs16Bit<M>) {
            uint32_t r[4];
            load_matrices_transposed(r, row + place(x + lane / 8 % 2 * 8 + lane % 8, c + lane / 16 * 8));
            b[0] = {{r[0], r[1]}};
            b[1] = {{r[2], r[3]}};
        } else {
            PixelTerms<M>::load_b(b, row + x * kStride + c, kStride, lane);
        }
    }
    // The first of the two alone.
    LR_DEVICE static typename F::B load_pixels_b(const S* row, int x, int c) {
        if constexpr (kIs16Bit<M>) {
            typename F::B b;
            load_matrices_transposed(b.r, row + place(x + lane_index() % 16, c));
            return b;
        } else {
            return PixelTerms<M>::gather(row + x * kStride + c + lane_index() / 4, kStride);
        }
    }
};

}  // namespace learned_resizer
