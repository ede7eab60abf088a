"""Optimiser and learning-rate schedule of a training."""

from __future__ import annotations

import math
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from .config import RunConfig
from .frequencies import FrequencyAdamW


def build_optimiser(config: RunConfig, resizer: nn.Module, network: nn.Module, learning_rate: float) -> Optimizer:
    """SGD or AdamW, by ``optimizer``, ``momentum`` and ``weight_decay`` of ``config``.

    Args:
        config: of the run.
        resizer, network: both are trained, but for parameters that are frozen; a group each, the resizer's first.
        learning_rate: of the network, and of the resizer unless ``config`` has another.
    """
    parts: tuple[dict[str, Any], ...] = (
        {"params": _trained(resizer), "lr": config.resizer_learning_rate or learning_rate, "frequencies": True},
        {"params": _trained(network), "lr": learning_rate},
    )
    groups = [part for part in parts if part["params"]]
    if config.optimizer == "sgd":
        return SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay)
    if config.kernel_basis == "frequencies":
        return FrequencyAdamW(groups, config.weight_decay)
    return AdamW(groups, weight_decay=config.weight_decay)


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def build_schedule(config: RunConfig, optimiser: Optimizer, steps: int, steps_per_epoch: float) -> LRScheduler:
    """The learning rates by step, from those of ``optimiser``.

    ``"decay"`` is the paper's: ``learning_rate · decay^floor(epoch / decay_epochs)``; ``"one-cycle"`` rises to the
    optimiser's learning rate and ends near zero after ``steps`` steps; ``"cosine"`` falls to zero as half a cosine;
    ``"constant"`` stays. The warm-up multiplies them by a factor that rises from ``1 / n`` to 1 in n steps.
    """
    if config.schedule == "one-cycle":
        peaks = [group["lr"] for group in optimiser.param_groups]
        return OneCycleLR(optimiser, peaks, total_steps=steps, cycle_momentum=config.optimizer == "adamw")

    def factor(step: int) -> float:
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * min(step / steps, 1))) / 2
        if config.schedule == "decay":
            # A hair above, so that rounding does not put the first step of an epoch into the one before.
            return config.decay ** int((step + 1e-6) / steps_per_epoch / config.decay_epochs)
        return 1.0

    warmup = max(1, config.warmup_steps)
    return LambdaLR(optimiser, lambda step: min(1.0, (step + 1) / warmup) * factor(step))
