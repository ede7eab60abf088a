"""Launchers of the native 3×3 convolution (csrc/core/conv/conv.cuh) on CUDA tensors.

For up to 32 filters; features have 16 or 32 channels, those beyond the filters zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.conv import Conv, ConvBackward
from ..ops.prologue import PrologueGrads
from . import arguments, device, native, prologue, reduce


def conv(a: Conv, raw: Tensor, statistics: Tensor | None) -> None:
    """The stage ``conv``: one launch, and one more for the statistics.

    Args:
        a: features float32, float16 or bfloat16; the weight and the norms' vectors of any of these, rounded to the
            features' arithmetic as they load.
        raw: for the result, channels_last, of the features' shape and dtype.
        statistics: ``(3, filters)`` float32, for mean, biased and unbiased variance of ``raw``. Bitwise reproducible on
            devices of one kind.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    filters, gpu, size = a.weight.shape[0], raw.device, arguments.size(raw)
    name, place = arguments.arithmetic(raw.dtype), device.place(gpu)
    blocks = arguments.blocks("conv", False, size, name, filters, device.multiprocessors(gpu))
    moments = None
    if statistics is not None:
        moments = torch.empty(blocks, 3, filters, dtype=torch.float32, device=gpu)
    native.load().conv(
        size,
        prologue.pack(*a.prologue),
        arguments.weight(a.weight),
        raw.data_ptr(),
        arguments.pointer(moments),
        blocks,
        name,
        filters,
        *place,
    )
    if moments is not None and statistics is not None:
        reduce.statistics(moments, statistics, place)


def conv_backward(a: ConvBackward) -> tuple[PrologueGrads, Tensor]:
    """The stage ``conv_backward``: one launch, and one more for the sums.

    Returns:
        The prologue's gradients and the weight's, each in its own dtype. Bitwise reproducible on devices of one kind;
        no atomics.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    given, weight = a.forward
    filters, gpu, size = weight.shape[0], a.raw.device, arguments.size(a.raw)
    name, place = arguments.arithmetic(a.raw.dtype), device.place(gpu)
    blocks = arguments.blocks("conv", True, size, name, filters, device.multiprocessors(gpu))
    grads, addresses, sums = prologue.empty_grads(given, filters, a.input_grad, a.skip_grad)
    partials = torch.empty(blocks, (9 * filters + 3) * filters, dtype=torch.float32, device=gpu)
    s = a.statistics_grad
    native.load().conv_backward(
        size,
        prologue.pack(*given),
        addresses,
        arguments.weight(weight),
        a.grad_raw.data_ptr(),
        a.raw.data_ptr(),
        s and (s.mean.data_ptr(), s.grad_mean.data_ptr(), s.grad_var.data_ptr(), s.pixels),
        partials.data_ptr(),
        blocks,
        name,
        filters,
        *place,
    )
    grad_weight = torch.empty_like(weight)
    reduce.gradients(partials, (grad_weight,), sums, place)
    return grads, grad_weight
