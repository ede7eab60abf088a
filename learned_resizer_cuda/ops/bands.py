"""Band tables: one axis of a resampling as a sparse CSR matrix.

Output ``o`` of an axis reads the inputs ``start[o] … start[o] + count[o] - 1`` with weights that sum to 1.
The antialiased filters (box, triangle, Hamming, cubic a = -0.5, Lanczos-3) and their windows are those of Pillow and
of torch's ``antialias=True``; without antialiasing the taps are torch's (linear, cubic a = -0.75) with the image's
border repeated. ``docs/math.md`` derives every formula used here.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .regions import Place

# Of `resize`; the learned resizer takes the smooth ones.
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RESIZER_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")

# Support of each filter in input pixels, before antialiasing widens it by max(scale, 1). "nearest" has no filter.
SUPPORT = {"box": 0.5, "bilinear": 1, "hamming": 1, "bicubic": 2, "lanczos": 3}

# Hamming's 0.54 and 0.46 as Pillow's source has them, in float32: one byte in four million depends on it.
HAMMING = (float(np.float32(0.54)), float(np.float32(0.46)))

# Pillow's fixed-point weights have 22 bits behind the point: 32 less 8 of the byte and 2 for overshooting sums.
FIXED_BITS = 22

# Smaller weights are zeros of the filter with float64 rounding (sinc at an integer leaves 4e-17).
_ZERO_WEIGHT = 1e-14

# A window whose weights sum to less than this has no usable pixel: it lies beyond the image, or touches it at zeros of
# the filter only (where rounding leaves about 1e-17).
EMPTY_WINDOW = 1e-7

_INT32_MAX = 2**31 - 1

# Of all cached tables and what is derived from them: those of about 200 photographs' sizes, to and fro.
CACHE_BYTES = 64 << 20

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Bands:
    """One axis as a band matrix ``(out_size, in_size)`` in CSR form.

    Attributes:
        in_size: number of columns.
        out_size: number of rows.
        start: int32 ``(out_size,)``, first input each row reads. Non-decreasing.
        offset: int32 ``(out_size + 1,)``, CSR offsets into ``weight``. ``start + count`` is non-decreasing too.
        weight: float32 or float64 ``(nnz,)``. The rows of a forward table sum to 1.
        max_count: the most inputs any row reads.
        max_open: the most rows that read any one input (the transposed table's ``max_count``).
    """

    in_size: int
    out_size: int
    start: Tensor
    offset: Tensor
    weight: Tensor
    max_count: int
    max_open: int
    # The table that this one is the transpose of. Weak: a cycle would keep both until a garbage collection.
    _owner: weakref.ref[Bands] | None = field(default=None, repr=False)
    _derived: dict[object, Any] = field(default_factory=dict, repr=False)

    def derive(self, key: object, make: Callable[[], Value]) -> Value:
        """What an implementation derives from the table, made once."""
        if key not in self._derived:
            made = make()
            if self._derived.setdefault(key, made) is made:
                TABLES.grow(self if self._owner is None else self._owner(), _bytes_of(made))
        return self._derived[key]  # type: ignore[no-any-return]

    def transposed(self) -> Bands:
        """The adjoint's table ``(in_size, out_size)``; rows of unread inputs are empty."""
        return self.derive("transposed", self._transpose)

    def _transpose(self) -> Bands:
        start, offset, weight = (t.cpu().numpy() for t in (self.start, self.offset, self.weight))
        count = np.diff(offset)
        row = np.repeat(np.arange(self.out_size), count)
        column = _ranges(start, count)
        order = np.argsort(column, kind="stable")
        open_rows = np.bincount(column, minlength=self.in_size)
        offset_t = _offsets(open_rows)
        # The row of an unread input is empty; its start only has to be in order.
        start_t = np.searchsorted(start.astype(np.int64) + count, np.arange(self.in_size), side="right")
        start_t = np.minimum(start_t, self.out_size)
        assert open_rows.sum() == 0 or (row[order][offset_t[:-1][open_rows > 0]] == start_t[open_rows > 0]).all()
        owner = weakref.ref(self)
        return _make(self.out_size, start_t, offset_t, weight[order], self.weight.dtype, self.weight.device, owner)

    def dense(self) -> Tensor:
        """Dense band matrix ``(out_size, in_size)``, on the table's device, in its dtype."""
        matrix = torch.zeros(self.out_size, self.in_size, dtype=self.weight.dtype)
        count = np.diff(self.offset.cpu().numpy())
        row = np.repeat(np.arange(self.out_size), count)
        column = _ranges(self.start.cpu().numpy(), count)
        matrix[torch.from_numpy(row), torch.from_numpy(column)] = self.weight.cpu()
        return matrix.to(self.weight.device)


def _bytes_of(made: Any) -> int:
    """Bytes of tables, dense and sparse tensors, and tuples of them."""
    if isinstance(made, Bands):
        return sum(map(_bytes_of, (made.start, made.offset, made.weight)))
    if isinstance(made, tuple):
        return sum(map(_bytes_of, made))
    if not isinstance(made, Tensor):
        return 0
    if made.layout == torch.sparse_csr:
        return 4 * (len(made) + 1) + made._nnz() * (4 + made.element_size())
    return made.numel() * made.element_size()


class BandCache:
    """The tables used last, up to a number of bytes.

    With all that was derived from them.

    Attributes:
        size: bytes of what it holds; one table may exceed the limit alone.
    """

    def __init__(self, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._tables: OrderedDict[object, Bands] = OrderedDict()
        self._sizes: dict[Bands, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._tables)

    def get(self, key: object, make: Callable[[], Bands]) -> Bands:
        with self._lock:
            if key in self._tables:
                self._tables.move_to_end(key)
                return self._tables[key]
        # Outside the lock: other threads make other tables meanwhile.
        made = make()
        with self._lock:
            if key not in self._tables:
                self._tables[key], self._sizes[made] = made, 0
                self._grow(made, _bytes_of(made))
            return self._tables[key]

    def grow(self, table: Bands | None, size: int) -> None:
        """Count what was derived from a table, if it is still held."""
        with self._lock:
            self._grow(table, size)

    def _grow(self, table: Bands | None, size: int) -> None:
        if table is None or table not in self._sizes:
            return
        self._sizes[table] += size
        self.size += size
        while self.size > self._limit and len(self._tables) > 1:
            _, oldest = self._tables.popitem(last=False)
            self.size -= self._sizes.pop(oldest)

    def clear(self) -> None:
        with self._lock:
            self._tables.clear()
            self._sizes.clear()
            self.size = 0


TABLES = BandCache(CACHE_BYTES)


def get_bands(
    in_size: int,
    out_size: int,
    scale: float | None,
    interpolation: str,
    antialias: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    place: Place | None = None,
) -> Bands:
    """Return the cached band table of one axis.

    Args:
        in_size: input length, at least 1.
        out_size: output length, at least 1.
        scale: explicit scale factor (output pixels per input pixel) that sets the coordinates, or ``None`` to
            derive it from the sizes.
        interpolation: one of ``INTERPOLATIONS``.
        antialias: widen the filter by the scale when shrinking.
        dtype: dtype of the image. The weights are computed in float64 and kept in float64 for float64 images,
            else in float32.
        device: where the table's tensors live.
        place: of the region that fills the output, in an axis without ``scale``; ``None``: all of it.

    Raises:
        ValueError: if an axis is too long for 32-bit table entries (about 300 million pixels).
    """
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    factor = None if scale is None else float(scale)
    axis = int(in_size), int(out_size), factor, interpolation, bool(antialias), place

    def make() -> Bands:
        start, count, weight = _rows(*axis)
        # The cache outlives inference mode, whose tensors would fail in a later training step.
        with torch.inference_mode(False):
            return _make(axis[0], start, _offsets(count), weight, dtype, torch.device(device))

    return TABLES.get((axis, dtype, str(device)), make)


def get_fixed_bands(in_size: int, out_size: int, interpolation: str, antialias: bool, device: str = "cpu") -> Bands:
    """Return Pillow's fixed-point table of one axis, cached.

    Weights are float64 multiples of ``2**-22``, rounded half away from zero as Pillow does. Pillow always antialiases.
    """

    def make() -> Bands:
        if interpolation == "nearest":
            start = np.minimum(_pillow_nearest(in_size, out_size), in_size - 1)
            count, weight = np.ones(out_size, np.int64), np.ones(out_size)
        else:
            start, count, weight = _rows(in_size, out_size, None, interpolation, antialias)
        weight = np.trunc(weight * 2**FIXED_BITS + np.copysign(0.5, weight)) / 2**FIXED_BITS
        with torch.inference_mode(False):
            return _make(in_size, start, _offsets(count), weight, torch.float64, torch.device(device))

    return TABLES.get((in_size, out_size, interpolation, antialias, "fixed", device), make)


def _pillow_nearest(in_size: int, out_size: int) -> np.ndarray:
    """Pillow's nearest pixels.

    It adds up the step, whose rounding decides between two pixels that are equally near.
    """
    step = in_size / out_size
    return np.cumsum(np.concatenate(([step * 0.5], np.full(out_size - 1, step)))).astype(np.int64)


def _make(
    in_size: int,
    start: np.ndarray,
    offset: np.ndarray,
    weight: np.ndarray,
    dtype: torch.dtype,
    device: torch.device,
    owner: weakref.ref[Bands] | None = None,
) -> Bands:
    count = np.diff(offset)
    # +1 where a row opens, -1 where it closes: the running sum is the number of rows open at an input.
    edges = np.bincount(start, minlength=in_size + 1) - np.bincount(start + count, minlength=in_size + 1)
    return Bands(
        in_size=in_size,
        out_size=len(start),
        start=torch.from_numpy(start.astype(np.int32)).to(device),
        offset=torch.from_numpy(offset.astype(np.int32)).to(device),
        # dtype before device: not every device has float64.
        weight=torch.from_numpy(np.ascontiguousarray(weight)).to(dtype).to(device),
        max_count=int(count.max(initial=0)),
        max_open=int(np.cumsum(edges).max(initial=0)),
        _owner=owner,
    )


def _rows(
    in_size: int, out_size: int, factor: float | None, interpolation: str, antialias: bool, place: Place | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every row's ``start`` and ``count``, and the rows' concatenated weights in float64."""
    if in_size == out_size and factor in (None, 1.0) and place is None:
        # One weight per row: 0 times a NaN neighbour would be NaN.
        return np.arange(out_size), np.ones(out_size, np.int64), np.ones(out_size)
    offset, extent = (0.0, in_size) if place is None else place
    scale = extent / out_size if factor is None else 1.0 / factor
    if interpolation == "nearest" or (interpolation == "box" and not antialias):
        start = _nearest_pixels(in_size, out_size, factor, offset, extent)
        return start, np.ones(out_size, np.int64), np.ones(out_size)
    window = min(in_size, math.ceil(2 * SUPPORT[interpolation] * max(scale, 1.0)) + 1)
    if out_size * window > _INT32_MAX:
        raise ValueError(
            f"size: an axis of {in_size} -> {out_size} pixels with interpolation={interpolation!r} needs up to "
            f"{out_size * window} weights; expected at most {_INT32_MAX}"
        )
    build = _antialiased_rows if antialias else _plain_rows
    return build(in_size, out_size, scale, offset, interpolation)


def _nearest_pixels(in_size: int, out_size: int, factor: float | None, offset: float, extent: float) -> np.ndarray:
    """The pixel whose area contains each output's centre.

    Exact for whole pixels; at an edge between two pixels the right one.
    """
    o = np.arange(out_size)
    pixel = np.floor(offset + (2 * o + 1) * extent / (2 * out_size) if factor is None else (o + 0.5) / factor)
    return np.minimum(pixel, in_size - 1).astype(np.int64)


def _antialiased_rows(
    in_size: int, out_size: int, scale: float, offset: float, interpolation: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stretch = max(scale, 1.0)
    support = SUPPORT[interpolation] * stretch
    center = scale * (np.arange(out_size) + 0.5) + offset
    start = np.maximum(np.trunc(center - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(center + support + 0.5), in_size).astype(np.int64)
    start = np.minimum(start, in_size - 1)
    count = np.maximum(end - start, 1)
    row = np.repeat(np.arange(out_size), count)
    column = _ranges(start, count)
    # Times the inverse, as Pillow does: at the edges of a box the last bit decides.
    weight = _FILTERS[interpolation]((column - center[row] + 0.5) * (1.0 / stretch), -0.5)
    return _normalise(start, count, row, weight)


def _plain_rows(
    in_size: int, out_size: int, scale: float, offset: float, interpolation: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    support = int(SUPPORT[interpolation])
    source = scale * (np.arange(out_size) + 0.5) + offset - 0.5
    if interpolation == "bilinear":
        source = np.maximum(source, 0.0)
    # Beyond this all taps fall on the border pixel; also keeps the integers below small.
    source = np.minimum(source, in_size - 1 + support)
    nearest = np.floor(source)
    fraction = source - nearest
    taps = np.arange(1 - support, support + 1)
    column = np.clip(nearest[:, None].astype(np.int64) + taps, 0, in_size - 1)
    weight = _FILTERS[interpolation](taps - fraction[:, None], -0.75)
    # Taps beyond the border all fall on the border pixel: add them up there.
    start, end = column[:, 0], column[:, -1]
    count = end - start + 1
    merged = np.zeros(count.sum())
    np.add.at(merged, _offsets(count)[:-1, None] + column - start[:, None], weight)
    row = np.repeat(np.arange(out_size), count)
    return _normalise(start, count, row, merged)


def _normalise(
    start: np.ndarray, count: np.ndarray, row: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    total = np.bincount(row, weights=weight, minlength=len(start))
    empty = np.abs(total) < EMPTY_WINDOW
    weight = np.where(np.abs(weight) < _ZERO_WEIGHT, 0.0, weight) / np.where(empty, 1.0, total)[row]
    if empty.any():
        # Coordinates beyond the last pixel (a size larger than the factor covers): repeat it. The window keeps its
        # extent, since a later one may start before the last pixel and have usable weights again.
        weight[empty[row]] = 0.0
        weight[_offsets(count)[1:][empty] - 1] = 1.0
    return start, count, weight


def _box(x: np.ndarray, _: float) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _hamming(x: np.ndarray, _: float) -> np.ndarray:
    level, swing = HAMMING
    value = np.sinc(x) * (level + swing * np.cos(math.pi * x))
    # The two do not add up to 1.
    return np.where(x == 0.0, 1.0, np.where(np.abs(x) < 1.0, value, 0.0))


def _triangle(x: np.ndarray, _: float) -> np.ndarray:
    return np.maximum(1.0 - np.abs(x), 0.0)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel with parameter ``a`` (Keys 1981)."""
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray, _: float) -> np.ndarray:
    return np.where(np.abs(x) < 3.0, np.sinc(x) * np.sinc(x / 3.0), 0.0)


_FILTERS = {"box": _box, "bilinear": _triangle, "hamming": _hamming, "bicubic": _cubic, "lanczos": _lanczos}


def _offsets(count: np.ndarray) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(count)))


def _ranges(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Concatenate ``start[i] … start[i] + count[i] - 1`` over all rows."""
    return np.arange(count.sum()) - np.repeat(_offsets(count)[:-1] - start, count)


def output_size(in_size: int, factor: float) -> int:
    """Output length for a scale factor: ``floor(in_size * factor)``, as in torch."""
    return math.floor(in_size * factor)
