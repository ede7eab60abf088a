"""Tasks: a training's loss and the metrics of the test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from ..data.source import IGNORED, MixedImages
from ..losses import EMDLoss, SigmoidCrossEntropyLoss
from ..resize import resize
from .config import RunConfig
from .results import AGREEMENT, COSINE, MIOU, MIOU_SMALL


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

    def targets(self, images: Tensor | MixedImages, targets: Any) -> Any:
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

        None for image quality, for segmentation, and for several networks.
        """
        return None

    def undecided(self) -> float:
        """Loss where all logits are 0 and classes occur equally often.

        1 for tasks that never share a run with another one: their weights are equal whatever it is.
        """
        return 1.0

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
        self.num_classes = num_classes

    def undecided(self) -> float:
        return float(self.loss(torch.zeros(self.num_classes, self.num_classes), torch.arange(self.num_classes)))

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


class Segmentation(Task):
    """Cross-entropy of each pixel, perhaps with Dice, and mean intersection over union.

    Logits come at the network's own size. The loss, and the metric the task is judged by, are at the masks' size, to
    which ``resize`` (bilinear) takes the logits; ``miou_small`` compares their classes with the masks reduced to the
    logits' size by nearest neighbour. The mean is over the classes that the test masks or the answers contain, of
    intersections and unions counted over all test images.

    Args:
        num_classes: K.
        loss: ``"cross-entropy"``, or ``"dice"``: with the Dice loss added.
    """

    def __init__(self, num_classes: int, loss: str) -> None:
        index: dict[str, Any] = {
            metric.name: MulticlassJaccardIndex(num_classes, ignore_index=IGNORED, validate_args=False)
            for metric in (MIOU_SMALL, MIOU)
        }
        super().__init__(PixelLoss(loss == "dice"), MetricCollection(index, compute_groups=False))
        self.num_classes = num_classes

    def undecided(self) -> float:
        one_pixel_each = torch.arange(self.num_classes).view(1, 1, -1)
        return float(self.loss(torch.zeros(1, self.num_classes, 1, self.num_classes), one_pixel_each))

    def _update(self, logits: Tensor, targets: Tensor) -> None:
        logits = _at_least_float32(logits)
        small = resize(targets, logits.shape[2:], interpolation="nearest")
        self.metrics[MIOU_SMALL.name].update(logits.argmax(1), small.long())
        self.metrics[MIOU.name].update(at_size_of(logits, targets).argmax(1), targets.long())


