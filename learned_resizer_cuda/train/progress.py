"""Progress of a run."""

from __future__ import annotations

from .protocol import Stage
from .results import PRIMARY, Row, StageResult


class Watcher:
    """Callbacks on a run's progress that do nothing; the command line overrides them (``cli.progress``)."""

    def doing(self, what: str) -> None:
        """Work outside of the stages begins that may take long: ``"reading the data"``."""

    def start(self, stage: Stage) -> None:
        """A stage begins or resumes."""

    def step(self, step: int) -> None:
        """The stage has finished ``step`` steps."""

    def testing(self) -> None:
        """A test of the stage begins."""

    def tested(self, row: Row) -> None:
        """A test of the stage has ended."""

    def finish(self, result: StageResult) -> None:
        """The stage is complete."""

    def found(self, result: StageResult) -> None:
        """A stage was completed by an earlier call."""

    def say(self, text: str) -> None:
        """A note for the user."""


def stage_name(stage: Stage | StageResult) -> str:
    """A stage's name for the user."""
    return f"{stage.arm} {stage.input_size}, seed {stage.seed}"


def metric_of(row: Row) -> str:
    """The main metric of a test: ``test 54.3%`` or ``srcc 0.812``."""
    metric = next(name for name in PRIMARY.values() if name in row.metrics)
    value = row.metrics[metric]
    return f"test {value:.1%}" if metric == "accuracy" else f"{metric} {value:.3f}"


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
