"""What ``FusedResizer`` makes of its batch normalisations: whose statistics, which scale and shift, what is remembered.

The ops return each feature's mean and biased variance and take their gradients. Everything between those vectors and
the scale and shift that the next op applies is here: merging them over processes for ``SyncBatchNorm`` and for other
``Synchronised`` ones, and updating the running statistics, of all norms at once at the end of a forward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Norm = nn.modules.batchnorm._BatchNorm  # BatchNorm2d and SyncBatchNorm


class Synchronised:
    """Marks a batch normalisation whose statistics are of all processes' batches together, as ``SyncBatchNorm``'s.

    For norms that are to work where torch's own does not, which refuses CPU tensors.
    """

    process_group: dist.ProcessGroup | None = None


class Seen(NamedTuple):
    """Statistics of a batch that a norm's running statistics are to take in; vectors ``(n,)``."""

    norm: Norm
    mean: Tensor
    var: Tensor
    # What makes ``var`` the unbiased estimate that torch keeps; 1 where it is that already.
    correction: float


def is_batch_normed(norm: Norm) -> bool:
    """Whether a batch normalisation uses the batch's statistics, by torch's own rule."""
    return norm.training or (norm.running_mean is None and norm.running_var is None)


def sync_group(norm: Norm) -> dist.ProcessGroup | None:
    """The processes that share a norm's statistics, by ``SyncBatchNorm``'s own rule; None where it works alone."""
    if not (isinstance(norm, (nn.SyncBatchNorm, Synchronised)) and norm.training):
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = norm.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def affine(norm: Norm, mean: Tensor, var: Tensor, count: int, seen: list[Seen]) -> tuple[Tensor, Tensor]:
    """Scale and shift ``(n,)`` that apply a batch normalisation.

    Args:
        norm: holds γ, β, ε and the running statistics.
        mean, var: of this process's batch over ``count`` values per channel, var biased; unused where the running
            ones are.
        count: values per channel.
        seen: takes what ``update_running_statistics`` needs, in training.
    """
    if is_batch_normed(norm):
        group = sync_group(norm)
        if group is None:
            # One value has no variance, and only a norm in evaluation mode gets here with it.
            unbiased, correction = var, count / (count - 1) if norm.training else 1.0
        else:
            mean, var, unbiased = merge_over_processes(mean, var, count, group)
            correction = 1.0
        if norm.training and norm.track_running_stats and norm.running_mean is not None:
            seen.append(Seen(norm, mean.detach(), unbiased.detach(), correction))
    else:
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    return torch.ops.learned_resizer.affine(mean, var, norm.weight, norm.bias, norm.eps)


def merge_over_processes(
    mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased and unbiased variance ``(n,)`` of the batches of all processes of ``group`` together.

    A collective, forward and backward: every process of the group must call both equally often, in the same order.
    Differentiable in mean and biased variance; all processes get the same bits.

    Args:
        mean, var: of this process's batch, var biased; zeros for an empty one.
        count: values per channel of this process's batch, any number.
    """
    return _MergeOverProcesses.apply(mean, var, count, group)


class _MergeOverProcesses(torch.autograd.Function):
    """Mean and biased variance of the joint batch from each process's, whatever their counts.

    Forward, over processes i with N = Σ count_i (Chan, Golub & LeVeque 1983)::

        mean = Σ count_i mean_i / N,      var = Σ count_i (var_i + (mean_i - mean)²) / N

    Adjoint, where Dmean and Dvar are the sums of all processes' gradients::

        dmean_i = count_i / N · (Dmean + 2 (mean_i - mean) Dvar),      dvar_i = count_i / N · Dvar

    The third result is the unbiased variance, ``var · N / (N - 1)``, without a gradient. Counts stay on the device: no
    process waits for its GPU. In float64, and summed in the same order everywhere: all processes get the same bits.
    """

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, var: Tensor, count: int, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, rank = len(mean), dist.get_rank(group)
        # Rows of zeros added to one another are a gather that every backend knows, in one collective.
        rows = torch.zeros(dist.get_world_size(group), 2 * n + 1, dtype=torch.float64, device=mean.device)
        torch.cat([mean.double(), var.double(), rows.new_full((1,), count)], out=rows[rank])
        dist.all_reduce(rows, group=group)
        means, variances, counts = rows.split([n, n, 1], 1)
        # An empty batch everywhere, or a single value, has no variance; neither divides by zero.
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


def update_running_statistics(seen: list[Seen]) -> None:
    """Move the running statistics of norms towards what they saw, as each would: by its momentum, or the mean of all.

    Called once a forward pass, when nothing can fail any more. All norms share each launch on a GPU; nothing waits
    for one, ``momentum=None`` included.
    """
    # Without torch.no_grad(), of which an exported program would keep a region that torch.export.load cannot read:
    # ``Seen`` holds detached statistics.
    if not seen:
        return
    batches = [s.norm.num_batches_tracked for s in seen if s.norm.num_batches_tracked is not None]
    if batches:
        torch._foreach_add_(batches, 1)
    unbiased = torch._foreach_mul([s.var for s in seen], [s.correction for s in seen])
    by_momentum: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for (norm, mean, _, _), var in zip(seen, unbiased, strict=True):
        running = [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]
        news = [new.to(old.dtype) for new, old in zip((mean, var), running, strict=True)]
        if norm.momentum is None and norm.num_batches_tracked is not None:
            tracked = norm.num_batches_tracked
            # An integer's is a float32, which is too short for a double's statistics; a conversion is a launch.
            weight = (tracked.double() if running[0].dtype == torch.float64 else tracked).reciprocal()
            for old, new in zip(running, news, strict=True):
                old.lerp_(new, weight.to(old.dtype))
        else:
            olds, arrived = by_momentum.setdefault(norm.momentum or 0.0, ([], []))
            olds += running
            arrived += news
    for momentum, (olds, arrived) in by_momentum.items():
        torch._foreach_lerp_(olds, arrived, momentum)
