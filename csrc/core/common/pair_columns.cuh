// The result of a product whose rows are pairs of neighbouring pixels and whose columns are the pair's 2 C channels: a
// convolution to the few channels of an image fills 6 of 8 columns that way, not 3.
#pragma once

#include "common/fragment.cuh"

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
// lacks the tap. `weight`: [channels][n][7][7].
LR_DEVICE float pair_weight(const float* weight, int channels, int n, int column, int from, int dy, int dx) {
    const int pixel = column >= channels ? 1 : 0, c = column - pixel * channels, x = dx - pixel;
    if (column >= 2 * channels || x < 0 || x > 6) return 0.0f;
    return weight[((c * n + from) * 7 + dy) * 7 + x];
}

}  // namespace learned_resizer
