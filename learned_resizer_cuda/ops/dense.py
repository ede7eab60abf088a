"""Resampling as products with dense band matrices, by torch's own differentiable operations.

The matrices of ``bands.py`` are computed in the graph, which works where a registered op cannot: under functorch's
transforms and in forward mode, for tensor subclasses, and in exported programs, whose sizes may be symbolic. Far slower
than the op. Coordinates in float32 are exact: between pixel i of N and output o of n they are a ratio of integers,
``((2i + 1) n - (2o + 1) N) / 2n`` (``docs/math.md``, part 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .bands import EMPTY_WINDOW, HAMMING, SUPPORT
from .library import autocasts
from .regions import Place
from .statistics import accumulation_dtype, has_float64


def band_matrix(
    in_size: int,
    out_size: int,
    scale: float | None,
    interpolation: str,
    antialias: bool,
    dtype: torch.dtype,
    device: torch.device,
    place: Place | None = None,
) -> Tensor:
    """Dense band matrix of one axis, for the arguments of ``bands.get_bands``.

    Args:
        in_size, out_size: ints or SymInts.
        dtype: float32 or float64, of the result.

    Returns:
        ``(out_size, in_size)``; its rows sum to 1.
    """
    i = torch.arange(in_size, device=device)
    o = torch.arange(out_size, device=device)[:, None]
    # With a factor coordinates are rounded; for a window that ends beyond the image float32 loses most digits.
    wide = torch.float64 if has_float64(device) else torch.float32
    if interpolation == "nearest" or (interpolation == "box" and not antialias):
        if place is not None:
            nearest = torch.floor(place.offset + (2 * o + 1).to(wide) * place.extent / (2 * out_size))
        elif scale is None:
            nearest = (2 * o + 1) * in_size // (2 * out_size)
        else:
            nearest = torch.floor((o + 0.5).to(wide) / _constant(scale, wide, device))
        return (i == torch.clamp(nearest, max=in_size - 1)).to(dtype)
    if place is not None:
        step = _constant(place.extent / out_size, wide, device)
    elif scale is not None:
        step = _constant(1 / scale, wide, device)
    else:
        step = ratio(in_size, out_size, wide, device)
    center, stretch = (o + 0.5).to(wide) * step + (0.0 if place is None else place.offset), torch.clamp(step, min=1.0)
    # Distance between pixel and output in input pixels: exact for float32, in the tables' arithmetic for float64.
    if place is scale is None and dtype == torch.float32:
        distance = ((2 * i + 1) * out_size - (2 * o + 1) * in_size).to(dtype) / (2 * out_size)
    else:
        distance = i - center + 0.5
    if interpolation == "box":
        weight = _box(i, center, stretch).to(distance.dtype)
    elif antialias:
        weight = _filter(interpolation, distance * (1.0 / stretch), -0.5)
    else:
        weight = _repeated_border(distance, i, in_size, interpolation)
    # Exact zeros of the filter that rounding misses (a sinc at an integer).
    weight = torch.where(weight.abs() < 4 * torch.finfo(weight.dtype).eps, 0.0, weight)
    total = weight.sum(1, keepdim=True)
    # A window without usable pixels lies beyond the last pixel, which is repeated.
    empty = total.abs() < EMPTY_WINDOW
    last = (i == in_size - 1).to(weight.dtype)
    return torch.where(empty, last, weight / torch.where(empty, 1.0, total)).to(dtype)


def ratio(numerator: int, denominator: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Quotient of two numbers as a tensor.

    torch writes the other numbers of a float64 graph into an ONNX model in float32.
    """
    return (torch.ones((), dtype=torch.int64, device=device) * numerator).to(dtype) / denominator


def _constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    numerator, denominator = value.as_integer_ratio()
    return ratio(numerator, float(denominator), dtype, device)


