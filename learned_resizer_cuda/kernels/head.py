"""Launchers of the native head (csrc/core/head/head.cuh) on CUDA tensors.

For up to 32 filters; features have 16 or 32 channels, those beyond the filters zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.head import Head, HeadBackward
from ..ops.prologue import PrologueGrads
from . import arguments, device, native, prologue, reduce


def head(a: Head) -> Tensor:
    """The stage ``head``: one launch.

    Args:
        a: features float32, float16 or bfloat16; weight, bias and the norms' vectors of any of these, rounded to the
            features' arithmetic as they load; base of the features' dtype or float32.

    Returns:
        ``(B, C, h, w)`` in the dtype and layout of base. Bitwise reproducible.

    Raises:
        TypeError: for a base of another dtype.
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    given, weight, bias, base = a
    filters, gpu, size = weight.shape[1], base.device, arguments.size(base)
    features = given.input.dtype
    name = arguments.arithmetic(features)
    out = torch.empty_like(base)
    native.load().head(
        size,
        prologue.pack(*given),
        weight.shape[0],
        arguments.weight(weight),
        arguments.vector(bias),
        arguments.image("base", base, features),
        out.data_ptr(),
        out.stride(),
        arguments.blocks("head", False, size, name, filters, device.multiprocessors(gpu)),
        name,
        filters,
        *device.place(gpu),
    )
    return out


def head_backward(a: HeadBackward) -> tuple[PrologueGrads, Tensor, Tensor]:
    """The stage ``head_backward``: one launch, and one more for the sums.

    Returns:
        The prologue's gradients, the weight's and the bias's, each in its own dtype. Bitwise reproducible on devices of
        one kind; no atomics.

    Raises:
        TypeError: for a gradient that is neither of the features' dtype nor float32.
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    grad, given, weight, bias, skip_grad = a
    channels, filters, gpu, size = weight.shape[0], weight.shape[1], grad.device, arguments.size(grad)
    features, place = given.input.dtype, device.place(gpu)
    name = arguments.arithmetic(features)
    blocks = arguments.blocks("head", True, size, name, filters, device.multiprocessors(gpu))
    grads, addresses, sums = prologue.empty_grads(given, filters, None, skip_grad)
    elements = 49 * channels * filters + channels + 3 * filters
    partials = torch.empty(blocks, elements, dtype=torch.float32, device=gpu)
    native.load().head_backward(
        size,
        prologue.pack(*given),
        addresses,
        channels,
        arguments.weight(weight),
        arguments.image("grad", grad, features),
        partials.data_ptr(),
        blocks,
        name,
        filters,
        *place,
    )
    grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(bias)
    reduce.gradients(partials, (grad_weight, grad_bias), sums, place)
    return grads, grad_weight, grad_bias
