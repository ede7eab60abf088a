"""Resampling from its definition: dense float64 matrices, row by row, sharing no code with the package.

The definitions are those of docs/math.md, part 1. Everything is Python floats and one loop over all inputs
for each output, so that it can be checked by reading.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np

SUPPORT = {"box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0, "lanczos": 3.0}

# Where the weights of a window add up to less than this, it holds no pixel that counts (it lies beyond
# the image, or touches it only at zeros of the filter): the output is the last pixel. The package's rule too.
EMPTY_WINDOW = 1e-7


def kernel(interpolation: str, t: float, a: float) -> float:
    """Value at `t` of the box, triangle, Hamming, Keys' cubic with parameter `a`, or Lanczos-3."""
    if interpolation == "box":
        return 1.0 if -0.5 < t <= 0.5 else 0.0
    t = abs(t)
    if t >= SUPPORT[interpolation]:
        return 0.0
    if interpolation == "bilinear":
        return 1.0 - t
    if interpolation == "bicubic":
        if t < 1.0:
            return (a + 2.0) * t**3 - (a + 3.0) * t**2 + 1.0
        return a * t**3 - 5.0 * a * t**2 + 8.0 * a * t - 4.0 * a
    if t == 0.0:
        return 1.0
    if interpolation == "hamming":
        # Pillow's constants are float32: 0.54f and 0.46f.
        return (
            math.sin(math.pi * t)
            / (math.pi * t)
            * (0.540000021457672119 + 0.460000008344650269 * math.cos(math.pi * t))
        )
    return 3.0 * math.sin(math.pi * t) * math.sin(math.pi * t / 3.0) / (math.pi * t) ** 2


@lru_cache(maxsize=4096)
def weights(in_size: int, out_size: int, factor: float | None, interpolation: str, antialias: bool) -> np.ndarray:
    """The filter at every pixel, before rows are made to sum to 1: float64 (out_size, in_size)."""
    step = in_size / out_size if factor is None else 1.0 / factor
    rows = np.zeros((out_size, in_size))
    for o in range(out_size):
        center = (o + 0.5) * step
        if interpolation == "nearest" or (interpolation == "box" and not antialias):
            place = Fraction(2 * o + 1, 2) * Fraction(in_size, out_size) if factor is None else (o + 0.5) / factor
            rows[o, min(math.floor(place), in_size - 1)] = 1.0
            continue
        row = _antialiased_row if antialias else _plain_row
        row(rows[o], center, max(step, 1.0), interpolation)
    rows.setflags(write=False)
    return rows


@lru_cache(maxsize=4096)
def matrix(in_size: int, out_size: int, factor: float | None, interpolation: str, antialias: bool) -> np.ndarray:
    """Dense matrix of one axis, float64 (out_size, in_size); a `factor` (out/in) sets the coordinates."""
    rows = weights(in_size, out_size, factor, interpolation, antialias).copy()
    for o in range(out_size):
        total = rows[o].sum()
        if abs(total) < EMPTY_WINDOW:
            rows[o] = 0.0
            rows[o, in_size - 1] = 1.0
        else:
            rows[o] /= total
    rows.setflags(write=False)
    return rows


def region_matrix(
    size: int, out_size: int, begin: float, extent: float, mirror: bool, interpolation: str, antialias: bool
) -> np.ndarray:
    """Dense matrix from a whole axis to the outputs of a region of it, float64 (out_size, size)."""
    if mirror:
        return region_matrix(size, out_size, size - begin - extent, extent, False, interpolation, antialias)[:, ::-1]
    first, end = math.floor(begin), min(math.ceil(begin + extent), size)
    rows = np.zeros((out_size, size))
    if begin == first and extent == end - first:
        rows[:, first:end] = matrix(end - first, out_size, None, interpolation, antialias)
        return rows
    step = extent / out_size
    for o in range(out_size):
        center = (o + 0.5) * step + (begin - first)
        row = rows[o, first:end]
        if interpolation == "nearest" or (interpolation == "box" and not antialias):
            exact = Fraction(begin) - first + Fraction(2 * o + 1, 2) * Fraction(extent) / out_size
            row[min(math.floor(exact), len(row) - 1)] = 1.0
            continue
        (_antialiased_row if antialias else _plain_row)(row, center, max(step, 1.0), interpolation)
        row /= row.sum()
    return rows


