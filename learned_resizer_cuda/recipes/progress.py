"""The progress bars of a comparison: one line an arm and seed."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .compare import ArmResult, Watcher
from .record import Row


class ProgressBars(Watcher):
    """Shows each arm's steps, time and latest test accuracy. A context manager.

    Args:
        console: where to draw; where it is no terminal, only the finished lines are printed.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[accuracy]:>12}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = TaskID(0)

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def start(self, arm: str, seed: int, steps: int) -> None:
        self._task = self._bars.add_task(f"{arm}, seed {seed}", total=steps, accuracy="")

    def step(self, step: int) -> None:
        self._bars.update(self._task, completed=step)

    def evaluated(self, row: Row) -> None:
        self._bars.update(self._task, accuracy=f"test {row.accuracy:.1%}")

    def finish(self, result: ArmResult) -> None:
        self._bars.stop_task(self._task)
