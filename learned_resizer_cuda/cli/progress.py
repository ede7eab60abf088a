"""A run's progress on the screen: a bar on terminals, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress, Task, TaskID
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..report.terminal import print_line
from ..substitutes import printable
from ..train.progress import Watcher, clock
from ..train.protocol import Stage
from ..train.results import Row, StageResult
from .heartbeat import Heartbeat

_BAR_FROM = 40  # columns; a narrower terminal has room for the name and the counter only
_LEAST_BAR, _FAIR_BAR, _WIDEST_BAR, _NAME, _METRIC = 5, 10, 30, 26, 11


@dataclass
class _Running:
    """A stage that is being trained."""

    stage: Stage
    since: float = field(default_factory=time.monotonic)
    step: int = 0
    testing: bool = False
    metric: str = ""

    def text(self) -> str:
        at = f"testing after step {self.step}" if self.testing else f"step {self.step} of {self.stage.steps}"
        what = ", ".join(filter(None, (f"{self.stage.name}: {at}", self.metric)))
        return f"{what} ({clock(time.monotonic() - self.since)})"


class ProgressLines(Watcher):
    """Context manager: lines at stages' starts and ends, status lines at intervals.

    Args:
        console: where to print.
        every: seconds between two status lines.
    """

    def __init__(self, console: Console, every: float = 30.0) -> None:
        self._console = console
        self._heartbeat = Heartbeat(self.say, self.state, every)
        self._what, self._since = "starting", time.monotonic()
        self._running: dict[Stage, _Running] = {}

    def __enter__(self) -> ProgressLines:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._heartbeat.__exit__(None, None, None)

    def state(self) -> str:
        """The status line: each stage with its duration, or another activity."""
        # A copy: the heartbeat's thread calls this
        running = [one.text() for one in tuple(self._running.values())]
        return "; ".join(running) or f"{self._what} ({clock(time.monotonic() - self._since)})"

    def doing(self, what: str) -> None:
        self._what, self._since = what, time.monotonic()

    def start(self, stage: Stage) -> None:
        self._running[stage] = _Running(stage)
        self.say(f"{stage.name}: starts, {stage.steps} steps")

    def step(self, stage: Stage, step: int) -> None:
        self._running[stage].step = step

    def testing(self, stage: Stage) -> None:
        self._running[stage].testing = True

    def tested(self, stage: Stage, row: Row) -> None:
        running = self._running[stage]
        running.metric, running.testing = row.brief, False

    def finish(self, result: StageResult) -> None:
        took = clock(time.monotonic() - self._running.pop(result.stage).since)
        self.doing("preparing the next stage")
        self.say(f"{result.stage.name}: ends, {result.stage.steps} steps, {result.final.brief} ({took})")

    def found(self, result: StageResult) -> None:
        self.say(f"{result.stage.name}: already complete, {result.stage.steps} steps, {result.final.brief}")

    def say(self, text: str) -> None:
        print_line(self._console, text)


class ProgressBars(Watcher):
    """Context manager: a bar for each current stage, below complete ones' bars.

    A bar has the steps, time and latest test metric of its stage.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._bars = Bars(console)
        self._running: dict[Stage, TaskID] = {}
        self._other: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._end_other()
        self._bars.stop()

    def doing(self, what: str) -> None:
        self._end_other()
        self._other = self._bars.add_task(what, total=None, metric="")

    def start(self, stage: Stage) -> None:
        self._end_other()
        self._running[stage] = self._bars.add_task(stage.name, total=stage.steps, metric="")

    def step(self, stage: Stage, step: int) -> None:
        self._bars.update(self._running[stage], completed=step)

    def testing(self, stage: Stage) -> None:
        self._bars.update(self._running[stage], metric="testing")

    def tested(self, stage: Stage, row: Row) -> None:
        self._bars.update(self._running[stage], metric=row.brief)

    def finish(self, result: StageResult) -> None:
        self._keep(self._running.pop(result.stage), result)

    def found(self, result: StageResult) -> None:
        self._end_other()
        self._keep(self._bars.add_task(result.stage.name, total=result.stage.steps, metric=""), result)

    def say(self, text: str) -> None:
        print_line(self._bars.console, text)

    def _keep(self, number: TaskID, result: StageResult) -> None:
        """Print a bar for good, above those that move.

        A live line per stage would not fit the screen.
        """
        self._bars.update(number, completed=result.stage.steps, metric=result.final.brief)
        self._bars.stop_task(number)
        task = next(task for task in self._bars.tasks if task.id == number)
        self._bars.remove_task(number)
        self._bars.console.print(self._bars.make_tasks_table([task]))

    def _end_other(self) -> None:
        if self._other is not None:
            self._bars.remove_task(self._other)
            self._other = None


def progress(console: Console) -> ProgressBars | ProgressLines:
    """Progress for this console: bars need a terminal whose cursor can move."""
    return ProgressBars(console) if console.is_interactive else ProgressLines(console)


class Bars(Progress):
    """A line per task that fits any width by leaving columns out."""

    def __init__(self, console: Console) -> None:
        self._widest = 0  # longest name so far, which aligns the columns
        super().__init__(console=console)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        table = Table.grid(padding=(0, 1))
        for task in tasks:
            table.add_row(*self._cells(task))
        return table

    def _cells(self, task: Task) -> list[Text | ProgressBar]:
        width, encoding = self.console.width, self.console.encoding
        name = printable(task.description, encoding)
        elapsed = clock(task.elapsed or 0)
        counter, extras, ended = "", [elapsed], task.total is not None and task.completed >= task.total
        if task.total is not None:
            self._widest = max(self._widest, len(name))
            counter = f"{int(task.completed):{len(str(int(task.total)))}}/{int(task.total)}"
            left = "" if ended else clock(task.time_remaining) if task.time_remaining else "-:--:--"
            # Most useful first
            extras = [f"{task.fields['metric']:>{_METRIC}}", f"{left:>{len(elapsed)}}", elapsed]
        named, room = max(len(name), self._widest), width - len(counter) - bool(counter)
        bar = _LEAST_BAR if width >= _BAR_FROM else 0
        if ended and named + bar + len(extras[0]) + 2 > room:
            bar = 0  # the metric is worth more than a full bar
        room -= bar + bool(bar)
        named = max(1, min(named, room))
        room -= named
        shown = []
        for text in extras:
            if len(text) < room:
                shown.append(text)
                room -= len(text) + 1
        if bar:
            bar, room = _grown(bar, _FAIR_BAR, room)
            named, room = _grown(named, _NAME, room)
            bar, room = _grown(bar, _WIDEST_BAR, room)
        cells: list[Text | ProgressBar] = [Text(f"{shortened(name, named, encoding):<{named}}")]
        if bar:
            cells.append(ProgressBar(task.total, task.completed, bar, animation_time=task.get_time()))
        if counter:
            cells.append(Text(counter, "progress.download"))
        return cells + [Text(text, "progress.elapsed") for text in shown]


def _grown(now: int, wish: int, room: int) -> tuple[int, int]:
    more = min(max(0, wish - now), room)
    return now + more, room - more


def shortened(text: str, width: int, encoding: str = "utf-8") -> str:
    """``text`` within ``width`` columns, cut in its middle: the seed comes last."""
    if len(text) <= width:
        return text
    gap = printable("…", encoding)
    kept = width - len(gap)
    if kept < 2:
        return text[:width]
    return text[: kept - kept // 2] + gap + text[len(text) - kept // 2 :]
