"""Launchers of the second stage of reductions (csrc/core/reduce/reduce.cuh).

The kernels of csrc/core write one row of partial results per block. One launch sums them in float64 in a fixed order,
bitwise reproducible for a given number of rows, and writes every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..ops.prologue import GivenNorm, NormGrad
from . import device, native
from .arguments import norm as norm_arguments
from .arguments import vector


class PrologueSums(NamedTuple):
    """What ``gradients`` makes of a prologue's sums. Vectors of the ``filters`` that there are."""

    channels: int  # N, of the kernel's instance
    filters: int
    # Of the input: its norm, that norm's gradients, to be written, and Σ g, Σ g·t of earlier uses, ``(2, filters)``.
    norm: GivenNorm | None
    norm_grad: NormGrad | None
    input_before: Tensor | None
    # Of the skip: Σ g, Σ g·u, ``(2, filters)`` float32, to be written, and those of earlier uses, to be added.
    skip_sums: Tensor | None
    skip_before: Tensor | None

    def pack(self) -> tuple[object, ...]:
        """Arguments of the native module."""
        grads = self.norm_grad
        return (
            self.channels,
            self.filters,
            norm_arguments(self.norm),
            grads and (grads.mean.data_ptr(), grads.var.data_ptr(), vector(grads.weight), vector(grads.bias)),
            *(0 if t is None else t.data_ptr() for t in (self.input_before, self.skip_sums, self.skip_before)),
        )


class RunningNorm(NamedTuple):
    """Running statistics of a batch normalisation, to be updated."""

    mean: Tensor  # (filters,), dense: float32, float16 or bfloat16
    var: Tensor
    num_batches_tracked: Tensor | None  # (), int64
    momentum: float | None  # None: 1 / num_batches_tracked


def statistics(partials: Tensor, out: Tensor, place: tuple[int, int] | None = None) -> None:
    """Merge the statistics of blocks. One launch.

    Args:
        partials: ``(P, 3, N)`` float32, dense: count, mean and M2 of each block; counts may be 0.
        out: ``(3, filters)`` float32, dense, for mean, biased variance and unbiased variance (M2 by the count less
            one, at least one) of the first ``filters`` channels; zeros if all counts are 0.
        place: ``device.place`` of the tensors, if at hand.
    """
    rows, _, channels = partials.shape
    native.load().reduce_statistics(
        partials.data_ptr(),
        rows,
        channels,
        out.shape[1],
        out.data_ptr(),
        *(place or device.place(partials.device)),
    )


def gradients(
    partials: Tensor,
    tensors: Sequence[Tensor],
    prologue: PrologueSums | None = None,
    place: tuple[int, int] | None = None,
) -> None:
    """Sum the gradients of blocks. One launch.

    Args:
        partials: ``(P, E)`` float32, dense. The columns are the elements of each tensor, in the order of its own
            logical index, one tensor after another; then, with a prologue, Σ g·t, Σ g and Σ g·u, N of each.
        tensors: gradients of parameters to be written, at most 4 tensors of at most 4 dimensions, of any strides;
            float32, float16 or bfloat16, rounded from the sum's float32.
        prologue: what to make of its sums.
        place: ``device.place`` of the tensors, if at hand.
    """
    rows, pitch = partials.shape
    native.load().reduce_gradients(
        partials.data_ptr(),
        rows,
        pitch,
        tuple((*vector(t), t.shape, t.stride()) for t in tensors),
        None if prologue is None else prologue.pack(),
        *(place or device.place(partials.device)),
    )


def running_statistics(statistics: Tensor, norms: Sequence[RunningNorm], place: tuple[int, int] | None = None) -> None:
    """Move running statistics towards those of a batch.

    One launch for every 64 norms.

    Args:
        statistics: ``(norms, 3, filters)`` float32, with dense rows: mean, biased and unbiased variance of each norm.
        norms: their running statistics. ``num_batches_tracked`` grows by one, first; then
            ``old + weight · (new - old)``, weight the momentum, with one fused operation and ``new`` rounded to the
            running statistics' dtype, as ``Tensor.lerp_`` on a GPU.
        place: ``device.place`` of the tensors, if at hand.
    """
    native.load().running_statistics(
        statistics.data_ptr(),
        statistics.stride(0),
        statistics.stride(1),
        statistics.shape[2],
        tuple(
            (
                vector(n.mean),
                vector(n.var),
                0 if n.num_batches_tracked is None else n.num_batches_tracked.data_ptr(),
                n.momentum,
            )
            for n in norms
        ),
        *(place or device.place(statistics.device)),
    )
