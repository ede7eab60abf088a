// The head's kernels for Python: launches on raw pointers.
#include "head/head.h"

#include <utility>

#include "prologue_arguments.h"
#include "registration.h"

namespace {

using namespace learned_resizer;

std::pair<int64_t, int> needs(const Size& size, bool backward, Arithmetic arithmetic, Filters num_filters,
                              int multiprocessors) {
    HeadParams params{};
    set_size(params.prologue, size, num_filters);
    const Needs found =
        head_needs(params, backward ? HeadKernel::kBackward : HeadKernel::kForward, arithmetic, multiprocessors);
    return {found.blocks, found.shared_bytes};
}

HeadParams common(const Size& size, const PrologueParams& prologue, int channels, const Weight& weight, int64_t blocks,
                  int num_filters) {
    HeadParams params{};
    params.prologue = prologue;
    set_size(params.prologue, size, num_filters);
    params.channels = channels;
    params.weight = weight;
    params.blocks = blocks;
    return params;
}

void head(const Size& size, const PrologueParams& prologue, Channels channels, const Weight& weight, const Vector& bias,
          const ImageView& base, Pointer<void, 2> result, const Strides<4>& result_strides, int64_t blocks,
          Arithmetic arithmetic, Filters num_filters, int device, Stream stream) {
    HeadParams params = common(size, prologue, channels, weight, blocks, num_filters);
    set_result(params, bias, base, result, result_strides);
    check_launch("head", launch_head(params, HeadKernel::kForward, arithmetic, device, stream), device);
}

void head_backward(const Size& size, const PrologueParams& prologue, const PrologueGrads& grads, Channels channels,
                   const Weight& weight, const ImageView& grad, Pointer<float> partials, int64_t blocks,
                   Arithmetic arithmetic, Filters num_filters, int device, Stream stream) {
    HeadParams params = common(size, prologue, channels, weight, blocks, num_filters);
    set_grads(params.prologue, grads);
    params.grad = grad;
    params.partials = partials;
    check_launch("head_backward", launch_head(params, HeadKernel::kBackward, arithmetic, device, stream), device);
}

}  // namespace

void bind_head(PyObject* module) {
    add_function<&needs>(
        module, "head_needs", "size, backward, arithmetic, num_filters, multiprocessors",
        "Blocks to launch, which are the rows of the partial results, and shared memory of a block in bytes.");
    add_function<&head>(module, "head",
                        "size, prologue, channels, weight, bias, base, result, result_strides, blocks, arithmetic, "
                        "num_filters, device, stream",
                        "Launch the forward; the result has base's dtype.");
    add_function<&head_backward>(module, "head_backward",
                                 "size, prologue, grads, channels, weight, grad, partials, blocks, arithmetic, "
                                 "num_filters, device, stream",
                                 "Launch the backward.");
}
