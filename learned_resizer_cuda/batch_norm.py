"""Batch-norm support: cross-process statistics, folded scale and shift, running statistics.

The ops return each feature's mean and biased variance and take their gradients. This module turns them into the scale
and shift that the next op applies, merges them over processes for ``SyncBatchNorm`` and other ``Synchronised`` norms,
and updates the running statistics of all norms at once at the end of a forward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    var: Tensor
    correction: float  # factor from ``var`` to the unbiased estimate that torch keeps


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


def fold_norm(
    norm: Norm, mean: Tensor, var: Tensor, count: int, batch_statistics: list[BatchStatistics]
) -> tuple[Tensor, Tensor]:
    """Scale and shift ``(n,)`` of a batch normalisation.

    Args:
        norm: holds γ, β, ε and the running statistics.
        mean, var: of this process's batch, var biased; ignored if the norm uses its running statistics.
        count: values per channel.
        batch_statistics: in training this batch's are appended, for ``update_running_statistics``.
    """
    if is_batch_normed(norm):
        group = sync_group(norm)
        if group is None:
            # A single value has no variance; only norms in evaluation mode get here with one.
            unbiased, correction = var, count / (count - 1) if norm.training else 1.0
        else:
            mean, var, unbiased = merge_over_processes(mean, var, count, group)
            correction = 1.0
        if norm.training and norm.track_running_stats and norm.running_mean is not None:
            batch_statistics.append(BatchStatistics(norm, mean.detach(), unbiased.detach(), correction))
    else:
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return torch.ops.learned_resizer.affine(mean, var, norm.weight, norm.bias, norm.eps)


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
    return _MergeOverProcesses.apply(mean, var, count, group)


class _MergeOverProcesses(torch.autograd.Function):
    """Mean and biased variance of the joint batch from every process's.

    Forward, over processes i with N = Σ count_i (Chan, Golub & LeVeque 1983)::

        mean = Σ count_i mean_i / N,      var = Σ count_i (var_i + (mean_i - mean)²) / N

    Adjoint, where Dmean and Dvar are the sums of all processes' gradients::

        dmean_i = count_i / N · (Dmean + 2 (mean_i - mean) Dvar),      dvar_i = count_i / N · Dvar

    The third result is the unbiased variance, ``var · N / (N - 1)``, without a gradient. Counts stay on the device, so
    that no process waits for its GPU. Sums are in float64 and in the same order everywhere: all processes get the same
    bits.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, rank = len(mean), dist.get_rank(group)
        # A sum of rows that are zero but for one process is a gather in one collective, which every backend has.
        rows = torch.zeros(dist.get_world_size(group), 2 * n + 1, dtype=torch.float64, device=mean.device)
        torch.cat([mean.double(), var.double(), rows.new_full((1,), count)], out=rows[rank])
        dist.all_reduce(rows, group=group)
        means, variances, counts = rows.split([n, n, 1], 1)
        # No division by zero for an empty joint batch or a single value.
        total = counts.sum(0).clamp(min=1)
        share = counts / total
        joint = (share * means).sum(0)
        deviation = means - joint
        variance = (share * (variances + deviation.square())).sum(0)
        unbiased = variance * (total / (total - 1).clamp(min=1))
        ctx.save_for_backward(share[rank], deviation[rank])
        ctx.group = group
        out = joint.to(mean.dtype), variance.to(mean.dtype), unbiased.to(mean.dtype)
        ctx.mark_non_differentiable(out[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        share, deviation = ctx.saved_tensors
        grads = torch.stack([grad_mean, grad_var]).double()
        dist.all_reduce(grads, group=ctx.group)
        total_mean, total_var = (grads * share).unbind()
        local_mean = torch.addcmul(total_mean, deviation, total_var, value=2)
        return local_mean.to(grad_mean.dtype), total_var.to(grad_var.dtype), None, None


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
    unbiased = torch._foreach_mul([s.var for s in batch_statistics], [s.correction for s in batch_statistics])
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for (norm, mean, _, _), var in zip(batch_statistics, unbiased, strict=True):
        running = [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]
        news = [new.to(old.dtype) for new, old in zip((mean, var), running, strict=True)]
        if norm.momentum is None and norm.num_batches_tracked is not None:
            tracked = norm.num_batches_tracked
            # An integer's reciprocal is a float32, too short for float64 statistics; converting costs a launch.
            weight = (tracked.double() if running[0].dtype == torch.float64 else tracked).reciprocal()
            for old, new in zip(running, news, strict=True):
                old.lerp_(new, weight.to(old.dtype))
        else:
            olds, new_values = by_momentum.setdefault(norm.momentum or 0.0, ([], []))
            olds += running
            new_values += news
    for momentum, (olds, new_values) in by_momentum.items():
        torch._foreach_lerp_(olds, new_values, momentum)
