"""What one stage of a run, one training of a resizer and a network, has come to."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Row:
    """One line of metrics.csv: a training batch, or a pass over the test set.

    ``step`` counts finished optimiser steps and ``epoch`` the passes over the training images that they make;
    ``cpu_seconds`` and ``wall_seconds`` are the training time spent up to there, without the passes over the test
    set. ``metrics`` holds ``accuracy`` in [0, 1] for classification, ``plcc`` and ``srcc`` in [-1, 1] for image
    quality; a training batch of the latter has none.
    """

    arm: str
    seed: int
    input_size: int
    step: int
    epoch: float
    split: str
    loss: float
    learning_rate: float
    cpu_seconds: float
    wall_seconds: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass
class StageResult:
    """One arm with one seed at one input size. Seconds cover the training alone.

    ``rows`` are its lines of metrics.csv, in the order of their steps; ``resizer`` and ``network`` are in eval mode on
    the CPU.
    """

    arm: str
    seed: int
    input_size: int
    steps: int
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


PRIMARY = {"classification": "accuracy", "iqa": "srcc"}
"""The metric a task is judged by."""
