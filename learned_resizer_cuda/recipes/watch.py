"""What a run tells while it works."""

from __future__ import annotations

from .results import Row, StageResult
from .stages import Stage


class Watcher:
    """Told of a run's progress; this one keeps quiet. The command line shows a progress bar."""

    def start(self, stage: Stage) -> None:
        """A stage begins, or goes on."""

    def step(self, step: int) -> None:
        """It has finished ``step`` steps."""

    def tested(self, row: Row) -> None:
        """It has been tested."""

    def finish(self, result: StageResult) -> None:
        """It has ended."""

    def found(self, result: StageResult) -> None:
        """It had ended in an earlier, interrupted call already."""

    def say(self, text: str) -> None:
        """Anything else that a user should know."""
