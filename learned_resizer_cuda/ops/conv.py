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

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import channels_last
from .parallel import map_in_order
from .prologue import FeatureGrad, FoldedPrologue, GradAccumulator, Prologue, PrologueGrads
from .statistics import Statistics, StatisticsGrad, add_statistics_grad


class Conv(NamedTuple):
    """Arguments of ``conv``."""

    prologue: Prologue
    weight: Tensor  # (n, n, 3, 3), of any float dtype and strides


class ConvBackward(NamedTuple):
    """Arguments of ``conv_backward``."""

    grad_raw: Tensor  # (B, n, h, w), channels_last, like raw
    statistics_grad: StatisticsGrad | None  # None: without statistics
    raw: Tensor
    forward: Conv
    # Of earlier uses of the prologue's features; the adjoint adds its own. ``skip_grad`` may be overwritten.
    input_grad: FeatureGrad | None
    skip_grad: FeatureGrad | None


def conv(a: Conv, raw: Tensor, statistics: Tensor | None) -> None:
    """Convolve, in pure torch.

    Args:
        a: the arguments.
        raw: the result, ``(B, n, h, w)``, channels_last, of the input's dtype.
        statistics: ``(3, n)``, float32 (float64 for float64), for mean, biased and unbiased variance of ``raw``.
    """
    p = FoldedPrologue(a.prologue)
    kernel = channels_last(a.weight.to(raw.dtype))

    def per_group(group: slice) -> Statistics:
        out = channels_last(F.conv2d(p.apply(group).to(kernel.dtype), kernel, padding=1))
        moments = Statistics(p.n, raw.device)
        if statistics is not None:
            moments.add(out.to(p.dtype))
        raw[group] = out
        return moments

    total = Statistics(p.n, raw.device)
    for moments in map_in_order(per_group, a.prologue.groups(), raw.device):
        total.merge(moments)
    if statistics is not None:
        total.write(statistics)


def conv_backward(a: ConvBackward) -> tuple[PrologueGrads, Tensor]:
    """The adjoint, in pure torch: the prologue's gradients and the weight's."""
    prologue, weight = a.forward
    p = FoldedPrologue(prologue)
    grads = GradAccumulator(p, a.input_grad, a.skip_grad)
    kernel = channels_last(weight.to(p.dtype))

    def per_group(group: slice) -> tuple[Tensor, Tensor]:
        v = p.apply(group)
        g = a.grad_raw[group].to(p.dtype)
        if a.statistics_grad is not None:
            g = add_statistics_grad(g, a.raw[group].to(p.dtype), a.statistics_grad)
        grad_v, grad_kernel, _ = torch.ops.aten.convolution_backward(
            g, v, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return grads.add(group, v, grad_v), grad_kernel

    done = map_in_order(per_group, prologue.groups(), a.raw.device)
    grad_weight = sum((part for _, part in done), torch.zeros_like(kernel))
    return grads.result([part for part, _ in done]), torch.empty_like(weight).copy_(grad_weight)
