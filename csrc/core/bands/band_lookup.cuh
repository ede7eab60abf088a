// Looking bands up on the device, from either side.
#pragma once

#include "bands/bands.h"
#include "common/device.cuh"

namespace learned_resizer {

// The first of `count` elements that do not decrease that is above `value`, or `count`. The transposed band of pixel i
// is outputs first_above(end, out, i) ... first_above(begin, out, i) - 1.
LR_DEVICE int32_t first_above(const int32_t* elements, int32_t count, int32_t value) {
    int32_t low = 0;
    while (low < count) {
        const int32_t middle = low + (count - low) / 2;
        if (elements[middle] > value)
            count = middle;
        else
            low = middle + 1;
    }
    return low;
}

// Weight of pixel i in output o, zero outside its band.
LR_DEVICE double band_weight(const Bands& bands, int32_t taps, int32_t o, int32_t i) {
    if (i < bands.begin[o] || i >= bands.end[o]) return 0.0;
    return bands.weight[int64_t{o} * taps + i - bands.begin[o]];
}

}  // namespace learned_resizer
