"""Launchers of the native stem (csrc/core/stem/stem.cuh, stem_backward.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..ops.bands import get_bands
from ..ops.stem import Stem, StemBackward, StemWeights
from . import device, native, reduce
from .arguments import PARAMETER_DTYPES, arithmetic, pointer, vector, weight
from .resample import axis_arguments
from .tables import on_stream, packed


@lru_cache(maxsize=256)
def _plan(
    instance: tuple[str, int], batch: int, size: tuple[int, int], out: tuple[int, int], *rest: Any, gpu: torch.device
) -> Any:
    """The forward's plan, a ``_C.StemPlan``.

    Args:
        instance: arithmetic and filters.
        rest: interpolation and antialias.
    """
    rows, columns = (axis_arguments(get_bands(i, o, None, *rest)) for i, o in zip(size, out, strict=True))
    processors = device.multiprocessors(gpu)
    return native.load().plan_stem(batch, processors, rows, columns, *instance)


@lru_cache(maxsize=256)
def _transposed(size: tuple[int, int], out: tuple[int, int], *rest: Any) -> tuple[bytes, list[list[int]]]:
    """The adjoint's tables, and where each axis's start, offset, weight begin."""
    axes = [get_bands(i, o, None, *rest).transposed() for i, o in zip(size, out, strict=True)]
    data, begins = packed(part.numpy() for bands in axes for part in (bands.start, bands.offset, bands.weight))
    return data, [begins[:3], begins[3:]]


@lru_cache(maxsize=256)
def _backward_blocks(shape: torch.Size, *instance: Any, gpu: torch.device) -> tuple[int, int, int]:
    """Rows of partial results, the device's multiprocessors and a block's shared memory."""
    limits = device.multiprocessors(gpu), device.shared_memory(gpu)
    return native.load().stem_backward_blocks(*shape, *limits, *instance), *limits


_IMAGE_DTYPES = {**PARAMETER_DTYPES, torch.uint8: 4}


def _image(a: Stem) -> tuple[Any, ...]:
    image, mean, std = a.image, a.image_mean, a.image_std
    dtype = _IMAGE_DTYPES[image.dtype]
    _, channels, height, width = image.shape
    place = image.data_ptr(), dtype, channels, height, width, image.stride()
    if dtype != 4:
        return *place, None, None
    if mean is None or std is None:
        raise ValueError("stem: got a uint8 image without image_mean and image_std; expected both")
    return *place, vector(mean), vector(std)


def _weights(weights: StemWeights) -> tuple[Any, ...]:
    w0, b0, w1, b1 = weights
    return weight(w0), vector(b0), weight(w1), vector(b1)


def stem(a: Stem, z: Tensor, statistics: Tensor | None) -> None:
    """The stem: one launch, one more for the statistics.

    One before them where the tables are new to the stream. Bitwise reproducible on devices of one kind.

    Args:
        a: an image ``(B, C, H, W)``, C up to 4, any strides; float32, float16, bfloat16 or uint8, read in place. Up to
            32 filters. Weights are rounded to the arithmetic of the features' dtype as they load, and a uint8 image is
            normalised as it loads.
        z: the result, ``(B, n, height, width)``, channels_last, of the features' dtype: n 16 or 32, zero from the
            filters' number on.
        statistics: ``(3, filters)`` float32, dense, for mean, biased and unbiased variance of c.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    image, weights, (height, width, interpolation, antialias, negative_slope), dtype, *_ = a
    gpu, (batch, _, *size) = image.device, image.shape
    if batch == 0:
        if statistics is not None:
            statistics.zero_()
        return
    module, instance = native.load(), (arithmetic(dtype), weights.b0.shape[0])
    plan = _plan(instance, batch, tuple(size), (height, width), interpolation, antialias, gpu=gpu)
    place = device.place(gpu)
    tables = on_stream(plan, gpu, *place)
    partials = None
    if statistics is not None:
        partials = torch.empty((plan.blocks, 3, instance[1]), dtype=torch.float32, device=gpu)
    module.stem(
        plan,
        tables.address,
        _image(a),
        _weights(weights),
        negative_slope,
        *instance,
        z.data_ptr(),
        pointer(partials),
        *place,
    )
    if statistics is not None and partials is not None:
        reduce.statistics(partials, statistics, place)


def stem_backward(a: StemBackward) -> tuple[Tensor | None, StemWeights]:
    """The stem's adjoint: one launch, one more for the sums.

    One for dx if asked for, and one before them where the tables are new to the stream.

    Returns:
        dx like the image, if asked for, and the gradients of the weights in their own dtypes and strides. Bitwise
        reproducible on devices of one kind; no atomics.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    grad_z, statistics, forward, image_grad = a
    image, weights, (height, width, interpolation, antialias, negative_slope), dtype, *_ = forward
    gpu, shape = image.device, image.shape
    dx = torch.empty_like(image) if image_grad else None
    w0, b0, w1, b1 = weights
    grads = StemWeights(torch.empty_like(w0), torch.empty_like(b0), torch.empty_like(w1), torch.empty_like(b1))
    batch, _, *size = shape
    if batch == 0:
        for grad in grads:
            grad.zero_()
        return dx, grads
    module, instance = native.load(), (arithmetic(dtype), b0.shape[0])
    data, begins = _transposed(tuple(size), (height, width), interpolation, antialias)
    place = device.place(gpu)
    tables = on_stream(data, gpu, *place)
    blocks, *limits = _backward_blocks(shape, *instance, gpu=gpu)
    elements = w0.numel() + w1.numel() + 2 * b0.shape[0]
    partials = torch.empty((blocks, elements), dtype=torch.float32, device=gpu)
    given = None
    if statistics is not None:
        mean, grad_mean, grad_var, pixels = statistics
        given = mean.data_ptr(), grad_mean.data_ptr(), grad_var.data_ptr(), pixels
    module.stem_backward(
        _image(forward),
        _weights(weights),
        negative_slope,
        batch,
        (height, width),
        *(tuple(tables.address + begin for begin in axis) for axis in begins),
        grad_z.data_ptr(),
        given,
        partials.data_ptr(),
        pointer(dx),
        (0, 0, 0, 0) if dx is None else dx.stride(),
        *limits,
        *instance,
        *place,
    )
    reduce.gradients(partials, grads, None, place)
    return dx, grads
