// Resampling of bytes in Pillow's fixed-point arithmetic, along the rows and then down the columns:
//
//   b[i, x] = clip((sum_j W[x, j] in[i, j] + 2^21) >> 22)
//   y[o, x] = clip((sum_i H[o, i]  b[i, x] + 2^21) >> 22)
//
// W and H are whole numbers, weights times 2^22; clip is to 0 ... 255. A row of weights sums to 2^22, and its
// magnitudes to less than 2 * 2^22: every partial sum fits into an int32, so the result does not depend on the order of
// the terms.
//
// Columns first is the same kernel with rows and columns exchanged in the tables and strides.
//
// A thread owns one output column of one channel, in a strip of output rows. It filters kFixedRows image rows at a time
// along the row, reading them from global memory, and adds the bytes to the sums of the output rows that read them.
// These are in shared memory, one bank a lane. No thread reads what another wrote: there are no barriers.
#pragma once

#include "common/device.cuh"
#include "resample_fixed/resample_fixed.h"

namespace learned_resizer {

constexpr int32_t kFixedHalf = 1 << (kFixedBits - 1);

LR_DEVICE int32_t fixed_to_byte(int32_t sum) {
    const int32_t y = sum >> kFixedBits;
    return y < 0 ? 0 : y > 255 ? 255 : y;
}

// kStep: elements between two image columns if known, else 0.
template <int kStep>
struct ResampleFixed {
    const ResampleFixedParams& p;
    int32_t* sums;  // [strip_rows][threads], from this thread's column

    LR_DEVICE explicit ResampleFixed(const ResampleFixedParams& params)
        : p(params), sums(reinterpret_cast<int32_t*>(dynamic_shared()) + thread_index()) {}

    // Bytes of the group's rows after the horizontal filter.
    // first: the first tap in row 0 of the image. weight: [ceil(taps / 4)], out_width apart.
    LR_DEVICE void filter_columns(const uint8_t* first, const FourWeights* weight, const RowGroup& group,
                                  int32_t (&byte)[kFixedRows]) const {
        const int64_t step = kStep > 0 ? kStep : p.image_stride.column;
        const uint8_t* row[kFixedRows];
        LR_UNROLL
        for (int r = 0; r < kFixedRows; ++r) {
            row[r] = first + group.row[r] * p.image_stride.row;
            byte[r] = kFixedHalf;
        }
        LR_NO_UNROLL
        for (int tap = 0; tap < p.taps; tap += 4) {
            const FourWeights w = load_element(weight);
            weight += p.out_width;
            LR_UNROLL
            for (int t = 0; t < 4; ++t) {
                if (tap + t >= p.taps) break;
                LR_UNROLL
                for (int r = 0; r < kFixedRows; ++r) byte[r] += w.weight[t] * load_element(row[r] + t * step);
            }
            LR_UNROLL
            for (int r = 0; r < kFixedRows; ++r) row[r] += 4 * step;
        }
        LR_UNROLL
        for (int r = 0; r < kFixedRows; ++r) byte[r] = fixed_to_byte(byte[r]);
    }

    // column: of all planes' output rows laid side by side, channels interleaved.
    LR_DEVICE void run(int64_t column, int64_t strip) const {
        // Remainders by multiplication: of / and % the compiler makes two divisions.
        const int64_t pixel = column / p.channels, channel = column - pixel * p.channels;
        const int64_t plane = pixel / p.out_width, x = pixel - plane * p.out_width;
        const int64_t image = plane / p.planes_per_image, in_image = plane - image * p.planes_per_image;
        const auto offset = [&](const FixedStrides& stride) {
            return image * stride.image + in_image * stride.plane + channel * stride.channel;
        };
        const int64_t top = strip * p.strip_rows;
        const int rows = static_cast<int>(p.out_height - top < p.strip_rows ? p.out_height - top : p.strip_rows);
        LR_NO_UNROLL
        for (int o = 0; o < rows; ++o) sums[o * kFixedThreads] = kFixedHalf;

        const uint8_t* first = p.image + offset(p.image_stride) + load_element(p.start + x) * p.image_stride.column;
        const int32_t end = load_element(p.strip_begin + strip + 1);
        LR_NO_UNROLL
        for (int32_t g = load_element(p.strip_begin + strip); g < end; ++g) {
            const RowGroup group = p.group[g];
            int32_t byte[kFixedRows];
            filter_columns(first, p.weight + x, group, byte);
            const FourWeights* weights = p.row_weight + group.weight;
            int32_t* sum = sums + group.first * kFixedThreads;
            LR_UNROLL_BY(2)
            for (int o = 0; o < group.count; ++o) {
                const FourWeights w = load_element(weights++);
                LR_UNROLL
                for (int r = 0; r < kFixedRows; ++r) *sum += w.weight[r] * byte[r];
                sum += kFixedThreads;
            }
        }

        uint8_t* out = p.output + offset(p.output_stride) + top * p.output_stride.row + x * p.output_stride.column;
        LR_NO_UNROLL
        for (int o = 0; o < rows; ++o) {
            *out = static_cast<uint8_t>(fixed_to_byte(sums[o * kFixedThreads]));
            out += p.output_stride.row;
        }
    }
};

inline int64_t fixed_strips(const ResampleFixedParams& p) { return (p.out_height + p.strip_rows - 1) / p.strip_rows; }
inline int64_t fixed_columns(const ResampleFixedParams& p) { return p.planes * p.out_width * p.channels; }
inline int64_t fixed_blocks(const ResampleFixedParams& p) {
    return (fixed_columns(p) + kFixedThreads - 1) / kFixedThreads * fixed_strips(p);
}
inline int fixed_shared_bytes(const ResampleFixedParams& p) {
    return p.strip_rows * kFixedThreads * static_cast<int>(sizeof(int32_t));
}

// Blocks that follow each other are strips of the same columns: they share rows in the L2.
template <int kStep>
LR_KERNEL(kFixedThreads)
resample_fixed_kernel(const ResampleFixedParams p, int64_t blocks, int64_t strips) {
    const ResampleFixed<kStep> resample(p);
    const int64_t columns = p.planes * p.out_width * p.channels;
    for (int64_t block = block_index(); block < blocks; block += block_count()) {
        const int64_t group = block / strips, column = group * kFixedThreads + thread_index();
        if (column < columns) resample.run(column, block - group * strips);
    }
}

// Calls use(kernel) with the instance for these strides.
template <class Use>
void with_resample_fixed_kernel(const ResampleFixedParams& p, const Use& use) {
    if (p.image_stride.column == 1)
        use(resample_fixed_kernel<1>);
    else if (p.image_stride.column == 3)
        use(resample_fixed_kernel<3>);
    else
        use(resample_fixed_kernel<0>);
}

}  // namespace learned_resizer
