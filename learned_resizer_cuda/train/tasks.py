"""Tasks: a training's loss and the metrics of the test set."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from ..losses import EMDLoss, SigmoidCrossEntropyLoss


class Task(nn.Module):
    """Loss, and metrics over the test images of all processes together.

    Args:
        loss: logits (B, K) and targets → scalar.
        metrics: torchmetrics by name, updated by ``measure``.
    """

    def __init__(self, loss: nn.Module, metrics: MetricCollection) -> None:
        super().__init__()
        self.loss = loss
        self.metrics = metrics
        self.mean_loss = MeanMetric()

    def measure(self, logits: Tensor, targets: Tensor) -> None:
        """Updates the metrics with a test batch."""
        self.mean_loss.update(self.loss(logits, targets), weight=len(logits))
        self._update(logits, targets)

    def results(self) -> tuple[float, dict[str, float]]:
        """Mean loss over the test images and the metrics; resets both."""
        loss = float(self.mean_loss.compute())
        values = {name: float(value) for name, value in self.metrics.compute().items()}
        self.mean_loss.reset()
        self.metrics.reset()
        return loss, values

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        """Number of right answers in a batch, a scalar on its device.

        None for image quality.
        """
        return None

    def _update(self, logits: Tensor, targets: Tensor) -> None:
        raise NotImplementedError


class Classification(Task):
    """Cross-entropy over sigmoid or softmax outputs, and top-1 accuracy.

    The paper's loss can be read either way.

    Args:
        num_classes: K.
        loss: ``"sigmoid"`` or ``"softmax"``.
        label_smoothing: in [0, 1).
    """

    def __init__(self, num_classes: int, loss: str, label_smoothing: float) -> None:
        entropy = SigmoidCrossEntropyLoss if loss == "sigmoid" else nn.CrossEntropyLoss
        accuracy = MulticlassAccuracy(num_classes=num_classes, average="micro", validate_args=False)
        super().__init__(entropy(label_smoothing=label_smoothing), MetricCollection({"accuracy": accuracy}))

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.detach().argmax(1) == targets).sum()

    def _update(self, logits: Tensor, targets: Tensor) -> None:
        self.metrics.update(logits, targets)


class Quality(Task):
    """Earth mover's distance between histograms, and PLCC and SRCC of mean scores.

    The distance is over K bins, with d = 2. The score of bin k is k + 1, as AVA's 1 to 10: the mean score of a
    histogram p is ``Σ_k (k + 1) p_k``.
    """

    def __init__(self) -> None:
        super().__init__(EMDLoss(d=2), MetricCollection({"plcc": PearsonCorrCoef(), "srcc": SpearmanCorrCoef()}))

    def _update(self, logits: Tensor, targets: Tensor) -> None:
        self.metrics.update(mean_score(logits.float().softmax(1)), mean_score(targets))


def mean_score(histograms: Tensor) -> Tensor:
    """Mean scores (B,) of histograms (B, K): bins count from 1."""
    scores = torch.arange(1, histograms.shape[1] + 1, dtype=histograms.dtype, device=histograms.device)
    # Not a matrix product, which autocast would round to 16 bits: ties would spoil a rank correlation.
    return (histograms * scores).sum(1)


def build_task(task: str, num_outputs: int, loss: str, label_smoothing: float) -> Task:
    """The task of a run: ``"classification"`` or ``"iqa"``."""
    return Quality() if task == "iqa" else Classification(num_outputs, loss, label_smoothing)
