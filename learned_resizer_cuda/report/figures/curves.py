"""Arms' training loss, and test metric by step, training time and epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...data.source import NATIVE, InputSize
from ...train.results import Metric, Row, StageResult
from .style import MARKERS, arm_colours, finish_axes, legend_below, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_RATIO = 3
"""Arms whose numbers of steps differ by more than this factor are drawn on a log axis of steps."""
STYLES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """A line of a figure: an arm's seeds at an input size.

    ``order``: lines of a higher one lie above others.
    """

    label: str
    colour: str
    marker: str
    style: str
    order: int
    results: list[StageResult]

    def draw(self, axes: Axes, x: np.ndarray, values: np.ndarray, marker: str = "") -> None:
        """Draw mean line and range band of ``values`` (seeds, points); ``x`` (points,)."""
        if not len(x):
            return
        if len(x) == 1:  # never trained: the level that the others are compared with
            axes.axhline(values.mean(), label=self.label, color=self.colour, linestyle="--", zorder=self.order)
            return
        axes.plot(
            x,
            values.mean(0),
            label=self.label,
            color=self.colour,
            marker=marker,
            markersize=4.5,
            linewidth=2,
            linestyle=self.style,
            zorder=self.order,
        )
        if len(values) > 1:
            low, high = values.min(0), values.max(0)
            axes.fill_between(x, low, high, color=self.colour, alpha=0.18, linewidth=0, zorder=self.order)

    def tests(self, metric: Metric) -> np.ndarray:
        """A test metric's values (seeds, points) in the units of its axis.

        Raises:
            ValueError: the test rows have no such metric.
        """
        measured = self.results[0].final.metrics
        if metric.name not in measured:
            raise ValueError(f"metric: got {metric.name!r}; expected one of {', '.join(sorted(measured)) or 'none'}")
        return _over_seeds(self.results, "test", lambda row: metric.factor * row.metrics[metric.name])[1]


def lines_of(results: Sequence[StageResult]) -> list[Line]:
    """One line per arm and input size, in the results' order.

    Lines are coloured by arm and styled by size.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("results: got none; expected at least one")
    groups: dict[tuple[str, InputSize], list[StageResult]] = {}
    for result in results:
        groups.setdefault((result.stage.arm, result.stage.input_size), []).append(result)
    sizes = list(dict.fromkeys(size for _, size in groups))
    colours = arm_colours(arm for arm, _ in groups)
    markers = {arm: MARKERS[index % len(MARKERS)] for index, arm in enumerate(colours)}
    return [
        Line(
            f"{arm}, {size if size == NATIVE else f'{size} px'}" if len(sizes) > 1 else arm,
            colours[arm],
            markers[arm],
            STYLES[sizes.index(size) % len(STYLES)],
            3 if mine[0].stage.front.kind in ("learned", "file") else 2,  # the figure is about these
            mine,
        )
        for (arm, size), mine in groups.items()
    ]


def save_curves(results: Sequence[StageResult], path: Path, metrics: Sequence[Metric]) -> None:
    """Draw training loss, and test metrics by step and training time.

    A row for each metric. Training loss is by step too. Lines are means over the seeds, bands their ranges. Training
    time is CPU time for arms that trained on the CPU, else wall time.

    Args:
        results: of a run, every seed and input size of every arm.
        path: the PNG to write.
        metrics: of the test rows, at least one.

    Raises:
        ValueError: there are no results, or their test rows have no such metric.
    """
    figure = new_figure(15, 5 * len(metrics))
    grid = figure.subplots(len(metrics), 3, squeeze=False)
    loss = grid[0, 0]
    lines = lines_of(results)
    for line in lines:
        steps, losses = _over_seeds(line.results, "train", lambda row: row.loss)
        if len(steps):
            line.draw(loss, steps, _smooth(losses))
    finish_axes(loss, "Training loss", "optimiser step", "loss, running mean")
    for axes in grid[1:, 0]:
        axes.set_axis_off()
    lengths = [result.stage.steps for result in results if result.stage.steps]
    # A log axis would give half of its width to the first steps, in which nothing has been learned yet.
    on_log_axis = bool(lengths) and max(lengths) > LOG_RATIO * min(lengths)
    if on_log_axis:
        _log_steps(loss, max(1, min(lengths) / 40), max(lengths))
    first = min((row.step for result in results for row in result.split("test") if row.step), default=0)
    for metric, (_, by_step, by_time) in zip(metrics, grid, strict=True):
        _draw_metric(lines, metric, by_step, by_time)
        if on_log_axis:
            _log_steps(by_step, first, max(lengths))
    legend_below(figure, grid[0, 1])
    save_figure(figure, path)


def _draw_metric(lines: Sequence[Line], metric: Metric, by_step: Axes, by_time: Axes) -> None:
    for line in lines:
        spent = attrgetter("cpu_seconds" if line.results[0].device == "cpu" else "wall_seconds")
        steps, seconds = _over_seeds(line.results, "test", spent)
        line.draw(by_step, steps, line.tests(metric), line.marker)
        line.draw(by_time, seconds.mean(0), line.tests(metric), line.marker)
    clocks = sorted({"CPU" if result.device == "cpu" else "wall" for line in lines for result in line.results})
    finish_axes(by_step, "Test set, by step", "optimiser step", metric.label)
    finish_axes(by_time, "Test set, by training time", f"{' or '.join(clocks)} seconds of training", metric.label)
    by_time.set_xlim(left=0)


def save_transfer(results: Sequence[StageResult], path: Path, metric: Metric) -> None:
    """Draw a test metric by epoch.

    Epochs start at 0 for arms that were tested before their training. Lines are means over the seeds, bands their
    ranges; the legend gives the means after the last epoch.

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
        _, epochs = _over_seeds(line.results, "test", lambda row: row.epoch)
        values = line.tests(metric)
        line = line._replace(label=f"{line.label}: {values[:, -1].mean():.{metric.digits}f}")
        line.draw(axes, epochs.mean(0), values, line.marker)
    finish_axes(axes, "A new network behind the resizer", "epoch", metric.label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes)
    save_figure(figure, path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, shorter at its ends.

    (seeds, points) → the same shape.
    """
    window = max(1, values.shape[1] // 20)
    weight = np.convolve(np.ones(values.shape[1]), np.ones(window), "same")
    return np.stack([np.convolve(row, np.ones(window), "same") / weight for row in values])


def _over_seeds(
    results: Sequence[StageResult], split: str, value: Callable[[Row], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) that all seeds share, and values (seeds, points) at them."""
    found = [{row.step: value(row) for row in result.split(split)} for result in results]
    steps = sorted(set.intersection(*(set(values) for values in found)))
    return np.array(steps, dtype=float), np.array([[values[step] for step in steps] for values in found])


def _log_steps(axes: Axes, first: float, last: float) -> None:
    """Make x a log axis of steps from ``first`` to ``last``.

    0 is a little to the left of ``first``: arms that start from a trained network have a value at step 0, which a plain
    log axis cannot show.
    """
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.set_xscale("symlog", linthresh=first, linscale=0.25)
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    ticks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if first <= tick <= last]
    if len(ticks) > 6:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
