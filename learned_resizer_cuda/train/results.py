"""A stage's rows of metrics.csv, cost and trained modules; each task's metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..data.source import InputSize
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

METRICS = {
    "classification": (ACCURACY,),
    "iqa": (PLCC, SRCC),
    "distill": (AGREEMENT,),
    "distill-features": (COSINE,),
}
"""Metrics of each objective (``RunConfig.objective``), in the order of their columns."""
PRIMARY_METRIC = {objective: metrics[-1] for objective, metrics in METRICS.items()}
"""The metric each is judged by."""
SHARE = {"classification": ACCURACY.name, "distill": AGREEMENT.name}
"""The metric that training batches have too: a share of right answers."""


@dataclass(frozen=True)
class Row:
    """A line of metrics.csv: a training batch, or a test-set pass.

    ``step`` counts the finished optimiser steps, and ``epoch`` the passes over the training images up to there.
    ``cpu_seconds`` and ``wall_seconds`` are the training time up to there, without the passes over the test set.
    ``metrics`` holds ``accuracy`` in [0, 1] for classification, ``plcc`` and ``srcc`` in [-1, 1] for image quality,
    ``agreement`` in [0, 1] or ``cosine`` in [-1, 1] for distillation; for a training batch only those of ``SHARE``.
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
        """The primary metric of a test: ``test 54.3%`` or ``SRCC 0.812``."""
        metric = next(metric for metric in PRIMARY_METRIC.values() if metric.name in self.metrics)
        return metric.brief.format(self.metrics[metric.name])


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
