"""``update_running``: running statistics of all norms, in one native launch.

For a norm's batch mean m and unbiased variance v::

    running_mean += w (m - running_mean),   running_var += w (v - running_var)

with the weight w its momentum, or 1 / (number of batches) for a mean of all batches.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from .. import backend
from .library import Written, define

_MEAN_OF_ALL = -1.0


class Tracked(NamedTuple):
    """Running statistics of norms, an entry per norm."""

    means: list[Tensor]  # (n,), of a float dtype
    variances: list[Tensor]  # (n,), of the same dtype
    batches: list[Tensor]  # int64 numbers of batches
    momenta: list[float]  # below 0: a mean of all batches
    places: list[int]  # of the norm's rows in ``UpdateRunning.statistics``


class UpdateRunning(NamedTuple):
    """Arguments of ``update_running``."""

    # As in ``Tracked``.
    means: Annotated[list[Tensor], Written("a")]
    variances: Annotated[list[Tensor], Written("b")]
    batches: Annotated[list[Tensor], Written("c")]
    momenta: list[float]
    places: list[int]
    statistics: Tensor  # (norms, 3 or 5, n), float32 or float64: mean, biased and unbiased variance


def momentum_number(momentum: float | None) -> float:
    """A norm's momentum as ``Tracked`` has it."""
    return _MEAN_OF_ALL if momentum is None else momentum


def update(a: UpdateRunning) -> None:
    """The update without the op, in pure torch.

    On a GPU the norms share each launch, and the host does not wait.
    """
    if not a.means:
        return
    # Not under torch.no_grad(): an exported program would keep it as a region that torch.export.load cannot read.
    torch._foreach_add_(a.batches, 1)
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for *running, tracked, momentum, place in zip(a.means, a.variances, a.batches, a.momenta, a.places, strict=True):
        rows = a.statistics[place]
        new = [rows[0].to(running[0].dtype), rows[2].to(running[0].dtype)]
        if momentum < 0:
            # An integer's reciprocal is a float32, too short for float64 statistics; converting costs a launch.
            weight = (tracked.double() if new[0].dtype == torch.float64 else tracked).reciprocal().to(new[0].dtype)
            for old, value in zip(running, new, strict=True):
                old.lerp_(value, weight)
        else:
            olds, values = by_momentum.setdefault(momentum, ([], []))
            olds += running
            values += new
    for momentum, (olds, values) in by_momentum.items():
        torch._foreach_lerp_(olds, values, momentum)


def _update_running(a: UpdateRunning) -> None:
    # The kernel takes dense vectors.
    if all(map(Tensor.is_contiguous, (*a.means, *a.variances))):
        backend.kernel_module("reduce").running_statistics(a)
    else:
        update(a)


define("update_running", UpdateRunning, "()", run=_update_running, fake=lambda a: None)
