// The second stage of reductions for Python: launches on raw pointers.
#include "reduce/reduce.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "arguments.h"

namespace py = pybind11;

namespace {

using namespace learned_resizer;

// A required address of float32.
float* float32(const char* name, uintptr_t value) {
    check_address(name, value, 4);
    return static_cast<float*>(address(value));
}
// Null for 0.
float* optional32(const char* name, const py::handle& value) {
    const auto at = value.cast<uintptr_t>();
    return at == 0 ? nullptr : float32(name, at);
}
GradientVector gradient(const char* name, const py::handle& value) {
    const Vector vector = parse_vector(name, value);
    return {const_cast<void*>(vector.data), vector.dtype};
}

// (address, dtype, shape, strides), of at most 4 dimensions
GradientTensor parse_tensor(const py::handle& value) {
    const auto parts = value.cast<py::tuple>();
    if (parts.size() != 4) throw py::value_error("tensors: expected (address, dtype, shape, strides)");
    const DType dtype = parse_parameter_dtype("tensors", parts[1].cast<int>());
    const auto at = parts[0].cast<uintptr_t>();
    check_address("tensors", at, dtype == DType::kFloat32 ? 4 : 2);
    const auto shape = parts[2].cast<py::tuple>(), strides = parts[3].cast<py::tuple>();
    if (shape.size() > 4 || strides.size() != shape.size())
        throw py::value_error("tensors: got " + std::to_string(shape.size()) + " sizes and " +
                              std::to_string(strides.size()) + " strides; expected as many, at most 4");
    GradientTensor tensor{address(at), dtype, {1, 1, 1, 1}, {}, 1};
    for (size_t i = 0; i < shape.size(); ++i) {
        tensor.size[i] = shape[i].cast<int32_t>();
        tensor.elements *= tensor.size[i];
        tensor.stride[i] = strides[i].cast<int64_t>();
    }
    return tensor;
}

// (channels, filters, norm, (grad_mean, grad_var, grad_gamma, grad_beta), input_before, skip_sums, skip_before): norm
// as in parse_norm, the parameters' gradients as in parse_vector, addresses elsewhere, 0 for what is not there.
PrologueSumsParams parse_sums(const py::handle& value) {
    PrologueSumsParams sums{};
    if (value.is_none()) return sums;
    const auto parts = value.cast<py::tuple>();
    if (parts.size() != 7)
        throw py::value_error(
            "prologue: expected (channels, filters, norm, norm_grad, input_before, skip_sums, skip_before) or None");
    sums.channels = parts[0].cast<int>(), sums.filters = parts[1].cast<int>();
    if (sums.filters < 1 || sums.filters > sums.channels)
        throw py::value_error("filters: got " + std::to_string(sums.filters) + "; expected 1 to " +
                              std::to_string(sums.channels));
    sums.norm = parse_norm("norm", parts[2]);
    if (sums.norm.mean.data != nullptr) {
        const auto grads = parts[3].cast<py::tuple>();
        if (grads.size() != 4) throw py::value_error("norm_grad: expected the gradients of mean, var, gamma and beta");
        sums.grad_mean = float32("grad_mean", grads[0].cast<uintptr_t>());
        sums.grad_var = float32("grad_var", grads[1].cast<uintptr_t>());
        sums.grad_gamma = gradient("grad_gamma", grads[2]), sums.grad_beta = gradient("grad_beta", grads[3]);
        sums.input_before = optional32("input_before", parts[4]);
    }
    sums.skip_sums = optional32("skip_sums", parts[5]), sums.skip_before = optional32("skip_before", parts[6]);
    return sums;
}

void statistics(uintptr_t partials, int rows, int channels, int filters, uintptr_t out, int device, uintptr_t stream) {
    if (filters < 1 || filters > channels)
        throw py::value_error("filters: got " + std::to_string(filters) + "; expected 1 to " +
                              std::to_string(channels));
    const ReduceStatisticsParams params{float32("partials", partials), rows, channels, filters, float32("out", out)};
    check_launch("reduce_statistics", launch_reduce_statistics(params, device, address(stream)), device);
}

void gradients(uintptr_t partials, int rows, int64_t pitch, const py::tuple& tensors, const py::object& prologue,
               int device, uintptr_t stream) {
    if (tensors.size() > kReduceTensors)
        throw py::value_error("tensors: got " + std::to_string(tensors.size()) + "; expected at most " +
                              std::to_string(kReduceTensors));
    ReduceGradientsParams params{};
    params.partials = float32("partials", partials), params.rows = rows, params.pitch = pitch;
    params.tensors = static_cast<int>(tensors.size());
    int64_t needed = 0;
    for (int i = 0; i < params.tensors; ++i) {
        params.tensor[i] = parse_tensor(tensors[i]);
        needed += params.tensor[i].elements;
    }
    params.prologue = parse_sums(prologue);
    needed += 3 * params.prologue.channels;
    if (needed > pitch)
        throw py::value_error("partials: got rows of " + std::to_string(pitch) + " elements; expected at least " +
                              std::to_string(needed));
    check_launch("reduce_gradients", launch_reduce_gradients(params, device, address(stream)), device);
}

// means, variances: of each norm (address, dtype); batches: addresses; momenta: below 0 for 1 / batches; places: of
// each norm's rows in `statistics`
void running_statistics(const py::tuple& means, const py::tuple& variances, const py::tuple& batches,
                        const std::vector<float>& momenta, const std::vector<int64_t>& places, uintptr_t statistics,
                        int64_t norm_stride, int64_t row_stride, int filters, int device, uintptr_t stream) {
    const size_t norms = means.size();
    if (variances.size() != norms || batches.size() != norms || momenta.size() != norms || places.size() != norms)
        throw py::value_error("means: got " + std::to_string(norms) + "; expected as many of everything else");
    const float* from = float32("statistics", statistics);
    RunningStatisticsParams params{};
    params.row_stride = row_stride, params.filters = filters;
    for (size_t i = 0; i < norms; ++i) {
        const auto tracked = batches[i].cast<uintptr_t>();
        check_address("batches", tracked, 8);
        params.norm[params.norms++] = {gradient("means", means[i]), gradient("variances", variances[i]),
                                       static_cast<int64_t*>(address(tracked)), momenta[i],
                                       from + places[i] * norm_stride};
        if (params.norms < kRunningNorms && i + 1 < norms) continue;
        check_launch("running_statistics", launch_running_statistics(params, device, address(stream)), device);
        params.norms = 0;
    }
}

}  // namespace

void bind_reduce(py::module_& module) {
    module.def("reduce_statistics", &statistics, py::arg("partials"), py::arg("rows"), py::arg("channels"),
               py::arg("filters"), py::arg("out"), py::arg("device"), py::arg("stream"),
               "Launch the merge of blocks' statistics; partials and out are device addresses.");
    module.def("reduce_gradients", &gradients, py::arg("partials"), py::arg("rows"), py::arg("pitch"),
               py::arg("tensors"), py::arg("prologue"), py::arg("device"), py::arg("stream"),
               "Launch the sums of blocks' gradients.");
    module.def("running_statistics", &running_statistics, py::arg("means"), py::arg("variances"), py::arg("batches"),
               py::arg("momenta"), py::arg("places"), py::arg("statistics"), py::arg("norm_stride"),
               py::arg("row_stride"), py::arg("filters"), py::arg("device"), py::arg("stream"),
               "Launch the update of running statistics.");
}
