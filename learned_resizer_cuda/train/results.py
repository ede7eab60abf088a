"""A stage's rows of metrics.csv, cost and trained modules; each task's metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from ..data.source import InputSize
from .config import RunConfig
from .protocol import Stage


@dataclass(frozen=True)
class Metric:
    """A metric of the test set, and how it is written.

    Attributes:
        name: key in ``Row.metrics``, column of metrics.csv.
        label: axis label and column title.
        unit: of a difference between two values.
        brief: format of a value on a progress line, before ``factor``.
        variance: of one image's share in the metric, at a given value of the metric.
        factor: what values are multiplied by where they are shown, 100 for per cent.
        digits: after the decimal point, where values are shown.
    """

    name: str
    label: str
    unit: str
    brief: str
    variance: Callable[[float], float] = field(repr=False)
    factor: float = 1
    digits: int = 3

    @property
    def train_label(self) -> str:
        """Column title of the same metric on training batches."""
        return "train " + self.label.removeprefix("test ")


def _correlation_variance(rho: float) -> float:
    """Of a correlation of normal pairs."""
    return (1 - rho**2) ** 2


ACCURACY = Metric("accuracy", "test accuracy, %", "points", "test {:.1%}", lambda p: p * (1 - p), 100, 1)
PLCC = Metric("plcc", "test PLCC", "PLCC", "PLCC {:.3f}", _correlation_variance)
SRCC = Metric("srcc", "test SRCC", "SRCC", "SRCC {:.3f}", _correlation_variance)

AGREEMENT = Metric("agreement", "test agreement, %", "points", "agrees {:.1%}", ACCURACY.variance, 100, 1)
# 1 - c² is the largest variance that values in [-1, 1] of mean c can have.
COSINE = Metric("cosine", "test cosine", "cosine", "cosine {:.3f}", lambda c: 1 - c**2)

# Within [0, 1] as an accuracy, and so a mean over the images of no more than its variance.
MIOU = replace(ACCURACY, name="miou", label="test mIoU at the input's size, %", brief="mIoU {:.1%}")
MIOU_SMALL = replace(MIOU, name="miou_small", label="test mIoU at the output's size, %")

METRICS = {
    "classification": (ACCURACY,),
    "segmentation": (MIOU_SMALL, MIOU),
    "iqa": (PLCC, SRCC),
    "distill": (AGREEMENT,),
    "distill-features": (COSINE,),
}
"""Metrics of each objective (``RunConfig.objective``), in the order of their columns."""
PRIMARY_METRIC = {objective: metrics[-1] for objective, metrics in METRICS.items()}
"""The metric each is judged by."""
SHARE = {"classification": ACCURACY.name, "distill": AGREEMENT.name}
"""The metric that training batches have too: a share of right answers."""
_NAMED = {metric.name: metric for metrics in METRICS.values() for metric in metrics}


def metric_named(name: str) -> Metric:
    """The metric of a column: NAME, or NAME:NETWORK for several networks."""
    base, colon, network = name.partition(":")
    metric = _NAMED[base]
    return replace(metric, name=name, label=f"{metric.label}, {network}") if colon else metric


def metrics_of(config: RunConfig) -> tuple[Metric, ...]:
    """Metrics of a run, in the order of their columns."""
    return tuple(metric for metrics in _by_network(config) for metric in metrics)


def judged_by(config: RunConfig) -> tuple[Metric, ...]:
    """The metrics that a run is judged by: one of each network."""
    return tuple(metrics[-1] for metrics in _by_network(config))


def share_of(config: RunConfig) -> str | None:
    """Name of the metric of training batches, if they have one."""
    return None if config.models else SHARE.get(config.objective)


def _by_network(config: RunConfig) -> list[tuple[Metric, ...]]:
    if not config.models:
        return [METRICS[config.objective]]
    return [
        tuple(metric_named(f"{metric.name}:{member.name}") for metric in METRICS[member.task])
        for member in config.members
    ]


@dataclass(frozen=True)
class Row:
    """A line of metrics.csv: a training batch, or a test-set pass.

    ``step`` counts the finished optimiser steps, and ``epoch`` the passes over the training images up to there.
    ``cpu_seconds`` and ``wall_seconds`` are the training time up to there, without the passes over the test set.
    ``metrics`` holds ``accuracy`` in [0, 1] for classification, ``plcc`` and ``srcc`` in [-1, 1] for image quality,
    ``agreement`` in [0, 1] or ``cosine`` in [-1, 1] for distillation, ``miou_small`` and ``miou`` in [0, 1] for
    segmentation; of several networks each as NAME:NETWORK. For a training batch only that of ``share_of``.
    """

    arm: str
    seed: int
    input_size: InputSize
    step: int
    epoch: float
    split: str
    loss: float
    learning_rate: float
    cpu_seconds: float
    wall_seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def brief(self) -> str:
        """Primary metric of a test, or of each network.

        Such as ``test 54.3%`` or ``SRCC 0.812``.
        """
        primary = {metric.name for metric in PRIMARY_METRIC.values()}
        found = {name: value for name, value in self.metrics.items() if name.partition(":")[0] in primary}
        return ", ".join(metric_named(name).brief.format(value) for name, value in found.items())


@dataclass
class StageResult:
    """The result of one stage. Seconds cover the training alone.

    ``rows`` are its lines of metrics.csv, in the order of their steps. ``resizer`` and ``network`` are in eval mode on
    the CPU.
    """

    stage: Stage
    batch_size: int
    cpu_seconds: float
    wall_seconds: float
    resizer_parameters: int
    device: str
    rows: list[Row] = field(repr=False)
    resizer: nn.Module = field(repr=False)
    network: nn.Module = field(repr=False)

    def split(self, split: str) -> list[Row]:
        """The rows of ``"train"`` or ``"test"``."""
        return [row for row in self.rows if row.split == split]

    @property
    def final(self) -> Row:
        """The last pass over the test set."""
        return self.split("test")[-1]
