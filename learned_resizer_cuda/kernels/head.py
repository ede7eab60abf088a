"""Launchers of the native head (csrc/core/head/head.cuh) on CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.head import Head, HeadBackward
from . import device, native, reduce
from .arguments import PrologueArguments, dense32, image, image_dtype, prologue_grads


def head(a: Head) -> Tensor:
    """The op ``head``: one launch.

    Args:
        a: features ``(B, n, h, w)``, n 16 or 32, float32, float16 or bfloat16; weight ``(C, n, 7, 7)`` with C up to 4,
            bias and vectors of any float dtype, rounded to the features' arithmetic as they load; base
            ``(B, C, h, w)`` of any strides.

    Returns:
        ``(B, C, h, w)`` in the dtype and layout of base. Bitwise reproducible.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    prologue, weight, bias, base = a
    p = PrologueArguments(prologue)
    given = base.to(image_dtype(base.dtype, p.input.dtype))
    out = torch.empty_like(given, memory_format=torch.preserve_format)
    if out.numel() == 0:
        return out.to(base.dtype)
    module = native.load()
    blocks, _ = module.head_needs(p.size, False, p.arithmetic, p.num_filters, device.multiprocessors(out.device))
    dense, dense_bias = dense32(weight, bias)
    module.head(
        p.size,
        p.pack(),
        len(weight),
        dense.data_ptr(),
        dense_bias.data_ptr(),
        image(given, p.input.dtype),
        out.data_ptr(),
        out.stride(),
        blocks,
        *p.place(),
    )
    return out.to(base.dtype)


def head_backward(a: HeadBackward) -> tuple[Tensor, ...]:
    """The op ``head_backward``: one launch, and two more for the sums.

    Returns:
        The prologue's gradients, the weight's and the bias's, each in its own dtype. Bitwise reproducible on devices of
        one kind; no atomics.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    grad, prologue, weight = a
    p = PrologueArguments(prologue)
    n, channels, gpu = p.num_filters, len(weight), p.input.device
    grads = p.empty_grads()
    parts = [weight.numel(), channels, n, n, n]
    if p.input.numel() == 0:
        sums = torch.zeros(sum(parts), dtype=torch.float32, device=gpu)
    else:
        module = native.load()
        blocks, _ = module.head_needs(p.size, True, p.arithmetic, n, device.multiprocessors(gpu))
        partials = torch.empty(blocks, sum(parts), dtype=torch.float32, device=gpu)
        given = grad.to(image_dtype(grad.dtype, p.input.dtype))
        (dense,) = dense32(weight)
        module.head_backward(
            p.size,
            p.pack(),
            tuple(0 if g is None else g.data_ptr() for g in grads),
            channels,
            dense.data_ptr(),
            image(given, p.input.dtype),
            partials.data_ptr(),
            blocks,
            *p.place(),
        )
        with device.current(gpu):
            sums = reduce.sum_rows(partials)
    grad_weight, grad_bias, *rest = reduce.take_apart(sums, parts)
    return (
        *prologue_grads(rest, prologue, grads),
        grad_weight.view(weight.shape).to(weight.dtype),
        grad_bias.to(weight.dtype),
    )
