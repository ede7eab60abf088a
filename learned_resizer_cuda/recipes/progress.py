"""The progress bars of a run: one line a stage."""

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

from .results import PRIMARY, Row, StageResult
from .stages import Stage
from .watch import Watcher


class ProgressBars(Watcher):
    """Shows each stage's steps, time and latest test metric. A context manager.

    Args:
        console: where to draw; where it is no terminal, only the finished lines are printed.
        task: ``"classification"`` or ``"iqa"``.
    """

    def __init__(self, console: Console, task: str) -> None:
        self.metric = PRIMARY[task]
        self._bars = Progress(
            TextColumn("{task.description:<26}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metric]:>12}"),
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

    def start(self, stage: Stage) -> None:
        name = f"{stage.arm} {stage.input_size}, seed {stage.seed}"
        self._task = self._bars.add_task(name, total=stage.steps, metric="")

    def step(self, step: int) -> None:
        self._bars.update(self._task, completed=step)

    def tested(self, row: Row) -> None:
        self._bars.update(self._task, metric=self._shown(row))

    def finish(self, result: StageResult) -> None:
        self._bars.update(self._task, completed=result.steps, metric=self._shown(result.final))
        self._bars.stop_task(self._task)

    def found(self, result: StageResult) -> None:
        name = f"{result.arm} {result.input_size}, seed {result.seed}"
        task = self._bars.add_task(name, total=result.steps, completed=result.steps, metric=self._shown(result.final))
        self._bars.stop_task(task)

    def say(self, text: str) -> None:
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _shown(self, row: Row) -> str:
        value = row.metrics[self.metric]
        return f"test {value:.1%}" if self.metric == "accuracy" else f"{self.metric} {value:.3f}"
