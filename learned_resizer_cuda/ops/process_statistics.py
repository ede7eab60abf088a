"""Statistics of a batch that is spread over processes.

Forward, over processes i with N = Σ count_i (Chan, Golub & LeVeque 1983)::

    mean = Σ count_i mean_i / N,      var = Σ count_i (var_i + (mean_i - mean)²) / N

Adjoint, where Dmean and Dvar are the sums of all processes' gradients::

    dmean_i = count_i / N · (Dmean + 2 (mean_i - mean) Dvar),      dvar_i = count_i / N · Dvar

Both are collective operations: every process of the group must call them equally often, in the same order. Counts stay
on the device, so that no process waits for its GPU. Sums are in float64 and in the same order everywhere: all processes
get the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class JointStatistics(NamedTuple):
    """Statistics of the joint batch, and this process's share.

    Vectors ``(n,)`` in the dtype of this process's.
    """

    mean: Tensor
    var: Tensor  # biased
    unbiased: Tensor
    share: Tensor  # count_i / N of this process


def _group(name: str) -> dist.ProcessGroup:
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]


def merge(mean: Tensor, var: Tensor, count: int, group: str) -> JointStatistics:
    """Statistics of a group's joint batch.

    Args:
        mean, var: ``(n,)``, of this process's batch, var biased; zeros for an empty one.
        count: values per channel of this process's batch, at least 0.
        group: name of the process group.
    """
    processes = _group(group)
    n, rank = len(mean), dist.get_rank(processes)
    # A sum of rows that are zero but for one process is a gather in one collective, which every backend has.
    rows = torch.zeros(dist.get_world_size(processes), 2 * n + 1, dtype=torch.float64, device=mean.device)
    torch.cat([mean.double(), var.double(), rows.new_full((1,), count)], out=rows[rank])
    dist.all_reduce(rows, group=processes)
    means, variances, counts = rows.split([n, n, 1], 1)
    # No division by zero for an empty joint batch or a single value.
    total = counts.sum(0).clamp(min=1)
    share = counts / total
    joint = (share * means).sum(0)
    variance = (share * (variances + (means - joint).square())).sum(0)
    unbiased = variance * (total / (total - 1).clamp(min=1))
    return JointStatistics(*(t.to(mean.dtype) for t in (joint, variance, unbiased, share[rank])))


def local_gradients(
    grad_mean: Tensor, grad_var: Tensor, deviation: Tensor, share: Tensor, group: str
) -> tuple[Tensor, Tensor]:
    """Gradients of this process's mean and biased variance, ``(n,)``.

    Args:
        grad_mean, grad_var: of the joint statistics, on this process.
        deviation: mean_i - mean.
        share: count_i / N.
        group: name of the process group.
    """
    grads = torch.stack([grad_mean, grad_var]).double()
    dist.all_reduce(grads, group=_group(group))
    total_mean, total_var = (grads * share).unbind()
    local_mean = torch.addcmul(total_mean, deviation.double(), total_var, value=2)
    return local_mean.to(grad_mean.dtype), total_var.to(grad_var.dtype)
