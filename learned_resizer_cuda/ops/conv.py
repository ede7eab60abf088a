"""``conv``: 3×3 convolution without bias, fused with its prologue and output statistics.

Forward, with the prologue of ``prologue.py``::

    v = prologue(input, …)
    raw = W * v                                   3×3, zero padding of v
    mean, var = mean and biased variance of raw over batch and pixels, M = B·h·w of them

Adjoint, for draw, dmean, dvar::

    g  = draw + dmean / M + 2 (raw - mean) / M · dvar
    dW = Σ g ⋆ v,   dv = Wᵀ * g,   then the prologue's adjoint
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import channels_last, maps, rows
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import choose
from .parallel import map_in_order
from .prologue import Prologue, PrologueGrads, cast
from .statistics import Statistics, add_statistics_grad


class Conv(NamedTuple):
    """Arguments of ``conv``."""

    prologue: Prologue
    weight: Tensor  # (filters, n, 3, 3)
    statistics: bool


class ConvBackward(NamedTuple):
    """Arguments of ``conv_backward``: gradients, two results and arguments of the forward call."""

    grad_raw: Tensor
    grad_mean: Tensor
    grad_var: Tensor
    raw: Tensor
    mean: Tensor
    forward: Conv


def _conv(a: Conv) -> tuple[Tensor, Tensor, Tensor]:
    p = a.prologue
    batch, _, height, width = p.input.shape
    n = len(a.weight)
    raw = p.input.new_empty(batch, height, width * n)
    kernel = channels_last(a.weight)

    def per_group(group: slice) -> Statistics:
        out = channels_last(F.conv2d(p.apply(group).to(kernel.dtype), kernel, padding=1))
        moments = Statistics(n, p.dtype, raw.device)
        if a.statistics:
            moments.add(out.to(p.dtype))
        raw[group] = rows(out)
        return moments

    total = Statistics(n, p.dtype, raw.device)
    for moments in map_in_order(per_group, p.groups(), raw.device):
        total.merge(moments)
    return maps(raw, n), *total.result(a.statistics)


def _conv_backward(a: ConvBackward) -> tuple[Tensor, ...]:
    raw, (p, weight, statistics) = a.raw, a.forward
    grads = PrologueGrads(p)
    kernel = channels_last(weight).to(p.dtype)
    pixels = raw.shape[0] * raw.shape[2] * raw.shape[3]

    def per_group(group: slice) -> tuple[Tensor, Tensor]:
        v = p.apply(group)
        g = channels_last(a.grad_raw[group]).to(p.dtype)
        if statistics:
            g = add_statistics_grad(g, raw[group].to(p.dtype), a.mean, a.grad_mean, a.grad_var, pixels)
        grad_v, grad_kernel, _ = torch.ops.aten.convolution_backward(
            g, v, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return grads.add(group, v, grad_v), grad_kernel

    done = map_in_order(per_group, p.groups(), raw.device)
    grad_weight = sum((part for _, part in done), torch.zeros_like(kernel))
    return *grads.result([part for part, _ in done]), grad_weight.contiguous().to(weight.dtype)


def _choose(op: str, a: Conv | ConvBackward) -> str:
    prologue, weight, _ = a if isinstance(a, Conv) else a.forward
    return choose(op, prologue.input, weight)


def _fake(a: Conv) -> tuple[Tensor, Tensor, Tensor]:
    input, filters = a.prologue.input, a.weight.shape[0]
    batch, _, height, width = input.shape
    raw = input.new_empty(batch, height, width, filters).permute(0, 3, 1, 2)
    vector = torch.empty(filters if a.statistics else 0, dtype=a.prologue.dtype, device=raw.device)
    return raw, vector, torch.empty_like(vector)


def _fake_backward(a: ConvBackward) -> tuple[Tensor, ...]:
    prologue, weight, _ = a.forward
    return *prologue.fake_grads(), torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, a: Conv, output: tuple[Tensor, Tensor, Tensor]) -> None:
    raw, mean, _ = output
    *features, ctx.negative_slope = a.prologue
    ctx.save_for_backward(raw, mean, *features, a.weight)
    ctx.statistics = a.statistics


def _autograd(ctx: Any, grad_raw: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor | None, ...]:
    raw, mean, *features, weight = ctx.saved_tensors
    p = Prologue._make([*features, ctx.negative_slope])
    *grads, grad_weight = torch.ops.learned_resizer.conv_backward(
        grad_raw, grad_mean, grad_var, raw, mean, *p, weight, ctx.statistics
    )
    return *p.autograd_result(grads), grad_weight, None


def _autocast(dtype: torch.dtype, a: Conv) -> tuple[Any, ...]:
    return *a.prologue.autocast(dtype), cast(dtype, a.weight), a.statistics


define("conv", Conv, 3, pure_torch=_conv, native="conv", choose=_choose, fake=_fake)
define("conv_backward", ConvBackward, 7, pure_torch=_conv_backward, native="conv", choose=_choose, fake=_fake_backward)
register_autograd("conv", _autograd, _setup_context)
register_no_second_derivative("conv_backward")
register_autocast("conv", _autocast)
register_autocast("conv_backward")
