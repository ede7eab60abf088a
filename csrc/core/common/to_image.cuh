// The end of the convolution to the image: a lane's pixels with bias and base (the products: convolve.cuh).
#pragma once

#include "common/fragment.cuh"
#include "common/parameter.cuh"
#include "common/to_image.h"

namespace learned_resizer {

template <Arithmetic M>
LR_DEVICE float read_element(const ImageView& image, int64_t at) {
    using F = Fragments<M>;
    if (kIs16Bit<M> && image.wide == 0) return F::decode(static_cast<const typename F::S*>(image.data)[at]);
    return static_cast<const float*>(image.data)[at];
}

// What a lane holds of kRows rows of 16 pairs of pixels: columns 2t and 2t + 1 of the product's rows g and g + 8, a
// column being channels * (pixel of the pair) + channel. Requests base, to be there when the sums are complete.
template <Arithmetic M, int kRows>
struct ImageRows {
    using F = Fragments<M>;

    const ToImage& p;
    int image, y, x, rows, end;  // the first pair's first pixel; rows from there on; end of the columns
    float base[kRows][4];        // of value i of a row

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

    // Pixels from (height, width) on are outside the image, columns from `columns` on beyond the tile.
    LR_DEVICE ImageRows(const ToImage& params, int of_image, int top, int left, int64_t height, int64_t width,
                        int columns)
        : p(params),
          image(of_image),
          y(top),
          x(left),
          rows(static_cast<int>(height) - top),
          end(left + columns < width ? left + columns : static_cast<int>(width)) {
        const int lane = lane_index_again();
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            int channel, column;
            const bool exists = locate(lane, i, channel, column);
            const int64_t from = offset(p.base.stride, image, channel, y, column);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q)
                base[q][i] = exists && q < rows ? read_element<M>(p.base, from + q * p.base.stride[2]) : 0.0f;
        }
    }
    LR_DEVICE void store(const float (&sum)[kRows][4]) const {
        const int lane = lane_index_again();
        LR_UNROLL
        for (int i = 0; i < 4; ++i) {
            int channel, column;
            if (!locate(lane, i, channel, column)) continue;
            const float bias = load_parameter(p.bias, channel);
            const int64_t to = offset(p.result_stride, image, channel, y, column);
            LR_UNROLL
            for (int q = 0; q < kRows; ++q) {
                if (q >= rows) break;
                const float result = sum[q][i] + bias + base[q][i];
                const int64_t at = to + q * p.result_stride[2];
                if (kIs16Bit<M> && p.base.wide == 0)
                    static_cast<typename F::S*>(p.result)[at] = F::encode(result);
                else
                    static_cast<float*>(p.result)[at] = result;
            }
        }
    }
};

}  // namespace learned_resizer
