"""Batch-norm support: statistics over processes, running statistics.

``SyncBatchNorm`` and other ``Synchronised`` norms share their statistics over processes. The running statistics of all
norms are updated at once, at the end of a forward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .ops.process_statistics import local_gradients, merge

Norm = nn.modules.batchnorm._BatchNorm  # BatchNorm2d and SyncBatchNorm


class Synchronised:
    """Mixin of batch normalisations over the batches of all processes, like ``SyncBatchNorm``.

    torch's own refuses CPU tensors.
    """

    process_group: dist.ProcessGroup | None = None


class BatchStatistics(NamedTuple):
    """A batch's statistics for the running statistics of a norm; vectors ``(n,)``."""

    norm: Norm
    mean: Tensor
    unbiased: Tensor  # variance, as torch keeps it


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


def update_running_statistics(batch_statistics: list[BatchStatistics]) -> None:
    """Update norms' running statistics, each by momentum or mean of all batches.

    Called once per forward pass, after everything that can fail. On a GPU all norms share each launch, and the host
    does not wait for the device, not even with ``momentum=None``.
    """
    # Not under torch.no_grad(): an exported program would keep it as a region that torch.export.load cannot read.
    # The statistics are detached.
    if not batch_statistics:
        return
    batches = [s.norm.num_batches_tracked for s in batch_statistics if s.norm.num_batches_tracked is not None]
    if batches:
        torch._foreach_add_(batches, 1)
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for norm, *new in batch_statistics:
        running = [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]
        news = [value.to(old.dtype) for value, old in zip(new, running, strict=True)]
        if norm.momentum is None and norm.num_batches_tracked is not None:
            tracked = norm.num_batches_tracked
            # An integer's reciprocal is a float32, too short for float64 statistics; converting costs a launch.
            weight = (tracked.double() if running[0].dtype == torch.float64 else tracked).reciprocal()
            for old, value in zip(running, news, strict=True):
                old.lerp_(value, weight.to(old.dtype))
        else:
            olds, new_values = by_momentum.setdefault(norm.momentum or 0.0, ([], []))
            olds += running
            new_values += news
    for momentum, (olds, new_values) in by_momentum.items():
        torch._foreach_lerp_(olds, new_values, momentum)
