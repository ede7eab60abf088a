"""Batch-norm support: statistics over processes, running statistics.

``SyncBatchNorm`` and other ``Synchronised`` norms share their statistics over processes. The running statistics of all
norms are updated at once, at the end of a forward pass.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import backend
from .ops.process_statistics import local_gradients, merge
from .ops.update_running import Tracked, UpdateRunning, momentum_number, update

Norm = nn.modules.batchnorm._BatchNorm  # BatchNorm2d and SyncBatchNorm


class Synchronised:
    """Mixin of batch normalisations over the batches of all processes, like ``SyncBatchNorm``.

    torch's own refuses CPU tensors.
    """

    process_group: dist.ProcessGroup | None = None


def is_batch_normed(norm: Norm) -> bool:
    """Whether a norm uses the statistics of the batch, by torch's rule."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def sync_group(norm: Norm) -> dist.ProcessGroup | None:
    """Processes that share a norm's statistics, by ``SyncBatchNorm``'s rule; None for one."""
    if not (isinstance(norm, (nn.SyncBatchNorm, Synchronised)) and norm.training):
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def merge_over_processes(
    mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased and unbiased variance ``(n,)`` of a group's joint batch.

    A collective operation, forward and backward: every process of the group must call both equally often, in the same
    order. Differentiable in mean and biased variance; all processes get the same bits.

    Args:
        mean, var: of this process's batch, var biased; zeros for an empty one.
        count: values per channel of this process's batch, at least 0.
        group: of processes.
    """
    return _MergeOverProcesses.apply(mean, var, count, group.group_name)


class _MergeOverProcesses(torch.autograd.Function):
    """``process_statistics.merge`` with its adjoint; the unbiased variance has no gradient."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, var: Tensor, count: int, group: str) -> tuple[Tensor, Tensor, Tensor]:
        joint = merge(mean, var, count, group)
        ctx.save_for_backward(mean - joint.mean, joint.share)
        ctx.group = group
        ctx.mark_non_differentiable(joint.unbiased)
        return joint[:3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        deviation, share = ctx.saved_tensors
        return *local_gradients(grad_mean, grad_var, deviation, share, ctx.group), None, None


def tracked(norms: list[Norm]) -> Tracked:
    """Running statistics that a forward pass updates, by torch's rules.

    Args:
        norms: whose statistics are those of the batch, in the order of the rows of ``UpdateRunning.statistics``.
    """
    # Lists of their own: torch.compile loses what is appended to the fields of a tuple.
    means: list[Tensor] = []
    variances: list[Tensor] = []
    counts: list[Tensor] = []
    momenta: list[float] = []
    places: list[int] = []
    for place, norm in enumerate(norms):
        if not (norm.training and norm.track_running_stats and norm.running_mean is not None):
            continue
        batches, momentum = norm.num_batches_tracked, norm.momentum
        if batches is None:
            # Without a counter torch counts nothing, and a mean of all batches never moves.
            batches, momentum = torch.zeros((), dtype=torch.int64, device=norm.running_mean.device), momentum or 0.0
        means.append(norm.running_mean)
        variances.append(cast(Tensor, norm.running_var))
        counts.append(batches)
        momenta.append(momentum_number(momentum))
        places.append(place)
    return Tracked(means, variances, counts, momenta, places)


def update_running_statistics(norms: Tracked, statistics: Tensor) -> None:
    """Update the running statistics of all norms at once.

    Each by its momentum or as a mean of all batches. Called once per forward pass, after everything that can fail. The
    host does not wait for a GPU, not even with ``momentum=None``.

    Args:
        norms: from ``tracked``.
        statistics: as in ``UpdateRunning``, without gradients.
    """
    if not norms.means:
        return
    running = norms.means[0]
    # The native kernel takes statistics as the native stages write them.
    native = not torch.compiler.is_compiling() and statistics.dtype == torch.float32
    if native and backend.runs_native("stem", running.device, statistics.dtype):
        torch.ops.learned_resizer.update_running(*norms, statistics)
    else:
        update(UpdateRunning(*norms, statistics))
