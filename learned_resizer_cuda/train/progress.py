"""What a run tells while it works."""

from __future__ import annotations

from .protocol import Stage
from .results import PRIMARY, Row, StageResult


class Watcher:
    """Told of a run's progress; this one keeps quiet. The command line shows bars or prints lines (``progress``)."""

    def doing(self, what: str) -> None:
        """Between two stages, something else begins that may take long: ``"reading the data"``."""

    def start(self, stage: Stage) -> None:
        """A stage begins, or goes on."""

    def step(self, step: int) -> None:
        """It has finished ``step`` steps."""

    def testing(self) -> None:
        """A pass over its test images begins."""

    def tested(self, row: Row) -> None:
        """It has been tested."""

    def finish(self, result: StageResult) -> None:
        """It has ended."""

    def found(self, result: StageResult) -> None:
        """It had ended in an earlier, interrupted call already."""

    def say(self, text: str) -> None:
        """Anything else that a user should know."""


def stage_name(stage: Stage | StageResult) -> str:
    """A stage as a user knows it."""
    return f"{stage.arm} {stage.input_size}, seed {stage.seed}"


def metric_of(row: Row) -> str:
    """The metric that a test is judged by: ``test 54.3%`` or ``srcc 0.812``."""
    metric = next(name for name in PRIMARY.values() if name in row.metrics)
    value = row.metrics[metric]
    return f"test {value:.1%}" if metric == "accuracy" else f"{metric} {value:.3f}"


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
