"""Resampling in pure torch: products of sparse CSR band tables with images.

Each axis is one product with the image reshaped to a matrix. A pixel outside an output's window never affects it (not
even as 0 * inf), sums have a fixed order, and the adjoint is the same call with transposed tables: a gather, where
torch's antialiased kernels scatter. ``benchmarks/results`` compares their times. Devices other than CPU and CUDA may
lack sparse CSR: there the matrices are dense, and 0 * inf gives NaN.
"""

from __future__ import annotations

import threading
import warnings

import torch
from torch import Tensor

from .bands import Bands

# Intermediate rows fit a core's L2 cache, and their memory is reused from chunk to chunk: fresh large allocations would
# cost a page fault per 4 KiB, more than the arithmetic.
_CHUNK_ELEMENTS = 256 * 1024

# Non-zeros of a block-diagonal matrix: enough rows per product to hide its call, few enough to stay cached.
_BLOCK_WEIGHTS = 64 * 1024


# Weights of a row from which a product takes the transposed rows, copies included. MKL adds up a row of 8 weights in
# vectors, column by column of a dense matrix, in an order that depends on how its threads share the columns; whole rows
# of a dense matrix it adds in one order (12,000 random products on 1, 2 and 4 threads). For Lanczos 448 -> 224 (12
# weights) that is 1.5 times faster as well on one thread and 1.1 on two.
TRANSPOSED_COUNT = 8

_HAS_MKL = torch.backends.mkl.is_available()

_SPARSE_DEVICES = ("cpu", "cuda")

# Warning filters are the process's: two threads that change and restore them at once would leave them changed.
_FILTERS = threading.Lock()


def is_channels_last(image: Tensor) -> bool:
    """Whether an image ``(…, C, H, W)`` interleaves its channels in memory.

    Crops and expanded images count, too. Determines every output's memory format: fake, pure torch and native. torch's
    own rule also checks the strides between images, even in a batch of one, and would call a decoded image contiguous
    planes.
    """
    return image.shape[-3] > 1 and image.stride(-3) == 1 and not image.is_contiguous()


def empty_image(like: Tensor, height: int, width: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised ``(B, C, height, width)`` with ``like``'s device and memory format."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    shape = (like.shape[0], like.shape[1], height, width)
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=layout)


def apply_bands(image: Tensor, bands_h: Bands, bands_w: Bands) -> Tensor:
    """Resample an image's axes: ``R_h @ image @ R_w.T`` for each plane.

    Args:
        image: ``(B, C, H, W)``, float32 or float64, any strides.
        bands_h: table of shape ``(h, H)`` in the image's dtype.
        bands_w: table of shape ``(w, W)`` in the image's dtype.

    Returns:
        ``(B, C, h, w)`` in the image's memory format. Deterministic.
    """
    out = empty_image(image, bands_h.out_size, bands_w.out_size)
    if out.numel() == 0:
        return out
    if is_identity(bands_h) and is_identity(bands_w):
        return out.copy_(image)
    # Rows of W * inner elements: interleaved channels only make the row longer.
    if is_channels_last(image):
        inner = image.shape[1]
        x = image.permute(0, 2, 3, 1).contiguous().view(-1, bands_h.in_size, bands_w.in_size * inner)
        y = out.permute(0, 2, 3, 1).view(-1, bands_h.out_size, bands_w.out_size * inner)
    else:
        inner = 1
        x = image.contiguous().view(-1, bands_h.in_size, bands_w.in_size)
        y = out.view(-1, bands_h.out_size, bands_w.out_size)
    resample_planes(x, y, bands_h, bands_w, inner)
    return out


def resample_planes(x: Tensor, y: Tensor, bands_h: Bands, bands_w: Bands, inner: int) -> None:
    """Resample the planes ``x (P, H, W*inner)`` into ``y (P, h, w*inner)``.

    Each becomes ``R_h @ x @ (R_w ⊗ I_inner).T``.
    """
    if is_identity(bands_w):
        for p in _plane_chunks(x, y.shape[1] * y.shape[2]):
            resample_down(x[p], y[p], bands_h)
    elif is_identity(bands_h):
        resample_along(x.flatten(0, 1), y.flatten(0, 1), bands_w, inner)
    elif bands_h.out_size <= bands_h.in_size:
        _vertical_first(x, y, bands_h, bands_w, inner)
    else:
        _horizontal_first(x, y, bands_h, bands_w, inner)


