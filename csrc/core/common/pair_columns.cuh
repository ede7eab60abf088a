// The result of a product whose rows are pairs of neighbouring pixels and whose columns are the pair's 2 C channels: a
// convolution to the few channels of an image fills 6 of 8 columns that way, not 3.
#pragma once

#include "common/fragment.cuh"
#include "common/parameter.cuh"

namespace learned_resizer {

// The two columns that a lane holds: column channels * pixel + channel.
struct PairColumns {
    int pixel[2], channel[2];
    bool exists[2];

    LR_DEVICE explicit PairColumns(int channels) {
        LR_UNROLL
        for (int i = 0; i < 2; ++i) {
            const int column = lane_index() % 4 * 2 + i;
            exists[i] = column < 2 * channels;
            pixel[i] = column >= channels ? 1 : 0;
            channel[i] = exists[i] ? column - pixel[i] * channels : 0;
        }
    }
};

// Weight of column `column` and tap (dy, dx), dx being counted from the pair's first pixel, 0 ... 7; 0 where a pixel
// lacks the tap, and beyond the filters. `weight`: [channels][filters][7][7].
LR_DEVICE float pair_weight(const Weight& weight, int channels, int filters, int column, int from, int dy, int dx) {
    const int pixel = column >= channels ? 1 : 0, c = column - pixel * channels, x = dx - pixel;
    if (column >= 2 * channels || from >= filters || x < 0 || x > 6) return 0.0f;
    return load_weight(weight, c, from, dy, x);
}

}  // namespace learned_resizer
