// The end of the convolution to the image: a lane's pixels with bias and base (the products: convolve.cuh).
#pragma once

#include "common/fragment.cuh"
#include "common/parameter.cuh"
#include "common/to_image.h"

namespace learned_resizer {

template <Arithmetic M>
LR_DEVICE bool is_wide(const ImageView& image) {
    return !kIs16Bit<M> || image.wide != 0;
}
// The bits of an element, T being float where the image is wide and else the fragments' S; and their value.
template <class T>
LR_DEVICE uint32_t load_bits(const ImageView& image, int64_t at) {
    if constexpr (sizeof(T) == 4)
        return load_element(static_cast<const uint32_t*>(image.data) + at);
    else
        return load_element(static_cast<const uint16_t*>(image.data) + at);
}
template <Arithmetic M, class T>
LR_DEVICE float decode_bits(uint32_t bits) {
    if constexpr (sizeof(T) == 4)
        return float_from_bits(bits);
    else
        return Fragments<M>::decode(static_cast<T>(bits));
}

// What a lane holds of kRows rows of 16 pairs of pixels: columns 2t and 2t + 1 of the product's rows g and g + 8, a
// column being channels * (pixel of the pair) + channel. Requests base, to be there when the sums are complete.
template <Arithmetic M, int kRows>
struct ImageRows {
    using F = Fragments<M>;
    using S = typename F::S;

    const ToImage& p;
    int image, y, x, rows, end;  // the first pair's first pixel; rows from there on; end of the columns
    uint32_t base[kRows][4];     // the bits of value i of a row

    // Pixels from (height, width) on are outside the image, columns from `columns` on beyond the tile.
    LR_DEVICE ImageRows(const ToImage& params, int of_image, int top, int left, int64_t height, int64_t width,
                        int columns)
        : p(params),
          image(of_image),
          y(top),
          x(left),
          rows(static_cast<int>(height) - top),
          end(left + columns < width ? left + columns : static_cast<int>(width)) {
        if (is_wide<M>(p.base))
            request<float>();
        else
            request<S>();
    }
    // Adds base and bias [channels], which is in shared memory, and stores.
    LR_DEVICE void store(const float (&sum)[kRows][4], const float* bias) const {
        if (is_wide<M>(p.base))
            store<float>(sum, bias);
        else
            store<S>(sum, bias);
    }

  private:
    // The place of value i: its channel and column. False if there is none.
    LR_DEVICE bool locate(int lane, int i, int& channel, int& column) const {
        const int within = lane % 4 * 2 + i % 2, pixel = within >= p.channels ? 1 : 0;
        channel = within - pixel * p.channels;
        column = x + 2 * (lane / 4 + i / 2 * 8) + pixel;
        return within < 2 * p.channels && column < end;
    }
    LR_DEVICE static int64_t offset(const int64_t (&stride)[4], int image, int channel, int y, int column) {
        return image * stride[0] + channel * stride[1] + y * stride[2] + column * stride[3];
    }

    template <class T>
    LR_DEVICE void request() {
        const int lane = opaque(lane_index());
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            int channel, column;
            const bool exists = locate(lane, i, channel, column) && rows > 0;
            // Where there is no pixel, the image's first: no branch, so that the loads follow one another.
            const int64_t from = exists ? offset(p.base.stride, image, channel, y, column) : image * p.base.stride[0];
            LR_UNROLL
            for (int q = 0; q < kRows; ++q)
                base[q][i] = load_bits<T>(p.base, from + (exists && q < rows ? q * p.base.stride[2] : 0));
        }
    }
    template <class T>
    LR_DEVICE void store(const float (&sum)[kRows][4], const float* bias) const {
        const int lane = opaque(lane_index());
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            int channel, column;
            if (!locate(lane, i, channel, column)) continue;
            T* to = static_cast<T*>(p.result) + offset(p.result_stride, image, channel, y, column);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                if (q >= rows) break;
                const float result = sum[q][i] + bias[channel] + decode_bits<M, T>(base[q][i]);
                if constexpr (sizeof(T) == 4)
                    to[q * p.result_stride[2]] = result;
                else
                    to[q * p.result_stride[2]] = F::encode(result);
            }
        }
    }
};

}  // namespace learned_resizer
