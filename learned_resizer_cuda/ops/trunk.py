"""The trunk at inference: ``trunk_block`` and ``trunk_tail``, two convolutions each, no gradients.

With running statistics no batch normalisation needs the whole map, so the map between two convolutions can stay on the
chip. For norm(t) = (t - mean) weight / √(var + eps) + bias::

    trunk_block:  raw = W2 * lrelu(norm1(W1 * v))                                3×3 and 3×3, zero padding
    trunk_tail:   out = W * (norm1(W1 * v) + skip_norm(u)) + bias + base         3×3 and 7×7, zero padding
    with          v = norm(t)  [+ skip_norm(u)]

Native kernels only; ``conv`` and ``head`` do the same everywhere, and with gradients.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .prologue import GivenNorm


class TrunkInput(NamedTuple):
    """Start of both: v, the first convolution, the norm after it."""

    input: Tensor  # t: (B, n, h, w), channels_last, float16 or bfloat16
    norm: GivenNorm
    skip: Tensor | None  # u
    skip_norm: GivenNorm | None
    weight1: Tensor  # (n, n, 3, 3), as all parameters of any float dtype and strides
    norm1: GivenNorm


class TrunkBlock(NamedTuple):
    """Arguments of ``trunk_block``."""

    start: TrunkInput
    negative_slope: float
    weight2: Tensor  # (n, n, 3, 3)


class TrunkTail(NamedTuple):
    """Arguments of ``trunk_tail``, which always has a skip."""

    start: TrunkInput
    weight: Tensor  # (C, n, 7, 7)
    bias: Tensor
    base: Tensor  # (B, C, h, w), any strides
