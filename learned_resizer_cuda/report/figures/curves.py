"""How the arms learned: training loss by step, and a test metric by step and by training time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...train.results import StageResult
from .style import (
    LOG_RATIO,
    MARKERS,
    arm_colours,
    draw_range,
    finish_axes,
    legend_below,
    log_steps,
    metric_label,
    metric_of,
    new_figure,
    over_seeds,
    save_figure,
    training_seconds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: tuple[str, ...] = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """One line of a figure: the seeds of an arm at an input size."""

    label: str
    colour: str
    marker: str
    style: str
    results: list[StageResult]

    def draw(self, axes: Axes, x: np.ndarray, values: np.ndarray, *, markers: bool = True) -> None:
        """Mean and range over the seeds; ``x`` (points,), ``values`` (seeds, points). Without points: nothing."""
        if len(x):
            marker = self.marker if markers else ""
            draw_range(axes, x, values, self.colour, self.label, marker=marker, style=self.style)


def lines_of(results: Sequence[StageResult]) -> list[Line]:
    """One line per arm and input size, in the order they come: coloured by arm, styled by size.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("results: got none; expected at least one")
    sizes = sorted({result.input_size for result in results})
    colours = arm_colours(result.arm for result in results)
    lines = []
    for arm, size in dict.fromkeys((result.arm, result.input_size) for result in results):
        mine = [result for result in results if (result.arm, result.input_size) == (arm, size)]
        label = f"{arm}, {size} px" if len(sizes) > 1 else arm
        marker = MARKERS[list(colours).index(arm) % len(MARKERS)]
        lines.append(Line(label, colours[arm], marker, STYLES[sizes.index(size) % len(STYLES)], mine))
    return lines


def save_curves(results: Sequence[StageResult], path: Path, metric: str) -> None:
    """Draws training loss by step, and a test metric by step and by training time: mean line and range over seeds.

    Steps are on a log axis where the arms' lengths differ by more than ``LOG_RATIO``. Training time is CPU time for
    arms that trained on the CPU, else wall time.

    Args:
        results: of a run, every seed and input size of every arm.
        path: the PNG to write.
        metric: a name in the test rows' ``metrics``.

    Raises:
        ValueError: there are no results, or their test rows have no such metric.
    """
    lines = lines_of(results)
    figure = new_figure(15, 5)
    loss, by_step, by_time = figure.subplots(1, 3)
    for line in lines:
        steps, values = over_seeds(line.results, "train", lambda row, _: row.loss)
        line.draw(loss, steps, _smooth(values), markers=False)
        steps, values = over_seeds(line.results, "test", lambda row, _: metric_of(row, metric))
        line.draw(by_step, steps, values)
        _, seconds = over_seeds(line.results, "test", lambda row, result: training_seconds(row, result.device))
        line.draw(by_time, seconds.mean(0), values)
    label = metric_label(metric)
    clock = {"CPU" if result.device == "cpu" else "wall" for result in results}
    finish_axes(loss, "Training loss", "optimiser step", "loss, running mean")
    finish_axes(by_step, "Test set, by step", "optimiser step", label)
    finish_axes(by_time, "Test set, by training time", f"{' or '.join(sorted(clock))} seconds of training", label)
    by_time.set_xlim(left=0)
    lengths = [result.steps for result in results]
    if max(lengths) > LOG_RATIO * min(lengths):
        first = min(row.step for result in results for row in result.split("test") if row.step)
        log_steps(by_step, first, max(lengths))
        # Before that nothing has been learned, and a log axis would give it half of the width.
        log_steps(loss, max(1, min(lengths) / 40), max(lengths))
    legend_below(figure, by_step)
    save_figure(figure, path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, shorter at its ends; (seeds, points) → the same shape."""
    window = max(1, values.shape[1] // 20)
    weight = np.convolve(np.ones(values.shape[1]), np.ones(window), "same")
    return np.stack([np.convolve(row, np.ones(window), "same") / weight for row in values])
