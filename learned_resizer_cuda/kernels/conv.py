"""Launchers of the native 3×3 convolution (csrc/core/conv/conv.cuh) on CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.conv import Conv, ConvBackward
from ..ops.layout import channels_last
from ..ops.prologue import empty_features
from . import device, native, reduce
from .arguments import PrologueArguments, addresses, dense32, prologue_grads


def conv(a: Conv) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``conv``: one launch, and one more for the statistics.

    Args:
        a: features ``(B, n, h, w)``, n 16 or 32, float32, float16 or bfloat16; the weight and the vectors of any
            float dtype, rounded to the features' arithmetic as they load.

    Returns:
        ``raw (B, n, h, w)``, channels_last, in the features' dtype; its mean and biased variance ``(n,)`` float32,
        empty without statistics. Bitwise reproducible on devices of one kind.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    prologue, weight, statistics = a
    p = PrologueArguments(prologue)
    n, gpu = p.num_filters, p.input.device
    raw = empty_features(p.input)
    mean, var = (torch.empty(n if statistics else 0, dtype=torch.float32, device=gpu) for _ in range(2))
    if raw.numel() == 0:
        return raw, mean.zero_(), var.zero_()
    module = native.load()
    blocks, _ = module.conv_needs(p.size, False, p.arithmetic, n, device.multiprocessors(gpu))
    moments = torch.empty(blocks, 3, n, dtype=torch.float32, device=gpu) if statistics else None
    (dense,) = dense32(weight)
    module.conv(
        p.size,
        p.pack(),
        dense.data_ptr(),
        raw.data_ptr(),
        0 if moments is None else moments.data_ptr(),
        blocks,
        *p.place(),
    )
    if moments is not None:
        with device.current(gpu):
            mean, var = reduce.merge_statistics(moments)
    return raw, mean, var


def conv_backward(a: ConvBackward) -> tuple[Tensor, ...]:
    """The op ``conv_backward``: one launch, and two more for the sums.

    Returns:
        The prologue's gradients and the weight's, each in its own dtype. Bitwise reproducible on devices of one kind;
        no atomics.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    prologue, weight, statistics = a.forward
    p = PrologueArguments(prologue)
    n, gpu = p.num_filters, p.input.device
    grads = p.empty_grads()
    parts = [weight.numel(), n, n, n]
    if p.input.numel() == 0:
        sums = torch.zeros(sum(parts), dtype=torch.float32, device=gpu)
    else:
        module = native.load()
        blocks, _ = module.conv_needs(p.size, True, p.arithmetic, n, device.multiprocessors(gpu))
        partials = torch.empty(blocks, sum(parts), dtype=torch.float32, device=gpu)
        features = [channels_last(t.to(p.input.dtype)) for t in (a.grad_raw, a.raw)]
        vectors = dense32(a.mean, a.grad_mean, a.grad_var) if statistics else []
        (dense,) = dense32(weight)
        module.conv_backward(
            p.size,
            p.pack(),
            tuple(0 if g is None else g.data_ptr() for g in grads),
            dense.data_ptr(),
            *addresses(features),
            addresses(vectors) or (0, 0, 0),
            partials.data_ptr(),
            blocks,
            *p.place(),
        )
        with device.current(gpu):
            sums = reduce.sum_rows(partials)
    grad_weight, *rest = reduce.take_apart(sums, parts)
    return *prologue_grads(rest, prologue, grads), grad_weight.view(weight.shape).to(weight.dtype)
