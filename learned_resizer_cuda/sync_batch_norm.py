"""Batch normalisation over the batches of all processes, also on a CPU.

``nn.SyncBatchNorm`` refuses CPU tensors, and ``DistributedDataParallel`` refuses CPU modules that contain one. Both
work with ``SynchronisedBatchNorm2d``: several processes on a CPU train like one with the joint batch, and training on
several GPUs can be tested without any.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from .batch_norm import Norm, Synchronised, merge_over_processes, sync_group, tracked
from .ops.update_running import UpdateRunning, update

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["synchronise"]

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SynchronisedBatchNorm2d(Synchronised, nn.BatchNorm2d):
    """``BatchNorm2d`` over the joint batch of all processes in training.

    The same function, ``state_dict`` and running statistics as ``nn.SyncBatchNorm``, including gradients through the
    statistics, for batches of any size, also 0, on every device and backend of ``torch.distributed``. In evaluation
    mode and in a single process it is ``nn.BatchNorm2d``. In training every process of the group must call forward
    and backward equally often. Deterministic; all processes get the same statistics bit for bit.

    Like ``nn.SyncBatchNorm`` it takes ``(B, C, ...)`` of any number of dimensions, and so replaces ``BatchNorm1d`` and
    ``BatchNorm3d`` too. Statistics of 16-bit values are computed in float32; the output has the dtype of the input.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, ...)`` → the same shape and dtype."""
        group = sync_group(self)
        if group is None:
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        over = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1]
        if count:
            var, mean = torch.var_mean(x, over, correction=0)
        else:
            # An empty batch has no mean, but its process must take part, in backward too
            mean = var = x.sum(over)
        mean, var, unbiased = merge_over_processes(mean, var, count, group)
        # Not x·scale + shift, which cancels where a mean is large
        out = (x - mean.view(shape)) * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        update(UpdateRunning(*tracked([self]), torch.stack([mean, var, unbiased]).detach().unsqueeze(0)))
        return out.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"input: got shape {tuple(input.shape)}; expected (B, {self.num_features}, ...)")


class SynchronisedBatchNormAct2d(SynchronisedBatchNorm2d):
    """The same for timm's ``BatchNormAct2d``, which then applies dropout and an activation.

    Created by ``synchronise`` only.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``(B, C, ...)`` → the same shape and dtype."""
        modules = cast("dict[str, nn.Module]", self._modules)
        return modules["act"](modules["drop"](super().forward(input)))


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """Convert every batch normalisation of a module to statistics over all processes.

    ``state_dict``, parameters (the same objects, so that optimisers keep working), momentum, ε and modes stay. Call it
    before ``DistributedDataParallel`` or ``torch.compile``.

    Args:
        module: changed in place; ``nn.BatchNorm1d``, ``2d``, ``3d`` and timm's ``BatchNormAct2d`` are converted.
        device: of training. On a CPU norms become ``SynchronisedBatchNorm2d``; elsewhere ``nn.SyncBatchNorm``, by
            timm's own conversion if timm is loaded.

    Returns:
        ``module``, or its replacement if it is itself a batch normalisation.

    Raises:
        TypeError: for a batch normalisation of any other class, which could lose behaviour of its own. Nothing is
            changed then.

    Examples:
        >>> import torch
        >>> from learned_resizer_cuda import FusedResizer
        >>> from learned_resizer_cuda.sync_batch_norm import synchronise
        >>> resizer = synchronise(FusedResizer(16), torch.device("cpu"))
        >>> type(resizer.norm1).__name__
        'SynchronisedBatchNorm2d'
        >>> resizer(torch.rand(2, 3, 40, 32)).shape  # one process: its own batch
        torch.Size([2, 3, 16, 16])
    """
    timm = sys.modules.get("timm.layers")  # loaded if the module has a norm of timm's
    with_act = () if timm is None else (timm.BatchNormAct2d,)
    on_cpu = device.type == "cpu"
    norms = [m for m in module.modules() if isinstance(m, Norm) and not (on_cpu and isinstance(m, Synchronised))]
    for norm in norms:
        if type(norm) not in (*_PLAIN, *with_act):
            raise TypeError(
                f"module: got a batch normalisation of class {type(norm).__module__}.{type(norm).__qualname__}; "
                "expected those of torch.nn and timm's BatchNormAct2d, not converted before"
            )
    if not on_cpu:
        return _convert_for_gpu(module, timm)
    for norm in norms:
        # Only the class changes, as in torch's lazy modules: nothing else can be lost
        norm.__class__ = SynchronisedBatchNorm2d if type(norm) in _PLAIN else SynchronisedBatchNormAct2d
    return module


def _convert_for_gpu(module: nn.Module, timm: ModuleType | None) -> nn.Module:
    convert = nn.SyncBatchNorm.convert_sync_batchnorm if timm is None else timm.convert_sync_batchnorm
    return convert(module)
