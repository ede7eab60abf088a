"""Launchers of the native stem (csrc/core/stem/stem.cuh, stem_backward.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..ops.bands import get_bands
from ..ops.layout import channels_last, maps
from ..ops.stem import Stem, StemBackward
from . import device, native, reduce
from .arguments import addresses, arithmetic, dense32, dtype_name
from .resample import axis_arguments
from .tables import on_stream


@lru_cache(maxsize=256)
def _plan(batch: int, size: tuple[int, int], out: tuple[int, int], *rest: Any, gpu: torch.device) -> Any:
    """The forward's plan, a ``_C.StemPlan``; rest: interpolation and antialias."""
    rows, columns = (axis_arguments(get_bands(i, o, None, *rest)) for i, o in zip(size, out, strict=True))
    processors = device.multiprocessors(gpu)
    return native.load().plan_stem(batch=batch, multiprocessors=processors, rows=rows, columns=columns)


@lru_cache(maxsize=256)
def _transposed(size: tuple[int, int], out: tuple[int, int], *rest: Any) -> tuple[bytes, list[list[int]]]:
    """The adjoint's tables, and where each axis's start, offset, weight begin."""
    data = bytearray()
    begins: list[list[int]] = []
    for i, o in zip(size, out, strict=True):
        bands = get_bands(i, o, None, *rest).transposed()
        begins.append([])
        for part in (bands.start, bands.offset, bands.weight):
            data += bytes(-len(data) % 16)
            begins[-1].append(len(data))
            data += part.numpy().tobytes()
    return bytes(data), begins


def _image_arguments(image: Tensor, normalisation: list[Tensor]) -> tuple[Any, ...]:
    _, channels, height, width = image.shape
    mean, std = addresses(normalisation) or (0, 0)
    return image.data_ptr(), dtype_name(image.dtype), channels, height, width, image.stride(), mean, std


def _normalisation(a: Stem) -> list[Tensor]:
    """Mean and std for the kernels; empty unless the image is uint8."""
    if a.image.dtype != torch.uint8:
        return []
    if a.image_mean is None or a.image_std is None:
        raise ValueError("stem: got a uint8 image without image_mean and image_std; expected both")
    return dense32(a.image_mean, a.image_std)


def stem(a: Stem) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``stem`` on CUDA: one launch, one more for the statistics.

    One before them where the tables are new to the stream.

    Args:
        a: an image ``(B, C, H, W)``, C up to 4, any strides; float32, float16, bfloat16 or uint8, read in place.
            Weights with n 16 or 32, rounded to the arithmetic of the features' dtype as they load. A uint8 image is
            normalised as it loads.

    Returns:
        ``z (B, n, height, width)``, channels_last, in the features' dtype; mean and biased variance ``(n,)``
        float32, empty without statistics. Bitwise reproducible on devices of one kind.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    image, weights, (height, width, interpolation, antialias, negative_slope, statistics), *_ = a
    n, gpu, dtype = len(weights.w0), image.device, a.dtype
    z = image.new_empty(len(image), height, width * n, dtype=dtype)
    mean, var = (torch.empty(n if statistics else 0, dtype=torch.float32, device=gpu) for _ in range(2))
    if z.numel() == 0:
        return maps(z, n), mean.zero_(), var.zero_()
    plan = _plan(len(image), tuple(image.shape[2:]), (height, width), interpolation, antialias, gpu=gpu)
    place = device.place(gpu)
    tables = on_stream(plan, gpu, *place)
    partials = torch.empty(plan.blocks, 3, n, dtype=torch.float32, device=gpu) if statistics else None
    dense, normalisation = dense32(*weights), _normalisation(a)
    native.load().stem(
        plan,
        tables.address,
        _image_arguments(image, normalisation),
        addresses(dense),
        negative_slope,
        arithmetic(dtype),
        n,
        z.data_ptr(),
        0 if partials is None else partials.data_ptr(),
        *place,
    )
    if partials is not None:
        with device.current(gpu):
            mean, var = reduce.merge_statistics(partials)
    return maps(z, n), mean, var


def stem_backward(a: StemBackward) -> tuple[Tensor, ...]:
    """The op ``stem_backward`` on CUDA tensors.

    One launch, two more for the sums, one for dx if asked for.

    Returns:
        dx like the image (empty if not asked for), and the gradients of w0, b0, w1 and b1 in their own dtypes.
        Bitwise reproducible on devices of one kind; no atomics.
    """
    image, weights, (height, width, interpolation, antialias, negative_slope, statistics), *_ = a.forward
    n, gpu, dtype = len(weights.w0), image.device, a.forward.dtype
    dx = torch.empty_like(image) if a.image_grad else image.new_empty(0)
    if image.numel() == 0:
        return dx, *(torch.zeros_like(p, memory_format=torch.contiguous_format) for p in weights)
    data, begins = _transposed(tuple(image.shape[2:]), (height, width), interpolation, antialias)
    place = device.place(gpu)
    tables = on_stream(data, gpu, *place)
    module, processors = native.load(), device.multiprocessors(gpu)
    dense, normalisation = dense32(*weights), _normalisation(a.forward)
    vectors = dense32(a.mean, a.grad_mean, a.grad_var) if statistics else []
    dz = channels_last(a.grad_z.to(dtype))
    parts = [p.numel() for p in weights]
    most_shared = device.shared_memory(gpu)
    instance = (arithmetic(dtype), n)
    blocks = module.stem_backward_blocks(*image.shape, processors, most_shared, *instance)
    partials = torch.empty(blocks, sum(parts), dtype=torch.float32, device=gpu)
    module.stem_backward(
        _image_arguments(image, normalisation),
        addresses(dense),
        negative_slope,
        len(image),
        (height, width),
        *(tuple(tables.address + begin for begin in axis) for axis in begins),
        dz.data_ptr(),
        addresses(vectors) or (0, 0, 0),
        partials.data_ptr(),
        dx.data_ptr() if a.image_grad else 0,
        dtype_name(dtype),
        dx.stride() if a.image_grad else (0, 0, 0, 0),
        processors,
        most_shared,
        *instance,
        *place,
    )
    with device.current(gpu):
        sums = reduce.take_apart(reduce.sum_rows(partials), parts)
    return dx, *(s.view(p.shape).to(p.dtype) for s, p in zip(sums, weights, strict=True))