def _repeated_border(distance: Tensor, i: Tensor, in_size: int, interpolation: str) -> Tensor:
    """Weights without antialiasing: border pixels also get all taps beyond them."""
    reach = int(SUPPORT[interpolation])
    # Clamp coordinates beyond the support of the last pixel, where all taps fall on it; bilinear's also at 0.
    beyond = distance[:, -1:] + reach
    distance = distance - torch.clamp(beyond, max=0.0)
    if interpolation == "bilinear":
        distance = distance - torch.clamp(distance[:, :1], min=0.0)
    weight = _filter(interpolation, distance, -0.75)
    # Coordinates start at most half a pixel before the first pixel, and end `reach` beyond the last one.
    step = torch.arange(1, 2 * reach + 1, device=distance.device)
    before = _filter(interpolation, distance[:, :1] - step[:reach], -0.75).sum(1, keepdim=True)
    after = _filter(interpolation, distance[:, -1:] + step, -0.75).sum(1, keepdim=True)
    return weight + torch.where(i == 0, before, 0.0) + torch.where(i == in_size - 1, after, 0.0)


def _box(i: Tensor, center: Tensor, stretch: Tensor) -> Tensor:
    """Pixels of a box, as bools, with the tables' roundings."""
    x, support = (i - center + 0.5) * (1.0 / stretch), SUPPORT["box"] * stretch
    window = (i >= torch.trunc(center - support + 0.5)) & (i < torch.trunc(center + support + 0.5))
    return window & (x > -0.5) & (x <= 0.5)


def _filter(interpolation: str, t: Tensor, a: float) -> Tensor:
    """Triangle, Hamming, Keys' cubic with parameter a, or Lanczos-3, at t."""
    t = t.abs()
    if interpolation == "bilinear":
        return torch.clamp(1.0 - t, min=0.0)
    if interpolation == "bicubic":
        near = ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0
        far = (((t - 5.0) * t + 8.0) * t - 4.0) * a
        return torch.where(t < 1.0, near, torch.where(t < 2.0, far, 0.0))
    x = _constant(math.pi, t.dtype, t.device) * torch.where(t == 0, 1.0, t)
    if interpolation == "hamming":
        level, swing = HAMMING
        value = torch.sin(x) / x * (level + swing * torch.cos(x))
        return torch.where(t == 0, 1.0, torch.where(t < 1.0, value, 0.0))
    value = 3.0 * torch.sin(x) * torch.sin(x / 3.0) / (x * x)
    return torch.where(t == 0, 1.0, torch.where(t < 3.0, value, 0.0))


def resample_dense(image: Tensor, height: int, width: int, *parameters: Any) -> Tensor:
    """The op ``resample`` with the same arguments, for images ``(..., H, W)``.

    Args:
        parameters: the op's further ones; then optionally both axes' places, as in ``get_bands``.

    Returns:
        ``(..., height, width)`` in float32, or float64 for a float64 image.
    """
    down, along = _matrices(image, image.shape[-2:], (height, width), *parameters)
    return _multiply(image, down.mT, along.mT)


def resample_dense_backward(grad: Tensor, height: int, width: int, *parameters: Any) -> Tensor:
    """The op ``resample_backward``: the adjoint, ``(..., h, w)`` to the image's size."""
    down, along = _matrices(grad, (height, width), grad.shape[-2:], *parameters)
    return _multiply(grad, down, along)


def _matrices(
    like: Tensor,
    in_size: Sequence[int],
    out_size: Sequence[int],
    scale_h: float | None,
    scale_w: float | None,
    interpolation: str,
    antialias: bool,
    places: Sequence[Place | None] = (None, None),
) -> list[Tensor]:
    """Matrices of both axes, in the accumulation dtype of ``like``."""
    rest = (interpolation, antialias, accumulation_dtype(like.dtype), like.device)
    return [
        band_matrix(n, out, scale, *rest, place)
        for n, out, scale, place in zip(in_size, out_size, (scale_h, scale_w), places, strict=True)
    ]


def _multiply(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``rowsᵀ image columns`` of each plane, in the matrices' dtype despite autocast."""
    device = image.device.type
    if autocasts(device):
        with torch.autocast(device, enabled=False):
            return _multiply(image, rows, columns)
    # The matrix is on the right in both products: on the left matmul would repeat it for each plane.
    return torch.matmul(torch.matmul(image.to(rows.dtype).mT, rows).mT, columns)
