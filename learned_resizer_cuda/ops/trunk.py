"""The trunk at inference: ``trunk_block`` and ``trunk_tail``, two convolutions each, no gradients.

With running statistics no batch normalisation needs the whole map, so the map between two convolutions can stay on the
chip. For norm(t) = (t - mean) weight / √(var + eps) + bias::

    trunk_block:  raw = W2 * lrelu(norm1(W1 * v))                                3×3 and 3×3, zero padding
    trunk_tail:   out = W * (norm1(W1 * v) + skip_norm(u)) + bias + base         3×3 and 7×7, zero padding
    with          v = norm(t)  [+ skip_norm(u)]

Training uses ``conv`` and ``head``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backend
from .library import define, register_autocast, register_no_derivative
from .native_shapes import CHANNELS
from .statistics import accumulation_dtype

_NATIVE_FILTERS = 16
"""What the native kernels are compiled for."""


class RunningNorm(NamedTuple):
    """A batch normalisation with given statistics; vectors ``(n,)``."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def apply(self, features: Tensor) -> Tensor:
        """norm(features) for ``(B, n, h, w)``."""
        *vectors, eps = self
        mean, var, weight, bias = (v.to(features.dtype).view(1, -1, 1, 1) for v in vectors)
        scale = weight * torch.rsqrt(var + eps)
        return features * scale + (bias - mean * scale)


class TrunkInput(NamedTuple):
    """Both ops' start: v, the first convolution and the norm after it."""

    input: Tensor
    norm: RunningNorm
    skip: Tensor | None
    skip_norm: RunningNorm | None  # of None and an eps of any value without a skip
    weight1: Tensor
    norm1: RunningNorm

    def first(self) -> Tensor:
        """norm1(W1 * v), in the dtype of sums."""
        dtype = accumulation_dtype(self.input.dtype)
        v = self.norm.apply(self.input.to(dtype))
        if self.skip is not None and self.skip_norm is not None:
            v = v + self.skip_norm.apply(self.skip.to(dtype))
        return self.norm1.apply(F.conv2d(v, self.weight1.to(dtype), padding=1))


class TrunkBlock(NamedTuple):
    """Arguments of ``trunk_block``."""

    start: TrunkInput
    negative_slope: float
    weight2: Tensor


class TrunkTail(NamedTuple):
    """Arguments of ``trunk_tail``, which always has a skip."""

    start: TrunkInput
    weight: Tensor
    bias: Tensor
    base: Tensor


def block_formula(a: TrunkBlock) -> Tensor:
    """``trunk_block`` in the dtype of sums, in any layout."""
    middle = F.leaky_relu(a.start.first(), a.negative_slope)
    return F.conv2d(middle, a.weight2.to(middle.dtype), padding=1)


def tail_formula(a: TrunkTail) -> Tensor:
    """``trunk_tail`` in the dtype of sums, in any layout."""
    middle = a.start.first()
    if a.start.skip is not None and a.start.skip_norm is not None:
        middle = middle + a.start.skip_norm.apply(a.start.skip.to(middle.dtype))
    weight, bias, base = (t.to(middle.dtype) for t in (a.weight, a.bias, a.base))
    return F.conv2d(middle, weight, bias, padding=3) + base


def _block(a: TrunkBlock) -> Tensor:
    return block_formula(a).to(a.start.input.dtype).contiguous(memory_format=torch.channels_last)


def _tail(a: TrunkTail) -> Tensor:
    return _fake_tail(a).copy_(tail_formula(a))


def unsupported(input: Tensor, channels: int) -> str | None:
    """Why the native kernels do not take these shapes, or None."""
    if input.shape[1] != _NATIVE_FILTERS:
        return f"the native trunk has kernels for num_filters {_NATIVE_FILTERS}, not {input.shape[1]}"
    if channels > CHANNELS:
        return f"the native trunk writes up to {CHANNELS} channels, not {channels}"
    return None


def _choose(_: str, a: TrunkBlock | TrunkTail) -> str:
    channels = len(a.weight) if isinstance(a, TrunkTail) else 1
    return backend.choose("trunk", a.start.input, unsupported(a.start.input, channels))


def _fake_block(a: TrunkBlock) -> Tensor:
    batch, n, height, width = a.start.input.shape
    return a.start.input.new_empty(batch, height, width, n).permute(0, 3, 1, 2)


def _fake_tail(a: TrunkTail) -> Tensor:
    return torch.empty_like(a.base, memory_format=torch.preserve_format)


define("trunk_block", TrunkBlock, 1, pure_torch=_block, native="trunk", choose=_choose, fake=_fake_block)
define("trunk_tail", TrunkTail, 1, pure_torch=_tail, native="trunk", choose=_choose, fake=_fake_tail)
for _name in ("trunk_block", "trunk_tail"):
    register_no_derivative(_name, "trunk_block, trunk_tail: inference only; conv and head have gradients")
    register_autocast(_name)
