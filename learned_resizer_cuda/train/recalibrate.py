"""Running statistics that belong to the weights as they are, for a network that is to be evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..batch_norm import Norm


def recalibrate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces every batch normalisation's running statistics by their mean over the given batches.

    Those of training lag behind the weights, by the momentum's memory. Here each batch goes through the model as it
    is, in training mode without gradients, by ``torch.optim.swa_utils.update_bn``: afterwards ``running_mean`` is the
    mean of the batches' means and ``running_var`` the mean of their unbiased variances, each batch with the same
    weight whatever its size; give batches of the size of training. This is "precise BN" of Wu & Johnson, "Rethinking
    'Batch' in BatchNorm" (2021, arXiv 2105.07576), section 3, but that they take the variance of the batches together.

    For every norm of torch's and those derived from it: ``FusedResizer``'s, timm's ``BatchNormAct2d``, and the
    synchronised ones, for which every process must give as many batches. A norm without running statistics is left
    alone. A frozen one, in evaluation mode within a model that trains, is recomputed like all others and goes back to
    its mode.

    Modes, momenta, parameters and the random state of torch are what they were, also after an error, which leaves the
    statistics as they were, too. What the model drops at random is drawn from the present random state.
    ``num_batches_tracked`` counts the batches given here, no longer those of training; it only matters to norms with
    ``momentum=None``, which would go on with the mean from here.

    Args:
        model: any module that takes a batch as its only argument.
        batches: what the model takes, on any device; not looked at where the model has no batch normalisation.

    Raises:
        ValueError: there are no batches, which leaves no statistics.
    """
    norms = [module for module in model.modules() if isinstance(module, Norm)]
    if not norms:
        return
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(norm, norm.momentum) for norm in norms]
    statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    tensors = [*model.parameters(), *model.buffers()]
    device = tensors[0].device if tensors else None
    gpus = sorted({tensor.device.index for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=gpus):
            update_bn(_some(batches), model, device)
    except BaseException:
        with torch.no_grad():
            for buffer, former in statistics:
                buffer.copy_(former)
        raise
    finally:
        # update_bn sets all modules to the mode of the outermost, and puts nothing back after an error
        for norm, momentum in momenta:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


def _some(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches; raises in the end where there were none."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise ValueError("batches: got none; expected at least one batch of images")
