// The second stage of reductions for Python: launches on raw pointers.
#include "reduce/reduce.h"

#include "arguments.h"
#include "registration.h"

namespace learned_resizer {

template <>
struct From<GradientVector> {
    static GradientVector from(const Value& value) {
        const Vector vector = value.as<Vector>();
        return {const_cast<void*>(vector.data), vector.dtype};
    }
};

// Of at most 4 dimensions.
template <>
struct From<GradientTensor> {
    static GradientTensor from(const Value& value) {
        const auto [at, dtype, shape, strides] = unpack<uintptr_t, DType, std::vector<int32_t>, std::vector<int64_t>>(
            value, "(address, dtype, shape, strides)");
        if (shape.size() > 4 || strides.size() != shape.size())
            value.refuse(std::to_string(shape.size()) + " sizes and " + std::to_string(strides.size()) + " strides",
                         "as many, at most 4");
        GradientTensor tensor{checked(value, at, alignment_of(dtype)), dtype, {1, 1, 1, 1}, {}, 1};
        for (size_t i = 0; i < shape.size(); ++i) {
            tensor.size[i] = shape[i];
            tensor.elements *= shape[i];
            tensor.stride[i] = strides[i];
        }
        return tensor;
    }
};

}  // namespace learned_resizer

namespace {

using namespace learned_resizer;

struct NormGrads {
    float *mean, *var;
    GradientVector gamma, beta;
    static NormGrads from(const Value& value) {
        return unpack_as<NormGrads, Pointer<float>, Pointer<float>, GradientVector, GradientVector>(
            value, "(grad_mean, grad_var, grad_gamma, grad_beta)");
    }
};

void check_filters(int filters, int channels) {
    if (filters < 1 || filters > channels)
        throw std::invalid_argument("filters: got " + std::to_string(filters) + "; expected 1 to " +
                                    std::to_string(channels));
}

// norm_grad: read only with a norm
struct Sums : PrologueSumsParams {
    static Sums from(const Value& value) {
        using Floats = Optional<float>;
        const auto [channels, filters, norm, norm_grad, input_before, skip_sums, skip_before] =
            unpack<int, int, Norm, std::optional<NormGrads>, Floats, Floats, Floats>(
                value, "(channels, filters, norm, norm_grad, input_before, skip_sums, skip_before) or None");
        check_filters(filters, channels);
        Sums sums{};
        sums.channels = channels, sums.filters = filters, sums.norm = norm;
        if (norm.mean.data != nullptr) {
            if (!norm_grad) throw std::invalid_argument("norm_grad: got None; expected the gradients of the norm");
            sums.grad_mean = norm_grad->mean, sums.grad_var = norm_grad->var;
            sums.grad_gamma = norm_grad->gamma, sums.grad_beta = norm_grad->beta;
            sums.input_before = input_before;
        }
        sums.skip_sums = skip_sums, sums.skip_before = skip_before;
        return sums;
    }
};

void statistics(Pointer<float> partials, int rows, int channels, int filters, Pointer<float> out, int device,
                Stream stream) {
    check_filters(filters, channels);
    check_launch("reduce_statistics",
                 launch_reduce_statistics({partials, rows, channels, filters, out}, device, stream), device);
}

void gradients(Pointer<float> partials, int rows, int64_t pitch, const std::vector<GradientTensor>& tensors,
               const std::optional<Sums>& prologue, int device, Stream stream) {
    if (tensors.size() > kReduceTensors)
        throw std::invalid_argument("tensors: got " + std::to_string(tensors.size()) + "; expected at most " +
                                    std::to_string(kReduceTensors));
    ReduceGradientsParams params{};
    params.partials = partials, params.rows = rows, params.pitch = pitch;
    params.tensors = static_cast<int>(tensors.size());
    std::copy(tensors.begin(), tensors.end(), params.tensor);
    if (prologue) params.prologue = *prologue;
    int64_t needed = 3 * params.prologue.channels;
    for (const GradientTensor& tensor : tensors) needed += tensor.elements;
    if (needed > pitch)
        throw std::invalid_argument("partials: got rows of " + std::to_string(pitch) + " elements; expected at least " +
                                    std::to_string(needed));
    check_launch("reduce_gradients", launch_reduce_gradients(params, device, stream), device);
}

// momenta: below 0 for 1 / batches; places: of each norm's rows in `statistics`
void running_statistics(const std::vector<GradientVector>& means, const std::vector<GradientVector>& variances,
                        const std::vector<Pointer<int64_t>>& batches, const std::vector<float>& momenta,
                        const std::vector<int64_t>& places, Pointer<float> statistics, int64_t norm_stride,
                        int64_t row_stride, int filters, int device, Stream stream) {
    const size_t norms = means.size();
    if (variances.size() != norms || batches.size() != norms || momenta.size() != norms || places.size() != norms)
        throw std::invalid_argument("means: got " + std::to_string(norms) + "; expected as many of everything else");
    RunningStatisticsParams params{};
    params.row_stride = row_stride, params.filters = filters;
    for (size_t i = 0; i < norms; ++i) {
        params.norm[params.norms++] = {means[i], variances[i], batches[i], momenta[i],
                                       statistics + places[i] * norm_stride};
        if (params.norms < kRunningNorms && i + 1 < norms) continue;
        check_launch("running_statistics", launch_running_statistics(params, device, stream), device);
        params.norms = 0;
    }
}

}  // namespace

void bind_reduce(PyObject* module) {
    add_function<&statistics>(module, "reduce_statistics", "partials, rows, channels, filters, out, device, stream",
                              "Launch the merge of blocks' statistics; partials and out are device addresses.");
    add_function<&gradients>(module, "reduce_gradients", "partials, rows, pitch, tensors, prologue, device, stream",
                             "Launch the sums of blocks' gradients.");
    add_function<&running_statistics>(module, "running_statistics",
                                      "means, variances, batches, momenta, places, statistics, norm_stride, "
                                      "row_stride, filters, device, stream",
                                      "Launch the update of running statistics.");
}