def _antialiased_row(row: np.ndarray, center: float, stretch: float, interpolation: str) -> None:
    if interpolation == "box":
        # Where an edge falls on a pixel's centre the last bit decides: Pillow's window, and its order of roundings.
        for i in range(max(int(center - 0.5 * stretch + 0.5), 0), min(int(center + 0.5 * stretch + 0.5), len(row))):
            row[i] = kernel("box", (i - center + 0.5) * (1.0 / stretch), -0.5)
        return
    for i in range(len(row)):
        row[i] = kernel(interpolation, (i + 0.5 - center) / stretch, -0.5)


def _plain_row(row: np.ndarray, center: float, _: float, interpolation: str) -> None:
    last = len(row) - 1
    position = center - 0.5
    if interpolation == "bilinear":
        position = min(max(position, 0.0), float(last))
    reach = int(SUPPORT[interpolation])
    for i in range(math.floor(position) - reach, math.floor(position) + reach + 2):
        row[min(max(i, 0), last)] += kernel(interpolation, position - i, -0.75)


def resize(
    image: np.ndarray,
    size: tuple[int, int],
    factor: tuple[float | None, float | None],
    interpolation: str,
    antialias: bool,
) -> np.ndarray:
    """Resample the two last axes of an array in float64, without any rounding to the image's type."""
    rows, columns = (
        matrix(n, out, f, interpolation, antialias) for n, out, f in zip(image.shape[-2:], size, factor, strict=True)
    )
    return np.einsum("yh,...hw,xw->...yx", rows, image.astype(np.float64), columns, optimize=True)


def gain(
    shape: tuple[int, ...],
    size: tuple[int, int],
    factor: tuple[float | None, float | None],
    interpolation: str,
    antialias: bool,
) -> np.ndarray:
    """Sum of absolute weights of every output pixel, (out_height, out_width): by how much errors can grow."""
    rows, columns = (
        np.abs(matrix(n, out, f, interpolation, antialias)).sum(1)
        for n, out, f in zip(shape[-2:], size, factor, strict=True)
    )
    return rows[:, None] * columns[None, :]


def resize_fixed(image: np.ndarray, size: tuple[int, int], interpolation: str, rows_first: bool = True) -> np.ndarray:
    """Pillow's resizing of bytes ``(..., C, H, W)`` in whole numbers: weights of 22 bits, a byte after each pass.

    The last of two or four channels is alpha.
    """
    if image.shape[-2:] == size:
        return image.copy()
    x = image.astype(np.int64)
    has_alpha = image.shape[-3] in (2, 4) and interpolation != "nearest"
    if has_alpha:
        # Half up, of c alpha / 255.
        x[..., :-1, :, :] = (2 * x[..., :-1, :, :] * x[..., -1:, :, :] + 255) // 510
    for axis in (-1, -2) if rows_first else (-2, -1):
        weights = _fixed_matrix(x.shape[axis], size[axis], interpolation)
        lines = np.moveaxis(x, axis, -1) @ weights.T
        # Pillow adds up in 32 bits.
        assert np.abs(lines).max(initial=0) < 2**31 - 2**21
        x = np.moveaxis(np.clip((lines + 2**21) // 2**22, 0, 255), -1, axis)
    if has_alpha:
        colours, alpha = x[..., :-1, :, :], x[..., -1:, :, :]
        x[..., :-1, :, :] = np.where(alpha == 0, colours, np.minimum(colours * 255 // np.maximum(alpha, 1), 255))
    return x.astype(np.uint8)


@lru_cache(maxsize=256)
def _fixed_matrix(in_size: int, out_size: int, interpolation: str) -> np.ndarray:
    """Weights of one axis in units of 2^-22, rounded half away from zero: int64 (out_size, in_size)."""
    rows = np.zeros((out_size, in_size), np.int64)
    if in_size == out_size:
        np.fill_diagonal(rows, 2**22)
    elif interpolation == "nearest":
        place = in_size / out_size * 0.5
        for row in rows:
            row[min(int(place), in_size - 1)] = 2**22
            place += in_size / out_size
    else:
        for row, exact in zip(rows, matrix(in_size, out_size, None, interpolation, True), strict=True):
            row[:] = [int(weight * 2**22 + (0.5 if weight >= 0 else -0.5)) for weight in exact.tolist()]
    return rows
