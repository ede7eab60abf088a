"""Launchers of the second stage of reductions (csrc/core/reduce/reduce.cuh).

The kernels of csrc/core write one row of partial results per block. One launch sums them in float64 in a fixed order,
bitwise reproducible for a given number of rows, and writes every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..ops.prologue import GivenNorm, NormGrad
from ..ops.update_running import UpdateRunning
from . import device, native
from .arguments import norm as norm_arguments
from .arguments import pointer, vector


class PrologueSums(NamedTuple):
    """What ``gradients`` makes of a prologue's sums.

    Vectors ``(filters,)``.
    """

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
            *map(pointer, (self.input_before, self.skip_sums, self.skip_before)),
        )


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


def running_statistics(a: UpdateRunning) -> None:
    """Move running statistics towards those of a batch.

    One launch for 64 norms. The numbers of batches grow by one, first; then ``old + weight · (new - old)`` with one
    fused operation, and ``new`` rounded to the running statistics' dtype, as ``Tensor.lerp_`` on a GPU.

    Args:
        a: vectors dense, float32, float16 or bfloat16; the statistics float32, with dense rows.
    """
    means, variances, batches, momenta, places, statistics = a
    native.load().running_statistics(
        tuple(map(vector, means)),
        tuple(map(vector, variances)),
        tuple(map(Tensor.data_ptr, batches)),
        momenta,
        places,
        statistics.data_ptr(),
        statistics.stride(0),
        statistics.stride(1),
        statistics.shape[2],
        *device.place(statistics.device),
    )
