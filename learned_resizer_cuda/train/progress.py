"""Progress of a run."""

from __future__ import annotations

from .protocol import Stage
from .results import Row, StageResult


class Watcher:
    """Callbacks of a run's progress, which do nothing here.

    Those of ``cli.progress`` show bars or print lines. Several stages may run at a time.
    """

    def doing(self, what: str) -> None:
        """Something slow begins between two stages, for instance ``"reading the data"``."""

    def start(self, stage: Stage) -> None:
        """A stage begins or resumes."""

    def step(self, stage: Stage, step: int) -> None:
        """The stage has finished ``step`` steps."""

    def testing(self, stage: Stage) -> None:
        """A pass over the test images begins."""

    def tested(self, stage: Stage, row: Row) -> None:
        """A pass over the test images has ended."""

    def finish(self, result: StageResult) -> None:
        """The stage is complete."""

    def found(self, result: StageResult) -> None:
        """A stage was completed by an earlier call."""

    def say(self, text: str) -> None:
        """A note for the user."""


def clock(seconds: float) -> str:
    """A duration as ``h:mm:ss``."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
