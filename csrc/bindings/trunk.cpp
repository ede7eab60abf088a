// The trunk's kernels for Python: launches on raw pointers.
#include "trunk/trunk.h"

#include "prologue_arguments.h"
#include "registration.h"

namespace {

using namespace learned_resizer;

using OfTrunk = Within<int, 1, kTrunkFilters>;

// prologue: as of conv, its slope being that between the two convolutions
TrunkParams common(const Size& size, const PrologueParams& prologue, const Weight& weight1, const Norm& norm1,
                   int num_filters) {
    TrunkParams params{};
    params.prologue = prologue;
    set_size(params.prologue, size, num_filters);
    params.negative_slope = prologue.negative_slope;
    params.prologue.negative_slope = 1.0f;
    params.weight1 = weight1;
    params.norm1 = norm1;
    return params;
}

void trunk_block(const Size& size, const PrologueParams& prologue, const Weight& weight1, const Norm& norm1,
                 const Weight& weight2, Features output, bool bfloat16, OfTrunk num_filters, int multiprocessors,
                 int device, Stream stream) {
    TrunkParams params = common(size, prologue, weight1, norm1, num_filters);
    params.weight2 = weight2;
    params.output = output;
    check_launch("trunk_block", launch_trunk(params, TrunkKernel::kBlock, bfloat16, multiprocessors, device, stream),
                 device);
}

void trunk_tail(const Size& size, const PrologueParams& prologue, const Weight& weight1, const Norm& norm1,
                Channels channels, const Weight& weight, const Vector& bias, const ImageView& base,
                Pointer<void, 2> result, const Strides<4>& result_strides, bool bfloat16, OfTrunk num_filters,
                int multiprocessors, int device, Stream stream) {
    TrunkParams params = common(size, prologue, weight1, norm1, num_filters);
    if (params.prologue.skip == nullptr) throw std::invalid_argument("skip: got none; expected the feature skip");
    params.channels = channels;
    params.weight = weight;
    set_result(params, bias, base, result, result_strides);
    check_launch("trunk_tail", launch_trunk(params, TrunkKernel::kTail, bfloat16, multiprocessors, device, stream),
                 device);
}

}  // namespace

void bind_trunk(PyObject* module) {
    add_function<&trunk_block>(module, "trunk_block",
                               "size, prologue, weight1, norm1, weight2, output, bfloat16, num_filters, "
                               "multiprocessors, device, stream",
                               "Launch two 3x3 convolutions; arguments as TrunkParams in trunk.h.");
    add_function<&trunk_tail>(module, "trunk_tail",
                              "size, prologue, weight1, norm1, channels, weight, bias, base, result, result_strides, "
                              "bfloat16, num_filters, multiprocessors, device, stream",
                              "Launch a 3x3 and the 7x7 convolution; arguments as TrunkParams in trunk.h.");
}
