"""Second stage of every reduction, in Triton: sums of blocks' partial results.

The kernels of csrc/core write one row of partial results per block. One launch sums them in a fixed order, in float64:
bitwise reproducible for a given number of rows, without adding a rounding error.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 128  # rows of partial results per iteration of a program
_COLUMNS = 32  # columns per program


@triton.jit
def _merge_statistics(
    partials,  # float32 [count, 3, n]: count, mean, M2
    mean,  # float32 [n]
    var,  # float32 [n]
    count,
    n: tl.constexpr,
    rows: tl.constexpr,
):
    """One channel per program: the joint mean, then deviations from it.

    ``mean = Σ count_i mean_i / Σ count_i``, ``M2 = Σ M2_i + count_i (mean_i - mean)²`` (Chan, Golub & LeVeque 1983).
    """
    channel = tl.program_id(0)
    total = tl.zeros((rows,), tl.float64)
    weighted = tl.zeros((rows,), tl.float64)
    for first in range(0, count, rows):
        row = first + tl.arange(0, rows)
        at = partials + row * (3 * n) + channel
        pixels = tl.load(at, row < count, 0.0).to(tl.float64)
        total += pixels
        weighted += pixels * tl.load(at + n, row < count, 0.0).to(tl.float64)
    pixels_all = tl.maximum(tl.sum(total, 0), 1.0)
    center = tl.sum(weighted, 0) / pixels_all
    squares = tl.zeros((rows,), tl.float64)
    for first in range(0, count, rows):
        row = first + tl.arange(0, rows)
        at = partials + row * (3 * n) + channel
        pixels = tl.load(at, row < count, 0.0).to(tl.float64)
        delta = tl.load(at + n, row < count, 0.0).to(tl.float64) - center
        squares += tl.load(at + 2 * n, row < count, 0.0).to(tl.float64) + pixels * delta * delta
    tl.store(mean + channel, center.to(tl.float32))
    tl.store(var + channel, (tl.sum(squares, 0) / pixels_all).to(tl.float32))


@triton.jit
def _sum_rows(
    partials,  # float32 [count, elements]
    total,  # float32 [elements]
    count,
    elements,
    rows: tl.constexpr,
    columns: tl.constexpr,
):
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    sums = tl.zeros((rows, columns), tl.float64)
    for first in range(0, count, rows):
        row = first + tl.arange(0, rows)
        inside = (row[:, None] < count) & (column[None, :] < elements)
        at = partials + row[:, None].to(tl.int64) * elements + column[None, :]
        sums += tl.load(at, inside, 0.0).to(tl.float64)
    tl.store(total + column, tl.sum(sums, 0).to(tl.float32), column < elements)


def merge_statistics(partials: Tensor) -> tuple[Tensor, Tensor]:
    """Merge the statistics of blocks into their joint mean and biased variance.

    Args:
        partials: ``(P, 3, n)`` float32, dense: count, mean and M2 of each block; counts may be 0.

    Returns:
        Mean and biased variance, ``(n,)`` float32 each; zeros if all counts are 0. One launch on the
        current stream, bitwise reproducible for a given P.
    """
    count, _, n = partials.shape
    mean, var = partials.new_empty(n), partials.new_empty(n)
    _merge_statistics[(n,)](partials, mean, var, count, n=n, rows=_ROWS, num_warps=4)
    return mean, var


def take_apart(sums: Tensor, sizes: list[int]) -> list[Tensor]:
    """Split ``(E,)`` into op results, which must own their memory: one launch."""
    parts = [sums.new_empty(size) for size in sizes]
    torch.split_with_sizes_copy(sums, sizes, out=parts)
    return parts


def sum_rows(partials: Tensor) -> Tensor:
    """Sum of the rows of ``(P, E)`` float32, dense: ``(E,)``.

    One launch, bitwise reproducible for a given P.
    """
    count, elements = partials.shape
    total = torch.empty(elements, dtype=torch.float32, device=partials.device)
    grid = (triton.cdiv(elements, _COLUMNS),)
    _sum_rows[grid](partials, total, count, elements, rows=_ROWS, columns=_COLUMNS, num_warps=4)
    return total
