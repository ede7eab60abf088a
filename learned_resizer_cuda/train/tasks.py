"""Tasks: a training's loss and the metrics of the test set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from ..data.source import MixedImages
from ..losses import EMDLoss, SigmoidCrossEntropyLoss
from .config import RunConfig
from .results import AGREEMENT, COSINE


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

    def targets(self, images: Tensor | MixedImages, targets: Tensor) -> Tensor:
        """What a batch's outputs are compared with: here the data's targets."""
        return targets

    def student(self, network: nn.Module) -> nn.Module:
        """The network with the outputs that the loss needs: here its own."""
        return network

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


class Distillation(Task):
    """Agreement with a teacher, the network on the images before the resizer.

    Args:
        teacher: images (B, C, S, S) → outputs (B, K), in evaluation mode.
        loss: of (outputs, targets).
        has_classes: metric is how often the largest outputs agree, else the mean cosine.
    """

    def __init__(self, teacher: nn.Module, loss: nn.Module, has_classes: bool = True) -> None:
        metric = AGREEMENT if has_classes else COSINE
        super().__init__(loss, MetricCollection({metric.name: MeanMetric()}))
        self.teacher, self.has_classes = teacher, has_classes

    def targets(self, images: Tensor | MixedImages, targets: Tensor) -> Tensor:
        with torch.no_grad():
            return self.teacher(images)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor | None:
        return self._agreement(logits.detach(), targets).sum() if self.has_classes else None

    def _update(self, logits: Tensor, targets: Tensor) -> None:
        agreement = self._agreement if self.has_classes else _cosine
        self.metrics.update(agreement(logits, targets).float())

    def _agreement(self, logits: Tensor, targets: Tensor) -> Tensor:
        return logits.argmax(1) == targets.argmax(1)


class FeatureDistillation(Distillation):
    """Loss by the features before the last layer: one minus their cosine.

    Outputs are the features and, of a network with classes, its K logits behind them.

    Args:
        teacher: see ``Distillation``; a network of timm.
        num_outputs: K; 0: the network has no classes.
    """

    def __init__(self, teacher: nn.Module, num_outputs: int) -> None:
        teacher = WithFeatures(teacher) if num_outputs else teacher
        super().__init__(teacher, CosineDistance(num_outputs), num_outputs > 0)
        self.num_outputs = num_outputs

    def student(self, network: nn.Module) -> nn.Module:
        return WithFeatures(network) if self.num_outputs else network

    def _agreement(self, logits: Tensor, targets: Tensor) -> Tensor:
        return super()._agreement(logits[:, -self.num_outputs :], targets[:, -self.num_outputs :])


class WithFeatures(nn.Module):
    """A network of timm with its features before its outputs.

    Args:
        network: images → logits (B, K).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images → features and logits (B, F + K)."""
        network: Any = self.network
        features = network.forward_head(network.forward_features(images), pre_logits=True)
        return torch.cat([features, network.get_classifier()(features)], 1)


class Divergence(nn.Module):
    """Kullback-Leibler divergence from a teacher's outputs.

    ``T² Σ_k p_k (log p_k - log q_k)`` with p and q the softmax of the teacher's and the student's outputs over T, mean
    over the images (Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network", 2015, section 2).
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        student, teacher = (
            (_at_least_float32(values) / self.temperature).log_softmax(1) for values in (outputs, targets)
        )
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * self.temperature**2


class CosineDistance(nn.Module):
    """One minus the mean cosine of features, which stand before ``num_outputs`` logits."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.num_outputs = num_outputs

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        count = outputs.shape[1] - self.num_outputs
        return 1 - _cosine(outputs[:, :count], targets[:, :count]).mean()


def _cosine(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cosine_similarity(_at_least_float32(outputs), _at_least_float32(targets))


def _at_least_float32(values: Tensor) -> Tensor:
    # Outputs under autocast are 16 bits wide
    return values if values.dtype == torch.float64 else values.float()


def mean_score(histograms: Tensor) -> Tensor:
    """Mean scores (B,) of histograms (B, K): bins count from 1."""
    scores = torch.arange(1, histograms.shape[1] + 1, dtype=histograms.dtype, device=histograms.device)
    # Not a matrix product, which autocast would round to 16 bits: ties would spoil a rank correlation.
    return (histograms * scores).sum(1)


def build_task(config: RunConfig, num_outputs: int, teacher: nn.Module | None = None) -> Task:
    """The task of a run.

    Args:
        config: of the run.
        num_outputs: classes or bins K.
        teacher: the network that distillation imitates.
    """
    if teacher is not None and config.loss == "cosine":
        return FeatureDistillation(teacher, num_outputs)
    if teacher is not None:
        return Distillation(teacher, Divergence(config.temperature))
    return Quality() if config.task == "iqa" else Classification(num_outputs, config.loss, config.label_smoothing)
