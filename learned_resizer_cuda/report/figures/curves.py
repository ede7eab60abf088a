"""Learning curves of the arms: training loss, and the test metric by step, by training time and by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...train.results import Metric, StageResult
from .style import (
    MARKERS,
    arm_colours,
    draw_range,
    finish_axes,
    legend_below,
    log_steps,
    new_figure,
    over_seeds,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_RATIO = 3
"""Runs whose lengths differ by more than this factor are drawn on a log axis: the longest would press the others
into a corner."""
STYLES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """A line of a figure: the seeds of an arm at an input size."""

    label: str
    colour: str
    marker: str
    style: str
    results: list[StageResult]

    def draw(self, axes: Axes, x: np.ndarray, values: np.ndarray, *, markers: bool = True) -> None:
        """Draw mean and range over the seeds; ``x`` (points,), ``values`` (seeds, points). Without points: nothing."""
        if len(x):
            marker = self.marker if markers else ""
            draw_range(axes, x, values, self.colour, self.label, marker=marker, style=self.style)

    def tests(self, metric: Metric) -> np.ndarray:
        """Values (seeds, points) of a test metric, in the units of its axis.

        Raises:
            ValueError: the test rows have no such metric.
        """
        measured = self.results[0].final.metrics
        if metric.name not in measured:
            raise ValueError(f"metric: got {metric.name!r}; expected one of {', '.join(sorted(measured)) or 'none'}")
        return over_seeds(self.results, "test", lambda row: metric.factor * row.metrics[metric.name])[1]


def lines_of(results: Sequence[StageResult]) -> list[Line]:
    """One line per arm and input size, in the order of the results: coloured by arm, styled by size.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("results: got none; expected at least one")
    groups: dict[tuple[str, int], list[StageResult]] = {}
    for result in results:
        groups.setdefault((result.stage.arm, result.stage.input_size), []).append(result)
    sizes = sorted({size for _, size in groups})
    colours = arm_colours(arm for arm, _ in groups)
    markers = {arm: MARKERS[index % len(MARKERS)] for index, arm in enumerate(colours)}
    return [
        Line(
            f"{arm}, {size} px" if len(sizes) > 1 else arm,
            colours[arm],
            markers[arm],
            STYLES[sizes.index(size) % len(STYLES)],
            mine,
        )
        for (arm, size), mine in groups.items()
    ]


def save_curves(results: Sequence[StageResult], path: Path, metric: Metric) -> None:
    """Draw training loss by step, and a test metric by step and by training time: mean line and range over seeds.

    Steps are on a log axis where the arms' lengths differ by more than ``LOG_RATIO``. Training time is CPU time for
    arms that trained on the CPU, else wall time, as a GPU's time is not CPU time.

    Args:
        results: of a run, every seed and input size of every arm.
        path: the PNG to write.
        metric: of the test rows.

    Raises:
        ValueError: there are no results, or their test rows have no such metric.
    """
    figure = new_figure(15, 5)
    loss, by_step, by_time = figure.subplots(1, 3)
    for line in lines_of(results):
        steps, losses = over_seeds(line.results, "train", lambda row: row.loss)
        line.draw(loss, steps, _smooth(losses), markers=False)
        spent = attrgetter("cpu_seconds" if line.results[0].device == "cpu" else "wall_seconds")
        steps, seconds = over_seeds(line.results, "test", spent)
        line.draw(by_step, steps, line.tests(metric))
        line.draw(by_time, seconds.mean(0), line.tests(metric))
    clocks = sorted({"CPU" if result.device == "cpu" else "wall" for result in results})
    finish_axes(loss, "Training loss", "optimiser step", "loss, running mean")
    finish_axes(by_step, "Test set, by step", "optimiser step", metric.label)
    finish_axes(by_time, "Test set, by training time", f"{' or '.join(clocks)} seconds of training", metric.label)
    by_time.set_xlim(left=0)
    lengths = [result.stage.steps for result in results]
    if max(lengths) > LOG_RATIO * min(lengths):
        first = min(row.step for result in results for row in result.split("test") if row.step)
        log_steps(by_step, first, max(lengths))
        # Before that nothing has been learned, and a log axis would give it half of the width.
        log_steps(loss, max(1, min(lengths) / 40), max(lengths))
    legend_below(figure, by_step)
    save_figure(figure, path)


def save_transfer(results: Sequence[StageResult], path: Path, metric: Metric) -> None:
    """Draw a test metric by epoch, from 0 for arms that were tested before their training.

    Mean line and range over the seeds; the legend gives the means after the last epoch.

    Args:
        results: every seed and input size of the arms, for instance ``transfer``, ``fresh`` and ``control``.
        path: the PNG to write.
        metric: of the test rows.

    Raises:
        ValueError: there are no results, or their test rows have no such metric.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8, 5.4)
    axes = figure.subplots()
    for line in lines_of(results):
        _, epochs = over_seeds(line.results, "test", lambda row: row.epoch)
        values = line.tests(metric)
        line = line._replace(label=f"{line.label}: {values[:, -1].mean():.{metric.digits}f}")
        line.draw(axes, epochs.mean(0), values)
    finish_axes(axes, "A new network behind the resizer", "epoch", metric.label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes)
    save_figure(figure, path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, shorter at its ends; (seeds, points) → the same shape."""
    window = max(1, values.shape[1] // 20)
    weight = np.convolve(np.ones(values.shape[1]), np.ones(window), "same")
    return np.stack([np.convolve(row, np.ones(window), "same") / weight for row in values])
