"""Launcher of the native fixed-point resampling (csrc/core/resample_fixed/resample_fixed.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ..ops.band_matmul import empty_image
from ..ops.bands import FIXED_BITS, Bands
from . import device, native
from .resample import layout_of
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
    layout = layout_of(image)
    n, c, y, x = out.stride()
    strides = [layout.strides, (n, 0, c, y, x) if layout.channels > 1 else (n, c, 0, y, x)]
    if not rows_first:
        bands_h, bands_w = bands_w, bands_h
        strides = [(n, p, c, x, y) for n, p, c, y, x in strides]
    height, width = bands_h.out_size, bands_w.out_size
    columns = layout.planes * width * layout.channels
    strip_rows = _strip_rows(height, columns, device.multiprocessors(image.device))
    data, begins = _tables(bands_h, bands_w, strip_rows)
    place = device.place(image.device)
    tables = on_stream(data, image.device, *place)
    native.load().resample_fixed(
        [tables.address + begin for begin in begins],
        (layout.planes, layout.planes_per_image, layout.channels),
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
    begins, groups, weights = [0], [], []
    stored = 0
    for top in range(0, bands.out_size, strip_rows):
        bottom = min(top + strip_rows, bands.out_size)
        strip = slice(*np.searchsorted(output, (top, bottom)))
        used, place = np.unique(row[strip], return_inverse=True)
        padded = -(-len(used) // _ROWS) * _ROWS
        dense = np.zeros((bottom - top, padded), np.int32)
        dense[output[strip] - top, place] = weight[strip]
        by_group = dense.reshape(bottom - top, -1, _ROWS).swapaxes(0, 1)  # (groups, outputs, rows)
        reads = by_group.any(2)
        first = reads.argmax(1)
        end = bottom - top - reads[:, ::-1].argmax(1)
        outputs = np.arange(bottom - top)
        weights.append(by_group[(outputs >= first[:, None]) & (outputs < end[:, None])])
        group = np.zeros((len(reads), 2 * _ROWS), np.int32)
        # Beyond the last row: that row again, with weight 0.
        group[:, :_ROWS] = np.pad(used, (0, padded - len(used)), mode="edge").reshape(-1, _ROWS)
        count = end - first
        group[:, _ROWS:-1] = np.stack((first, count, stored + np.cumsum(count) - count), 1)
        groups.append(group)
        stored += len(weights[-1])
        begins.append(begins[-1] + len(group))
    return np.array(begins, np.int32), np.concatenate(groups), np.concatenate(weights)
