"""A resizer and a task network trained together on the task's loss alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..data.source import Batch
from .config import RunConfig
from .tasks import Task

Optimisers = Callable[[Iterable[nn.Parameter]], dict[str, Any]]


class JointTraining(LightningModule):
    """Joint training of a resizer and a network: no pixel or perceptual loss touches the resizer.

    Steps return their figures instead of logging them one by one: a callback collects them, so that a step of a
    small network is not dominated by bookkeeping.

    Args:
        resizer: images (B, C, H, W) → (B, C, h, w); any module, with or without parameters.
        network: images (B, C, h, w) → logits (B, K).
        task: loss and metrics.
        optimisers: parameters → what ``configure_optimizers`` returns.
    """

    def __init__(self, resizer: nn.Module, network: nn.Module, task: Task, optimisers: Optimisers) -> None:
        super().__init__()
        self.resizer, self.network = resizer, network
        self.task, self.optimisers = task, optimisers

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, K)."""
        return self.network(self.resizer(images))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``loss``, a scalar with gradient, and ``correct``, the number of right answers, or None."""
        logits = self(batch.images)
        return {
            "loss": self.task.loss(logits, batch.targets),
            "correct": self.task.correct(logits, batch.targets),
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Feeds the task's metrics, in eval mode and without gradient."""
        if len(batch.images):  # every image of a batch may have been unreadable
            self.task.measure(self(batch.images), batch.targets)

    def configure_optimizers(self) -> Any:
        return self.optimisers(parameter for parameter in self.parameters() if parameter.requires_grad)


def optimisers(config: RunConfig, learning_rate: float, steps: int, steps_per_epoch: float) -> Optimisers:
    """Optimiser and schedule of a training.

    The schedule ``"decay"`` is the paper's: ``learning_rate · decay^floor(epoch / decay_epochs)``; ``"one-cycle"``
    rises to ``learning_rate`` and ends near zero after ``steps`` steps.

    Args:
        config: optimizer, momentum, weight_decay, schedule, decay and decay_epochs.
        learning_rate: the first, or the peak of the cycle.
        steps: of the whole training.
        steps_per_epoch: to tell epochs from steps.
    """

    def build(parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        optimiser: torch.optim.Optimizer
        if config.optimizer == "sgd":
            optimiser = torch.optim.SGD(
                parameters, learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
            )
        else:
            optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=config.weight_decay)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if config.schedule == "one-cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimiser, learning_rate, total_steps=steps, cycle_momentum=config.optimizer == "adamw"
            )
        elif config.schedule == "decay":
            # A hair above, so that the last step of an epoch is not the first of the next by rounding.
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: config.decay ** int((step + 1e-6) / steps_per_epoch / config.decay_epochs)
            )
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return build
