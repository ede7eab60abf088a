"""Launchers of csrc/core/trunk/trunk.cuh on CUDA tensors: inference, two convolutions a launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.layout import channels_last
from ..ops.trunk import RunningNorm, TrunkBlock, TrunkInput, TrunkTail
from . import device, native
from .arguments import addresses, dense32, image_dtype


def trunk_block(a: TrunkBlock) -> Tensor:
    """The op ``trunk_block``: one launch.

    Args:
        a: features ``(B, 16, h, w)`` float16 or bfloat16; weights and vectors of any float dtype, rounded to the
            features' as they load.

    Returns:
        ``(B, 16, h, w)``, channels_last, in the features' dtype. Bitwise reproducible.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    batch, n, height, width = a.start.input.shape
    out = a.start.input.new_empty(batch, height, width, n)
    if out.numel():
        start, (weight2,) = _Start(a.start), dense32(a.weight2)
        native.load().trunk_block(*start.pack(), a.negative_slope, weight2.data_ptr(), out.data_ptr(), *start.place())
    return out.permute(0, 3, 1, 2)


def trunk_tail(a: TrunkTail) -> Tensor:
    """The op ``trunk_tail``, as ``trunk_block``: one launch.

    The result has the shape, dtype and layout of ``base``.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    base = a.base.to(image_dtype(a.base.dtype, a.start.input.dtype))
    out = torch.empty_like(base, memory_format=torch.preserve_format)
    if out.numel():
        start, (weight, bias) = _Start(a.start), dense32(a.weight, a.bias)
        images = (base.data_ptr(), base.stride(), out.data_ptr(), out.stride(), base.dtype == torch.float32)
        native.load().trunk_tail(
            *start.pack(), len(weight), weight.data_ptr(), bias.data_ptr(), *images, *start.place()
        )
    return out.to(a.base.dtype)


class _Start:
    """Both kernels' first tensors as read, kept alive through the launch."""

    def __init__(self, a: TrunkInput) -> None:
        self._input, (self._weight1,) = channels_last(a.input), dense32(a.weight1)
        self._skip = None if a.skip is None else channels_last(a.skip)
        self._norms = [_dense_norm(norm) for norm in (a.norm, a.skip_norm, a.norm1)]

    def pack(self) -> tuple[Any, ...]:
        return (
            (len(self._input), *self._input.shape[2:]),
            self._input.data_ptr(),
            0 if self._skip is None else self._skip.data_ptr(),
            self._weight1.data_ptr(),
            *((*addresses(vectors), eps) for vectors, eps in self._norms),
        )

    def place(self) -> tuple[Any, ...]:
        gpu = self._input.device
        return self._input.dtype == torch.bfloat16, device.multiprocessors(gpu), *device.place(gpu)


def _dense_norm(norm: RunningNorm | None) -> tuple[list[Tensor], float]:
    """Vectors, none for an absent skip's norm, and eps."""
    if norm is None or norm.mean is None:
        return [], 0.0
    *vectors, eps = norm
    return dense32(*vectors), eps
