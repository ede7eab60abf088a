// Arguments that the convolution, the head and the trunk share.
#pragma once

#include <string>

#include "arguments.h"
#include "common/prologue.h"
#include "common/to_image.h"

namespace learned_resizer {

struct Size {
    int64_t batch, height, width;
    static Size from(const Value& value) {
        using Positive = Within<int64_t, 1>;
        const auto [batch, height, width] = unpack<Positive, Positive, Positive>(value, "(batch, height, width)");
        if (width > kMostWidth)
            value.refuse("a width of " + std::to_string(width),
                         "at most " + std::to_string(kMostWidth) + " on the native kernels");
        return {batch, height, width};
    }
};
inline void set_size(PrologueParams& params, const Size& size, int filters) {
    params.batch = size.batch, params.height = size.height, params.width = size.width;
    params.filters = filters;
}

template <>
struct From<PrologueParams> {
    static PrologueParams from(const Value& value) {
        const auto [input, norm, skip, skip_norm, negative_slope] =
            unpack<Features, Norm, Optional<void, 16>, Norm, float>(value,
                                                                    "(input, norm, skip, skip_norm, negative_slope)");
        PrologueParams params{};
        params.input = input, params.norm = norm, params.skip = skip, params.skip_norm = skip_norm;
        params.negative_slope = negative_slope;
        return params;
    }
};

struct PrologueGrads {
    void *grad_input, *earlier_input, *grad_skip, *earlier_skip;
    static PrologueGrads from(const Value& value) {
        using Maybe = Optional<void, 16>;
        return unpack_as<PrologueGrads, Features, Maybe, Maybe, Maybe>(
            value, "(grad_input, earlier_input, grad_skip, earlier_skip)");
    }
};
inline void set_grads(PrologueParams& params, const PrologueGrads& grads) {
    if ((grads.grad_skip != nullptr) != (params.skip != nullptr))
        throw std::invalid_argument("grad_skip: expected an address where there is a skip and 0 elsewhere");
    params.grad_input = grads.grad_input, params.earlier_input = grads.earlier_input;
    params.grad_skip = grads.grad_skip, params.earlier_skip = grads.earlier_skip;
}

// wide: float32 rather than the arithmetic's type
template <>
struct From<ImageView> {
    static ImageView from(const Value& value) {
        const auto [at, strides, wide] = unpack<uintptr_t, Strides<4>, bool>(value, "(address, strides, wide)");
        ImageView image{checked(value, at, wide ? 4 : 2), {}, wide};
        copy(strides, image.stride);
        return image;
    }
};
using Channels = Within<int, 1, kImageChannels>;

inline void set_result(ToImage& params, const Vector& bias, const ImageView& base, Pointer<void, 2> result,
                       const Strides<4>& strides) {
    params.bias = bias, params.base = base, params.result = result;
    if (base.wide) check_address("result", reinterpret_cast<uintptr_t>(result.at), 4);
    copy(strides, params.result_stride);
}

}  // namespace learned_resizer
