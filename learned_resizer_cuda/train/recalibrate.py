"""Batch-norm running statistics, recomputed for the present weights before testing a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..batch_norm import Norm
from ..data.source import MixedImages


def recalibrate(model: nn.Module, batches: Iterable[Tensor | MixedImages]) -> None:
    """Replaces every batch norm's running statistics by their mean over ``batches``.

    Those of training lag behind the weights, by the momentum's memory. Here each batch passes through the present
    model, in training mode without gradients, by ``torch.optim.swa_utils.update_bn``: afterwards ``running_mean`` is
    the mean of the batches' means and ``running_var`` the mean of their unbiased variances, each batch with the same
    weight whatever its size; give batches of the size of training. This is "precise BN" of Wu & Johnson, "Rethinking
    'Batch' in BatchNorm" (2021, arXiv 2105.07576), section 3, except that they take the variance of the batches
    together.

    Covers torch's norms and those derived from them: ``FusedResizer``'s, timm's ``BatchNormAct2d``, and the
    synchronised ones, for which every process must give equally many batches. A norm without running statistics is
    left alone. A frozen norm, in evaluation mode within a model that trains, is recomputed like all others and keeps
    its mode.

    Modes, momenta, parameters and torch's random state stay as they were, and after an error so do the statistics.
    What the model drops at random is drawn from the present random state. ``num_batches_tracked`` counts the batches
    given here, no longer those of training; this only matters to norms with ``momentum=None``, whose mean continues
    from here.

    Args:
        model: any module that takes a batch as its only argument.
        batches: inputs of the model, on any device; not drawn if the model has no batch norm.

    Raises:
        ValueError: there are no batches, and so no statistics.
    """
    norms = norms_of(model)
    if not norms:
        return
    momenta = [(norm, norm.momentum) for norm in norms]
    statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else None
    gpus = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    try:
        # update_bn sets all modules to the mode of the outermost, and restores nothing after an error
        with modes_kept(model), torch.random.fork_rng(devices=gpus):
            update_bn(_at_least_one(batches), model, device)
    except BaseException:
        with torch.no_grad():
            for buffer, former in statistics:
                buffer.copy_(former)
        raise
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum


def norms_of(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a model."""
    return [module for module in model.modules() if isinstance(module, Norm)]


@contextlib.contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Gives each module its training or evaluation mode back after the body."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _at_least_one(batches: Iterable[Tensor | MixedImages]) -> Iterator[Tensor | MixedImages]:
    """The batches; raises ValueError at the end if there were none."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError("batches: got none; expected at least one batch of images")
