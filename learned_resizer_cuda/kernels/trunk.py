"""Launchers of csrc/core/trunk/trunk.cuh on CUDA tensors: inference, two convolutions a launch.

For up to 16 filters; features have 16 channels, those beyond the filters zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.trunk import TrunkBlock, TrunkInput, TrunkTail
from . import arguments, device, native, prologue


def trunk_block(a: TrunkBlock) -> Tensor:
    """The stage ``trunk_block``: one launch.

    Args:
        a: features float16 or bfloat16; weights and the norms' vectors of any of these or float32, rounded to the
            features' dtype as they load.

    Returns:
        ``(B, 16, h, w)``, channels_last, in the features' dtype. Bitwise reproducible.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    start, slope, weight2 = a
    out = torch.empty_like(start.input)
    native.load().trunk_block(*_start(start, slope), arguments.weight(weight2), out.data_ptr(), *_place(start))
    return out


def trunk_tail(a: TrunkTail) -> Tensor:
    """The stage ``trunk_tail``, as ``trunk_block``: one launch.

    The result has the shape, dtype and layout of ``base``, which is float32 or of the features' dtype.

    Raises:
        TypeError: for a base of another dtype.
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    start, weight, bias, base = a
    out = torch.empty_like(base)
    native.load().trunk_tail(
        *_start(start, 1.0),
        weight.shape[0],
        arguments.weight(weight),
        arguments.vector(bias),
        arguments.image("base", base, start.input.dtype),
        out.data_ptr(),
        out.stride(),
        *_place(start),
    )
    return out


def _start(a: TrunkInput, slope: float) -> tuple[Any, ...]:
    """First arguments of both launches."""
    return (
        arguments.size(a.input),
        prologue.pack(a.input, a.norm, a.skip, a.skip_norm, slope),
        arguments.weight(a.weight1),
        arguments.norm(a.norm1),
    )


def _place(a: TrunkInput) -> tuple[Any, ...]:
    """Last arguments of both launches: the instance, the device and the stream."""
    gpu = a.input.device
    return a.input.dtype == torch.bfloat16, a.weight1.shape[0], device.multiprocessors(gpu), *device.place(gpu)
