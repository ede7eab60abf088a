"""Optimiser and learning-rate schedule of a training."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from .config import RunConfig


def build_optimiser(config: RunConfig, parameters: Iterable[nn.Parameter], learning_rate: float) -> Optimizer:
    """SGD or AdamW, by ``optimizer``, ``momentum`` and ``weight_decay`` of ``config``."""
    if config.optimizer == "sgd":
        return SGD(parameters, learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)
    return AdamW(parameters, learning_rate, weight_decay=config.weight_decay)


def build_schedule(config: RunConfig, optimiser: Optimizer, steps: int, steps_per_epoch: float) -> LRScheduler:
    """The learning rate by step, from that of ``optimiser``.

    ``"decay"`` is the paper's: ``learning_rate · decay^floor(epoch / decay_epochs)``; ``"one-cycle"`` rises to the
    optimiser's learning rate and ends near zero after ``steps`` steps; ``"constant"`` stays.
    """
    if config.schedule == "one-cycle":
        peak = optimiser.param_groups[0]["lr"]
        return OneCycleLR(optimiser, peak, total_steps=steps, cycle_momentum=config.optimizer == "adamw")
    if config.schedule == "decay":
        # A hair above, so that rounding does not put the first step of an epoch into the one before.
        return LambdaLR(
            optimiser, lambda step: config.decay ** int((step + 1e-6) / steps_per_epoch / config.decay_epochs)
        )
    return LambdaLR(optimiser, lambda step: 1.0)