def _vertical_first(x: Tensor, y: Tensor, bands_h: Bands, bands_w: Bands, inner: int) -> None:
    height, row = bands_h.out_size, x.shape[2]
    rows = min(height, max(1, _CHUNK_ELEMENTS // row))
    if rows == height:
        scratch = x.new_empty(_planes_per_chunk(x, height * row) * height, row)
        for p in _plane_chunks(x, height * row):
            temp = scratch[: len(x[p]) * height].view(-1, height, row)
            resample_down(x[p], temp, bands_h)
            resample_along(temp.flatten(0, 1), y[p].flatten(0, 1), bands_w, inner)
        return
    scratch = x.new_empty(rows, row)
    for plane in range(len(x)):
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            temp = scratch[: bottom - top]
            first, matrix = _row_slice(bands_h, top, bottom)
            _multiply(matrix, x[plane, first : first + matrix.shape[1]], temp)
            resample_along(temp, y[plane, top:bottom], bands_w, inner)


def _horizontal_first(x: Tensor, y: Tensor, bands_h: Bands, bands_w: Bands, inner: int) -> None:
    size = bands_h.in_size * y.shape[2]
    scratch = x.new_empty(_planes_per_chunk(x, size) * bands_h.in_size, y.shape[2])
    for p in _plane_chunks(x, size):
        temp = scratch[: len(x[p]) * bands_h.in_size].view(-1, bands_h.in_size, y.shape[2])
        resample_along(x[p].flatten(0, 1), temp.flatten(0, 1), bands_w, inner)
        resample_down(temp, y[p], bands_h)


def accumulate_rows(x: Tensor, y: Tensor, bands_h: Bands, bands_w: Bands, inner: int, top: int) -> None:
    """Add input rows ``top:top+T``, ``x (T, W*inner)``, resampled, to ``y (h, w*inner)``."""
    first, matrix = _column_slice(bands_h, top, top + len(x))
    if matrix.shape[0]:
        temp = x.new_empty(matrix.shape[0], x.shape[1])
        _multiply(matrix, x, temp)
        resample_along(temp, y[first : first + len(temp)], bands_w, inner, accumulate=True)


def resample_rows(x: Tensor, y: Tensor, bands_h: Bands, bands_w: Bands, inner: int, top: int) -> None:
    """Write rows ``top:top+T`` of resampled ``x (H, W*inner)`` into ``y (T, w*inner)``."""
    first, matrix = _row_slice(bands_h, top, top + len(y))
    temp = x.new_empty(len(y), x.shape[1])
    _multiply(matrix, x[first : first + matrix.shape[1]], temp)
    resample_along(temp, y, bands_w, inner)


def _planes_per_chunk(x: Tensor, elements: int) -> int:
    return min(len(x), max(1, _CHUNK_ELEMENTS // elements))


def _plane_chunks(x: Tensor, elements: int) -> list[slice]:
    """Groups of planes whose intermediates, ``elements`` each, fill a chunk."""
    step = _planes_per_chunk(x, elements)
    return [slice(p, min(p + step, len(x))) for p in range(0, len(x), step)]


def resample_down(x: Tensor, y: Tensor, bands: Bands) -> None:
    """``y (P, h, K) = R @ x (P, H, K)``."""
    if x.device.type not in _SPARSE_DEVICES:
        y.copy_(torch.matmul(_block_diagonal(bands, 1), x))
        return
    _multiply(_block_diagonal(bands, len(x)), x.flatten(0, 1), y.flatten(0, 1))


def resample_along(x: Tensor, y: Tensor, bands: Bands, inner: int = 1, accumulate: bool = False) -> None:
    """``y (N, w*inner) = x (N, W*inner) @ (R ⊗ I_inner).T``.

    Added to y if ``accumulate``.
    """
    if inner == 1:
        matrix = _block_diagonal(bands, 1)
        if bands.max_count >= TRANSPOSED_COUNT and x.is_cpu:
            product = x.new_empty(bands.out_size, len(x))
            _multiply(matrix, x.t().contiguous(), product)
            y.add_(product.t()) if accumulate else y.copy_(product.t())
        else:
            _multiply(matrix, x.t(), y.t(), accumulate)
        return
    if x.device.type not in _SPARSE_DEVICES:
        product = torch.matmul(_block_diagonal(bands, 1), x.unflatten(1, (-1, inner))).flatten(1)
        y.copy_(y + product if accumulate else product)
        return
    step = max(1, _BLOCK_WEIGHTS // (bands.max_count * bands.out_size))
    for top in range(0, len(x), step):
        rows = x[top : top + step]
        matrix = _block_diagonal(bands, len(rows))
        _multiply(matrix, rows.reshape(-1, inner), y[top : top + step].view(-1, inner), accumulate)


def _multiply(matrix: Tensor, dense: Tensor, out: Tensor, accumulate: bool = False) -> None:
    if matrix.layout == torch.strided:
        product = matrix @ dense
        out.copy_(out + product if accumulate else product)
        return
    # With another first argument than `out`, torch would copy it to `out`, even for beta = 0. MKL does not read `out`
    # then; other libraries might, and uninitialised memory may hold NaN.
    if not accumulate and not (_HAS_MKL and out.device.type == "cpu"):
        out.zero_()
    torch.addmm(out, matrix, dense, beta=int(accumulate), out=out)


def is_identity(bands: Bands) -> bool:
    """Whether the table leaves its axis unchanged, with one weight per row."""

    def check() -> bool:
        place = torch.arange(bands.in_size, device=bands.start.device)
        return bands.in_size == bands.out_size and is_selection(bands) and bool((bands.start == place).all())

    return bands.derive("identity", check)


def is_selection(bands: Bands) -> bool:
    """Whether each output is one input pixel, unweighted."""

    def check() -> bool:
        one_each = bands.out_size == len(bands.weight) and bands.max_count == 1
        return one_each and bool((bands.weight == 1).all())

    return bands.derive("selection", check)


def select_pixels(image: Tensor, bands_h: Bands, bands_w: Bands) -> Tensor:
    """``apply_bands`` with two selections, for any dtype."""
    out = empty_image(image, bands_h.out_size, bands_w.out_size)
    return out.copy_(image.index_select(2, bands_h.start).index_select(3, bands_w.start))


def _block_diagonal(bands: Bands, repeat: int) -> Tensor:
    """Sparse ``I_repeat ⊗ R``: one product for ``repeat`` planes or rows."""

    def make() -> Tensor:
        count = (bands.offset[1:] - bands.offset[:-1]).repeat(repeat)
        column = _columns(bands.start, bands.offset)
        shift = torch.arange(repeat, device=column.device).repeat_interleave(len(column)) * bands.in_size
        return _matrix(count, column.repeat(repeat) + shift, bands.weight.repeat(repeat), repeat * bands.in_size)

    return bands.derive(("block", repeat), make)


def _row_slice(bands: Bands, top: int, bottom: int) -> tuple[int, Tensor]:
    """Rows ``top:bottom`` of R without its leading empty columns: ``(first column, matrix)``."""

    def make() -> tuple[int, Tensor]:
        offset = bands.offset[top : bottom + 1]
        column = _columns(bands.start[top:bottom], offset - offset[0])
        first, last = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        weight = bands.weight[int(offset[0]) : int(offset[-1])]
        return first, _matrix(offset[1:] - offset[:-1], column - first, weight, last + 1 - first)

    return bands.derive(("rows", top, bottom), make)


def _column_slice(bands: Bands, left: int, right: int) -> tuple[int, Tensor]:
    """Columns ``left:right`` of R without its leading empty rows: ``(first row, matrix)``."""

    def make() -> tuple[int, Tensor]:
        end = bands.start + bands.offset[1:] - bands.offset[:-1]
        rows = ((bands.start < right) & (end > left)).nonzero().flatten()
        # Starts and ends never decrease, so the rows that read these columns are consecutive.
        top, bottom = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
        column = _columns(bands.start, bands.offset)
        entries = slice(int(bands.offset[top]), int(bands.offset[bottom]))
        column, weight = column[entries], bands.weight[entries]
        keep = (column >= left) & (column < right)
        count = end[top:bottom].clamp(max=right) - bands.start[top:bottom].clamp(min=left)
        return top, _matrix(count, column[keep] - left, weight[keep], right - left)

    return bands.derive(("columns", left, right), make)


def _columns(start: Tensor, offset: Tensor) -> Tensor:
    count = offset[1:] - offset[:-1]
    return torch.arange(int(offset[-1]), device=start.device) + (start - offset[:-1]).repeat_interleave(count)


def _matrix(count: Tensor, column: Tensor, weight: Tensor, columns: int) -> Tensor:
    """Sparse CSR tensor, or dense on devices that may not support CSR."""
    if weight.device.type not in _SPARSE_DEVICES:
        with torch.inference_mode(False):
            dense = weight.new_zeros(len(count), columns)
            dense[torch.arange(len(count), device=column.device).repeat_interleave(count), column] = weight
            return dense
    offset = torch.zeros(len(count) + 1, dtype=torch.int32, device=count.device)
    torch.cumsum(count, 0, dtype=torch.int32, out=offset[1:])
    with _FILTERS, warnings.catch_warnings(), torch.inference_mode(False):
        # torch calls its CSR layout beta; the one product used here has been stable since 1.13.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(
            offset, column.to(torch.int32), weight, (len(count), columns), check_invariants=False
        )
