"""Launcher of the native fixed-point resampling (csrc/core/resample_fixed/resample_fixed.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ..ops.band_matmul import empty_image, is_channels_last
from ..ops.bands import FIXED_BITS, Bands
from . import device, native
from .tables import on_stream, packed

# As kFixedThreads and kFixedRows of resample_fixed.h.
_THREADS = 128
_ROWS = 4

# Output rows of a strip. Tall strips read fewer rows twice; 8 blocks, 32 warps, keep a multiprocessor busy.
_STRIP_ROWS = (32, 16, 8, 4)
_BLOCKS = 8


def resample_fixed(image: Tensor, bands_h: Bands, bands_w: Bands, rows_first: bool) -> Tensor:
    """Resample the bytes of a CUDA image in Pillow's fixed-point arithmetic.

    One launch on the current stream of the image's device, and one before it where the tables are new to the stream.
    Never waits for the device. The bytes are those of the op in pure torch: all arithmetic is in whole numbers.

    Args:
        image: ``(B, C, H, W)``, uint8, on a CUDA device, any strides; read in place.
        bands_h: table of shape ``(h, H)`` from ``get_fixed_bands``, on the CPU.
        bands_w: table of shape ``(w, W)``.
        rows_first: whether the rows are resampled along themselves before the columns.

    Returns:
        ``(B, C, h, w)``, uint8, in the image's memory format.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    out = empty_image(image, bands_h.out_size, bands_w.out_size)
    batch, count = image.shape[:2]
    interleaved = is_channels_last(image)
    planes, planes_per_image, channels = (batch, 1, count) if interleaved else (batch * count, count, 1)
    strides = [(n, 0, c, y, x) if interleaved else (n, c, 0, y, x) for n, c, y, x in (image.stride(), out.stride())]
    if not rows_first:
        bands_h, bands_w = bands_w, bands_h
        strides = [(n, p, c, x, y) for n, p, c, y, x in strides]
    height, width = bands_h.out_size, bands_w.out_size
    columns = planes * width * channels
    strip_rows = _strip_rows(height, columns, device.multiprocessors(image.device))
    data, begins = _tables(bands_h, bands_w, strip_rows)
    place = device.place(image.device)
    tables = on_stream(data, image.device, *place)
    native.load().resample_fixed(
        [tables.address + begin for begin in begins],
        (planes, planes_per_image, channels),
        (height, width),
        bands_w.max_count,
        strip_rows,
        image.data_ptr(),
        strides[0],
        out.data_ptr(),
        strides[1],
        *place,
    )
    return out


def _strip_rows(height: int, columns: int, multiprocessors: int) -> int:
    blocks, wanted = -(-columns // _THREADS), _BLOCKS * multiprocessors
    return next((rows for rows in _STRIP_ROWS if blocks * -(-height // rows) >= wanted), _STRIP_ROWS[-1])


@lru_cache(maxsize=256)
def _tables(bands_h: Bands, bands_w: Bands, strip_rows: int) -> tuple[bytes, list[int]]:
    """The kernel's tables and where each begins, in the order of ``ResampleFixedParams``."""
    return packed([*_column_tables(bands_w), *_row_tables(bands_h, strip_rows)])


def _csr(bands: Bands) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``start``, ``offset``, each weight's output, and the weights times 2²²."""
    start, offset = bands.start.numpy().astype(np.int64), bands.offset.numpy().astype(np.int64)
    weight = (bands.weight.numpy() * 2**FIXED_BITS).astype(np.int32)
    return start, offset, np.repeat(np.arange(bands.out_size), np.diff(offset)), weight


def _column_tables(bands: Bands) -> tuple[np.ndarray, np.ndarray]:
    """First taps ``(out_size,)`` and weights ``(⌈taps / 4⌉, out_size, 4)``.

    Every output has as many taps, those beyond its window with weight 0. None lies outside the image.
    """
    start, offset, output, weight = _csr(bands)
    first = np.minimum(start, bands.in_size - bands.max_count)
    tap = np.arange(len(weight)) + (start - first - offset[:-1])[output]
    table = np.zeros((-(-bands.max_count // 4), bands.out_size, 4), np.int32)
    table[tap // 4, output, tap % 4] = weight
    return first.astype(np.int32), table


def _row_tables(bands: Bands, strip_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``strip_begin``, ``group`` and ``row_weight``: the vertical filter, transposed.

    Each strip of output rows has groups of the image rows that it reads, with the weights of the outputs that read
    them.
    """
    start, offset, output, weight = _csr(bands)
    row = np.arange(len(weight)) + (start - offset[:-1])[output]
    read = weight != 0
    output, row, weight = output[read], row[read], weight[read]
    # The rows that each strip reads, in order, and which of them a weight is for.
    used, of_weight = np.unique(output // strip_rows * bands.in_size + row, return_inverse=True)
    strip = used // bands.in_size
    rows = np.bincount(strip)
    strip_begin = np.concatenate(([0], np.cumsum(-(-rows // _ROWS))))
    place = np.arange(len(used)) + (strip_begin[:-1] * _ROWS - (np.cumsum(rows) - rows))[strip]
    group, in_group = np.divmod(place[of_weight], _ROWS)
    first = np.full(strip_begin[-1], bands.out_size)
    np.minimum.at(first, group, output)
    count = np.zeros_like(first)
    np.maximum.at(count, group, output - first[group] + 1)
    index = np.cumsum(count) - count

    image_rows = np.zeros(len(count) * _ROWS, np.int64)
    image_rows[place] = used % bands.in_size
    groups = np.zeros((len(count), 2 * _ROWS), np.int32)
    # Behind a strip's last row: that row again, with weight 0.
    groups[:, :_ROWS] = np.maximum.accumulate(image_rows.reshape(-1, _ROWS), 1)
    groups[:, _ROWS:-1] = np.stack((first % strip_rows, count, index), 1)
    row_weight = np.zeros((count.sum(), _ROWS), np.int32)
    row_weight[index[group] + output - first[group], in_group] = weight
    return strip_begin.astype(np.int32), groups, row_weight
