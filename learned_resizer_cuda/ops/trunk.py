"""The trunk at inference, two convolutions an op: ``trunk_block`` and ``trunk_tail``. No gradients.

With the running statistics no batch normalisation waits for a whole map, so the map between two convolutions need not
leave the chip. For norm(t) = (t - mean) gamma / √(var + eps) + beta::

    trunk_block:  raw = W2 * lrelu(norm1(W1 * v))                                3×3 and 3×3, zero padding
    trunk_tail:   out = W * (norm1(W1 * v) + skip_norm(u)) + bias + base         3×3 and 7×7, zero padding
    with          v = norm(t)  [+ skip_norm(u)]

Training uses ``conv`` and ``head``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backend
from .library import define, register_autocast, register_autograd
from .statistics import accumulation_dtype

# What the native kernels are compiled for.
_NATIVE_FILTERS = 16
_NATIVE_CHANNELS = 4


class Norm(NamedTuple):
    """A batch normalisation with given statistics, in the schema's order; vectors ``(n,)``."""

    mean: Tensor
    var: Tensor
    gamma: Tensor
    beta: Tensor
    eps: float

    def apply(self, features: Tensor) -> Tensor:
        """norm(features) for ``(B, n, h, w)``."""
        vectors = (v.to(features.dtype) for v in self[:4])
        mean, var, gamma, beta = (v.view(1, -1, 1, 1) for v in vectors)
        scale = gamma * torch.rsqrt(var + self.eps)
        return features * scale + (beta - mean * scale)


def _schema(prefix: str, optional: str = "") -> str:
    names = ("mean", "var", "gamma", "beta")
    return ", ".join(f"Tensor{optional} {prefix}{name}" for name in names) + f", float {prefix}eps"


def _first(input: Tensor, norm: Norm, skip: Tensor | None, skip_norm: Norm, weight: Tensor, norm1: Norm) -> Tensor:
    """norm1(W1 * v), in the dtype of sums."""
    dtype = accumulation_dtype(input.dtype)
    v = norm.apply(input.to(dtype))
    if skip is not None:
        v = v + skip_norm.apply(skip.to(dtype))
    return norm1.apply(F.conv2d(v, weight.to(dtype), padding=1))


def _common(args: tuple[Any, ...]) -> tuple[Tensor, Norm, Tensor | None, Norm, Tensor, Norm]:
    """What both ops begin with: input and its norm, skip and its norm, the first weight and the norm behind it."""
    return args[0], Norm(*args[1:6]), args[6], Norm(*args[7:12]), args[12], Norm(*args[13:18])


def block_formula(*args: Any) -> Tensor:
    """``trunk_block`` in the dtype of sums, in any layout."""
    slope, weight2 = args[18:]
    middle = F.leaky_relu(_first(*_common(args)), slope)
    return F.conv2d(middle, weight2.to(middle.dtype), padding=1)


def tail_formula(*args: Any) -> Tensor:
    """``trunk_tail`` in the dtype of sums, in any layout."""
    weight, bias, base = args[18:]
    middle = _first(*_common(args))
    middle = middle + Norm(*args[7:12]).apply(args[6].to(middle.dtype))
    return F.conv2d(middle, weight.to(middle.dtype), bias.to(middle.dtype), padding=3) + base.to(middle.dtype)


def _block(*args: Any) -> Tensor:
    return block_formula(*args).to(args[0].dtype).contiguous(memory_format=torch.channels_last)


def _tail(*args: Any) -> Tensor:
    return torch.empty_like(args[20], memory_format=torch.preserve_format).copy_(tail_formula(*args))


def unsupported(input: Tensor, channels: int) -> str | None:
    """Say why the native kernels cannot take these shapes; None where they can."""
    if input.shape[1] != _NATIVE_FILTERS:
        return f"the native trunk has kernels for num_filters {_NATIVE_FILTERS}, not {input.shape[1]}"
    if channels > _NATIVE_CHANNELS:
        return f"the native trunk writes up to {_NATIVE_CHANNELS} channels, not {channels}"
    return None


def _block_cuda(*args: Any) -> Tensor:
    if backend.choose("trunk", args[0], unsupported(args[0], 1)) == "torch":
        return _block(*args)
    from ..kernels import trunk as kernel

    return kernel.trunk_block(*args)


def _tail_cuda(*args: Any) -> Tensor:
    if backend.choose("trunk", args[0], unsupported(args[0], len(args[18]))) == "torch":
        return _tail(*args)
    from ..kernels import trunk as kernel

    return kernel.trunk_tail(*args)


def _fake_block(*args: Any) -> Tensor:
    batch, n, height, width = args[0].shape
    return args[0].new_empty(batch, height, width, n).permute(0, 3, 1, 2)


def _fake_tail(*args: Any) -> Tensor:
    return torch.empty_like(args[20], memory_format=torch.preserve_format)


def _no_gradient(ctx: Any, *grads: Any) -> Any:
    raise NotImplementedError("trunk_block, trunk_tail: inference only; conv and head have gradients")


_COMMON = f"Tensor input, {_schema('')}, Tensor? skip, {_schema('skip_', '?')}, Tensor weight1, {_schema('norm1_')}"
define(
    f"trunk_block({_COMMON}, float negative_slope, Tensor weight2) -> Tensor",
    cpu=_block,
    cuda=_block_cuda,
    fake=_fake_block,
)
define(
    f"trunk_tail({_COMMON}, Tensor weight, Tensor bias, Tensor base) -> Tensor",
    cpu=_tail,
    cuda=_tail_cuda,
    fake=_fake_tail,
)
for _name in ("trunk_block", "trunk_tail"):
    register_autograd(_name, _no_gradient, lambda ctx, inputs, output: None)
    register_autocast(_name)
