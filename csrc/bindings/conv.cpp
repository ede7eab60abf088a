// The 3x3 convolution's kernels for Python: launches on raw pointers.
#include "conv/conv.h"

#include <utility>

#include "prologue_arguments.h"
#include "registration.h"

namespace {

using namespace learned_resizer;

std::pair<int64_t, int> needs(const Size& size, bool backward, Arithmetic arithmetic, Filters num_filters,
                              int multiprocessors) {
    ConvParams params{};
    set_size(params.prologue, size, num_filters);
    const Needs found =
        conv_needs(params, backward ? ConvKernel::kBackward : ConvKernel::kForward, arithmetic, multiprocessors);
    return {found.blocks, found.shared_bytes};
}

ConvParams common(const Size& size, const PrologueParams& prologue, const Weight& weight, int64_t blocks,
                  int num_filters) {
    ConvParams params{};
    params.prologue = prologue;
    set_size(params.prologue, size, num_filters);
    params.weight = weight;
    params.blocks = blocks;
    return params;
}

void conv(const Size& size, const PrologueParams& prologue, const Weight& weight, Features raw, Optional<float> moments,
          int64_t blocks, Arithmetic arithmetic, Filters num_filters, int device, Stream stream) {
    ConvParams params = common(size, prologue, weight, blocks, num_filters);
    params.raw = raw;
    params.moments = moments;
    check_launch("conv", launch_conv(params, ConvKernel::kForward, arithmetic, device, stream), device);
}

void conv_backward(const Size& size, const PrologueParams& prologue, const PrologueGrads& grads, const Weight& weight,
                   Features grad_raw, Features raw, const std::optional<Statistics>& statistics,
                   Pointer<float> partials, int64_t blocks, Arithmetic arithmetic, Filters num_filters, int device,
                   Stream stream) {
    ConvParams params = common(size, prologue, weight, blocks, num_filters);
    set_grads(params.prologue, grads);
    params.grad_raw = grad_raw;
    params.raw = raw;
    set_statistics(params, statistics);
    params.partials = partials;
    check_launch("conv_backward", launch_conv(params, ConvKernel::kBackward, arithmetic, device, stream), device);
}

}  // namespace

void bind_conv(PyObject* module) {
    add_function<&needs>(
        module, "conv_needs", "size, backward, arithmetic, num_filters, multiprocessors",
        "Blocks to launch, which are the rows of the partial results, and shared memory of a block in bytes.");
    add_function<&conv>(module, "conv",
                        "size, prologue, weight, raw, moments, blocks, arithmetic, num_filters, device, stream",
                        "Launch the forward; addresses are device pointers, moments may be 0.");
    add_function<&conv_backward>(module, "conv_backward",
                                 "size, prologue, grads, weight, grad_raw, raw, statistics, partials, blocks, "
                                 "arithmetic, num_filters, device, stream",
                                 "Launch the backward.");
}
