"""Arguments and results of the prologue, which conv, head and trunk share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.prologue import FeatureGrad, GivenNorm, NormGrad, Prologue, PrologueGrads
from .arguments import norm, pointer
from .reduce import PrologueSums


def pack(
    input: Tensor, of_input: GivenNorm | None, skip: Tensor | None, of_skip: GivenNorm | None, negative_slope: float
) -> tuple[Any, ...]:
    """Arguments of the native module."""
    return input.data_ptr(), norm(of_input), pointer(skip), norm(of_skip), negative_slope


def empty_grads(
    prologue: Prologue, filters: int, input_grad: FeatureGrad | None, skip_grad: FeatureGrad | None
) -> tuple[PrologueGrads, tuple[int, ...], PrologueSums]:
    """A prologue's gradients, for two launches to fill.

    Args:
        prologue: of ``filters`` channels, and more in memory.
        filters: number of channels.
        input_grad, skip_grad: of earlier uses of the same features, if any. The skip's are overwritten.

    Returns:
        The gradients; the kernel's arguments for those of the features; the second stage's for the others.
    """
    feature, given, skip_feature, _, _ = prologue
    gpu = feature.device
    norm_grad = None
    if given is not None:
        mean, var = torch.empty(2, filters, dtype=torch.float32, device=gpu).unbind()
        norm_grad = NormGrad(mean, var, torch.empty_like(given.weight), torch.empty_like(given.bias))
    earlier_input, input_sums = input_grad or (None, None)
    earlier_skip, skip_sums = skip_grad or (None, None)
    skip = skip_grad
    if skip is None and skip_feature is not None:
        empty_sums = torch.empty(2, filters, dtype=torch.float32, device=gpu)
        skip = FeatureGrad(torch.empty_like(skip_feature), empty_sums)
    grads = PrologueGrads(torch.empty_like(feature), norm_grad, skip)
    raw, sums = skip or (None, None)
    return (
        grads,
        (grads.input.data_ptr(), pointer(earlier_input), pointer(raw), pointer(earlier_skip)),
        PrologueSums(filters, filters, given, norm_grad, input_sums, sums, skip_sums),
    )
