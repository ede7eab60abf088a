"""Launchers of the native trunk (csrc/core/trunk/trunk.cuh) on CUDA tensors: inference, two convolutions a launch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops.layout import channels_last
from . import device, native
from .arguments import dense32, image_dtype


def trunk_block(*args: Any) -> Tensor:
    """The op ``trunk_block``: one launch.

    Args:
        args: as the op's schema. Features ``(B, 16, h, w)`` float16 or bfloat16; weights and vectors of any float
            dtype, rounded to the features' as they load.

    Returns:
        ``(B, 16, h, w)``, channels_last, in the features' dtype. Bitwise reproducible.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    slope, weight2 = args[18:]
    batch, n, height, width = args[0].shape
    out = args[0].new_empty(batch, height, width, n)
    _launch("block", args, (slope, *dense32(weight2), out), out)
    return out.permute(0, 3, 1, 2)


def trunk_tail(*args: Any) -> Tensor:
    """The op ``trunk_tail``: one launch. As ``trunk_block``; the result has the shape, dtype and layout of ``base``.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    features, (weight, bias, base) = args[0], args[18:]
    given = base.to(image_dtype(base.dtype, features.dtype))
    out = torch.empty_like(given, memory_format=torch.preserve_format)
    _launch("tail", args, (*dense32(weight, bias), given, out), out)
    return out.to(base.dtype)


def _launch(kernel: str, args: tuple[Any, ...], rest: tuple[Any, ...], out: Tensor) -> None:
    if out.numel() == 0:
        return
    input, skip, weight1 = channels_last(args[0]), args[6], dense32(args[12])[0]
    norms = [dense32(*args[first : first + 4]) for first in (1, 13)]
    norms.insert(1, [] if skip is None else dense32(*args[7:11]))
    skip = None if skip is None else channels_last(skip)
    common = (
        (len(input), *input.shape[2:]),
        input.data_ptr(),
        0 if skip is None else skip.data_ptr(),
        weight1.data_ptr(),
        *((*(v.data_ptr() for v in norm), eps) for norm, eps in zip(norms, (args[5], args[11], args[17]), strict=True)),
    )
    place = (input.dtype == torch.bfloat16, device.multiprocessors(out.device), *device.place(out.device))
    if kernel == "block":
        slope, weight2, raw = rest
        native.load().trunk_block(*common, slope, weight2.data_ptr(), raw.data_ptr(), *place)
    else:
        weight, bias, base, result = rest
        images = (base.data_ptr(), base.stride(), result.data_ptr(), result.stride(), base.dtype == torch.float32)
        native.load().trunk_tail(*common, len(weight), weight.data_ptr(), bias.data_ptr(), *images, *place)