class PixelLoss(nn.Module):
    """Cross-entropy over the labelled pixels, with or without the Dice loss.

    The Dice loss is ``1 - mean_k 2 Σ p_k t_k / (Σ p_k + Σ t_k)`` over the classes k that the masks of the batch
    contain, with softmax p, one-hot t, and sums over the batch's labelled pixels (Milletari, Navab & Ahmadi, "V-Net",
    3DV 2016, with sums instead of squares).

    Args:
        dice: add it.
    """

    def __init__(self, dice: bool) -> None:
        super().__init__()
        self.dice = dice

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Logits (B, K, h, w) and masks (B, H, W) → scalar.

        Both at the masks' size; 255 is not labelled. Several processes have each their own part of the batch, so that
        the Dice loss, which is not a mean over images, is another one than with the whole batch.
        """
        logits = at_size_of(_at_least_float32(logits), masks)
        labelled = masks != IGNORED
        log_p = logits.log_softmax(1)
        # Of a batch without a labelled pixel the mean would be NaN
        loss = functional.nll_loss(
            log_p, masks.long(), ignore_index=IGNORED, reduction="sum"
        ) / labelled.sum().clamp_min(1)
        if not self.dice:
            return loss
        p = log_p.exp()
        classes = torch.arange(logits.shape[1], dtype=masks.dtype, device=masks.device)
        t = (masks[:, None] == classes.view(-1, 1, 1)).to(p.dtype)
        pixels = t.sum((0, 2, 3))
        there = pixels > 0
        overlap, total = (p * t).sum((0, 2, 3)), torch.einsum("bkhw,bhw->k", p, labelled.to(p.dtype))
        dice = 2 * overlap / (total + pixels.clamp_min(1))
        return loss + 1 - (dice * there).sum() / there.sum().clamp_min(1)


def at_size_of(logits: Tensor, masks: Tensor) -> Tensor:
    """Logits (B, K, h, w) at the size of masks, bilinear.

    Masks are (B, H, W).
    """
    size = (masks.shape[-2], masks.shape[-1])
    # Sums over the pixels of a class are slow where the classes lie side by side
    return logits.contiguous() if logits.shape[2:] == size else resize(logits.contiguous(), size)


class Joint(Task):
    """Tasks of several networks behind one resizer, their losses summed.

    Outputs are a tuple, one for each network. A loss is weighted by the mean of all ``undecided`` losses over its own:
    each task counts alike in units of what it costs to know nothing, so that no task rules the resizer because of the
    units of its loss. Losses of the same kind keep a weight of 1.

    Args:
        tasks: by name of the network, in their order.
        kinds: task of each: where targets are by task, it takes those.
    """

    def __init__(self, tasks: Mapping[str, Task], kinds: Sequence[str]) -> None:
        super().__init__(nn.Identity(), MetricCollection({}))
        self.names, self.kinds = list(tasks), list(kinds)
        self.tasks = nn.ModuleList(tasks.values())
        scales = [task.undecided() for task in tasks.values()]
        self.weights = [sum(scales) / len(scales) / scale for scale in scales]
        self.loss = _SummedLoss(self)

    def parts(self, outputs: Sequence[Tensor], targets: Tensor | dict[str, Tensor]) -> list[tuple[Any, Tensor, Tensor]]:
        """Task, output and targets of each network."""
        given = [targets[kind] if isinstance(targets, dict) else targets for kind in self.kinds]
        return list(zip(self.tasks, outputs, given, strict=True))

    def measure(self, logits: Any, targets: Any) -> None:
        for task, output, target in self.parts(logits, targets):
            task.measure(output, target)

    def results(self) -> tuple[float, dict[str, float]]:
        found = [task.results() for task in self.tasks]  # type: ignore[operator]
        loss = sum(weight * loss for weight, (loss, _) in zip(self.weights, found, strict=True))
        named = zip(self.names, found, strict=True)
        return loss, {f"{metric}:{name}": value for name, (_, values) in named for metric, value in values.items()}


class _SummedLoss(nn.Module):
    """Weighted sum of the losses of ``Joint``."""

    def __init__(self, joint: Joint) -> None:
        super().__init__()
        self.parts, self.weights = joint.parts, joint.weights

    def forward(self, outputs: Sequence[Tensor], targets: Tensor | dict[str, Tensor]) -> Tensor:
        losses = [task.loss(output, target) for task, output, target in self.parts(outputs, targets)]
        return torch.stack([weight * loss for weight, loss in zip(self.weights, losses, strict=True)]).sum()


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


def build_task(config: RunConfig, outputs: Sequence[int], teacher: nn.Module | None = None) -> Task:
    """The task of a run.

    Args:
        config: of the run.
        outputs: classes or bins K of each network.
        teacher: the network that distillation imitates.
    """
    if teacher is not None and config.loss == "cosine":
        return FeatureDistillation(teacher, outputs[0])
    if teacher is not None:
        return Distillation(teacher, Divergence(config.temperature))
    tasks = {
        member.name: _labelled_task(config, member.task, count)
        for member, count in zip(config.members, outputs, strict=True)
    }
    if not config.models:
        return next(iter(tasks.values()))
    return Joint(tasks, [member.task for member in config.members])


def _labelled_task(config: RunConfig, task: str, num_outputs: int) -> Task:
    if task == "segmentation":
        return Segmentation(num_outputs, config.loss_of(task))
    return Quality() if task == "iqa" else Classification(num_outputs, config.loss_of(task), config.label_smoothing)
