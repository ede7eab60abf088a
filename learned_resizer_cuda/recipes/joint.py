"""A resizer and a task network trained together on the task's loss alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
Optimisers = Callable[[Iterable[nn.Parameter]], dict[str, Any]]


class JointTraining(LightningModule):
    """Joint training of a resizer and a classifier: no pixel or perceptual loss touches the resizer.

    Steps return their figures instead of logging them one by one: a callback collects them, so that a step of a
    small network is not dominated by bookkeeping.

    Args:
        resizer: images (B, C, H, W) → (B, C, h, w); any module, with or without parameters.
        network: images (B, C, h, w) → logits (B, K).
        loss: logits (B, K) and labels (B,) → scalar.
        optimisers: parameters → what ``configure_optimizers`` returns, for instance ``adamw_one_cycle(...)``.
    """

    def __init__(self, resizer: nn.Module, network: nn.Module, loss: Loss, optimisers: Optimisers) -> None:
        super().__init__()
        self.resizer, self.network = resizer, network
        self.loss, self.optimisers = loss, optimisers

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, K)."""
        return self.network(self.resizer(images))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """``loss``, a scalar with gradient, and ``correct``, the number of right answers."""
        return self._step(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """As ``training_step``, in eval mode and without gradient."""
        return self._step(batch)

    def _step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        return {"loss": self.loss(logits, labels), "correct": (logits.detach().argmax(1) == labels).sum()}

    def configure_optimizers(self) -> Any:
        return self.optimisers(self.parameters())


def adamw_one_cycle(learning_rate: float, weight_decay: float, steps: int) -> Optimisers:
    """AdamW under a one-cycle learning rate that peaks at ``learning_rate`` and ends after ``steps`` steps."""

    def build(parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return build


def classification_loss(name: str, label_smoothing: float) -> Loss:
    """Cross-entropy over softmax or over sigmoid outputs: the two readings of the paper's loss.

    Args:
        name: ``"softmax"`` or ``"sigmoid"``.
        label_smoothing: in [0, 1).
    """
    if name == "softmax":
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    from ..losses import SigmoidCrossEntropyLoss

    return SigmoidCrossEntropyLoss(label_smoothing=label_smoothing)
