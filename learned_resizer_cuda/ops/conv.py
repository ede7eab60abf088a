"""``conv``: a 3×3 convolution without bias that a batch normalisation follows, with what surrounds it fused.

Forward, with the prologue of ``prologue.py``::

    v = prologue(input, …)
    raw = W * v                                   3×3, zero padding of v
    mean, var = mean and biased variance of raw over batch and pixels, M = B·h·w of them

Adjoint, for draw, dmean, dvar::

    g  = draw + dmean / M + 2 (raw - mean) / M · dvar
    dW = Σ g ⋆ v,   dv = Wᵀ * g,   then the prologue's adjoint
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import prologue
from .layout import channels_last, maps, rows
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import choose
from .parallel import map_in_order
from .prologue import Prologue, PrologueGrads
from .statistics import Statistics, accumulation_dtype, add_statistics_grad


def _conv(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    p, (weight, statistics) = Prologue(*args[:7]), args[7:]
    batch, _, height, width = p.input.shape
    n = len(weight)
    raw = p.input.new_empty(batch, height, width * n)
    kernel = channels_last(weight)

    def work(group: slice) -> Statistics:
        out = channels_last(F.conv2d(p.apply(group).to(weight.dtype), kernel, padding=1))
        seen = Statistics(n, p.dtype, raw.device)
        if statistics:
            seen.add(out.to(p.dtype))
        raw[group] = rows(out)
        return seen

    moments = Statistics(n, p.dtype, raw.device)
    for seen in map_in_order(work, p.groups(), raw.device):
        moments.merge(seen)
    return maps(raw, n), *moments.result(statistics)


def _conv_backward(
    grad_raw: Tensor, grad_mean: Tensor, grad_var: Tensor, raw: Tensor, mean: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    p, (weight, statistics) = Prologue(*args[:7]), args[7:]
    grads = PrologueGrads(p)
    kernel = channels_last(weight).to(p.dtype)
    pixels = raw.shape[0] * raw.shape[2] * raw.shape[3]

    def work(group: slice) -> tuple[Tensor, Tensor]:
        v = p.apply(group)
        g = channels_last(grad_raw[group]).to(p.dtype)
        if statistics:
            g = add_statistics_grad(g, raw[group].to(p.dtype), mean, grad_mean, grad_var, pixels)
        grad_v, grad_kernel, _ = torch.ops.aten.convolution_backward(
            g, v, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return grads.add(group, v, grad_v), grad_kernel

    done = map_in_order(work, p.groups(), raw.device)
    grad_weight = sum((part for _, part in done), torch.zeros_like(kernel))
    return *grads.result([part for part, _ in done]), grad_weight.contiguous().to(weight.dtype)


def _conv_cuda(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    if choose("conv", args[0], args[7]) == "torch":
        return _conv(*args)
    from ..kernels import conv as kernel

    return kernel.conv(*args)


def _conv_backward_cuda(*args: Any) -> tuple[Tensor, ...]:
    if choose("conv_backward", args[5], args[12]) == "torch":
        return _conv_backward(*args)
    from ..kernels import conv as kernel

    return kernel.conv_backward(*args)


def _fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    p, (weight, statistics) = Prologue(*args[:7]), args[7:]
    batch, _, height, width = p.input.shape
    raw = p.input.new_empty(batch, height, width, weight.shape[0]).permute(0, 3, 1, 2)
    vector = torch.empty(
        weight.shape[0] if statistics else 0, dtype=accumulation_dtype(p.input.dtype), device=raw.device
    )
    return raw, vector, torch.empty_like(vector)


def _fake_backward(
    grad_raw: Tensor, grad_mean: Tensor, grad_var: Tensor, raw: Tensor, mean: Tensor, *args: Any
) -> tuple[Tensor, ...]:
    weight = args[7]
    return *Prologue(*args[:7]).fake_grads(), torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, negative_slope, weight, statistics = inputs
    ctx.save_for_backward(output[0], output[1], *tensors, weight)
    ctx.negative_slope, ctx.statistics = negative_slope, statistics


def _autograd(ctx: Any, grad_raw: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, weight = ctx.saved_tensors
    *grads, grad_weight = torch.ops.learned_resizer.conv_backward(
        grad_raw, grad_mean, grad_var, *tensors, ctx.negative_slope, weight, ctx.statistics
    )
    return *prologue.autograd_result(tensors[5] is not None, grads), grad_weight, None


def _autocast(dtype: torch.dtype, *args: Any) -> tuple[Any, ...]:
    return *prologue.autocast(dtype, args), prologue.cast(dtype, args[7]), args[8]


define(
    f"conv({prologue.SCHEMA}, Tensor weight, bool statistics) -> (Tensor, Tensor, Tensor)",
    cpu=_conv,
    cuda=_conv_cuda,
    fake=_fake,
)
define(
    f"conv_backward(Tensor grad_raw, Tensor grad_mean, Tensor grad_var, Tensor raw, Tensor mean, {prologue.SCHEMA}, "
    f"Tensor weight, bool statistics) -> {prologue.GRADS}, Tensor)",
    cpu=_conv_backward,
    cuda=_conv_backward_cuda,
    fake=_fake_backward,
)
register_autograd("conv", _autograd, _setup_context)
register_no_second_derivative("conv_backward")
register_autocast("conv", _autocast)
register_autocast("conv_backward")
