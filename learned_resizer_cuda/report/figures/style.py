"""What the figures of a run share: the canvas, a colour for every arm, axes, and values over seeds."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...atomic import atomic_bytes
from ...train.results import Row, StageResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which is too light for lines on white: told apart with any colour
# vision. Names that never meet in one figure share a colour.
COLOURS = {
    "input": "#000000",
    "bilinear": "#999999",
    "bicubic": "#E69F00",
    "lanczos": "#009E73",
    "learned": "#D55E00",
    "blind": "#56B4E9",
    "control": "#0072B2",
    "control-long": "#000000",
    "transfer": "#CC79A7",
    "fresh": "#009E73",
}
# For other names: Tol's muted palette, then hues around the circle.
_MORE = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#CC6677", "#882255", "#AA4499")
_GOLDEN = (math.sqrt(5) - 1) / 2
MARKERS = "osD^vP*X"

METRICS = {"accuracy": ("test accuracy, %", 100.0), "plcc": ("test PLCC", 1.0), "srcc": ("test SRCC", 1.0)}
"""Axis label of a metric, and what its values are multiplied by for the axis."""

LOG_RATIO = 3
"""Runs whose lengths differ by more than this factor are drawn on a log axis: the longest would press the others
into a corner."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches with a canvas of its own: without pyplot's global state, safe in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, all different.

    A known arm has its own colour in every figure; an unknown one takes the first that is free, so that for one list
    of arms the colours are always the same.
    """
    names = list(dict.fromkeys(arms))
    colours: dict[str, str] = {}
    for name in names:
        if name in COLOURS and COLOURS[name] not in colours.values():
            colours[name] = COLOURS[name]
    own = [colour for name, colour in COLOURS.items() if name not in ("input", "bilinear", "control-long")]
    spare = [*dict.fromkeys((*own, *_MORE))]
    number = 0
    for name in names:
        if name in colours:
            continue
        while spare and spare[0] in colours.values():
            spare.pop(0)
        if spare:
            colours[name] = spare.pop(0)
            continue
        # Steps of the golden ratio never come back to a hue.
        rgb = colorsys.hls_to_rgb(number * _GOLDEN % 1, (0.35, 0.5, 0.65)[number % 3], 0.7)
        colours[name] = "#" + "".join(f"{round(255 * value):02X}" for value in rgb)
        number += 1
    return {name: colours[name] for name in names}


def finish_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Title, axis labels, and a light grid behind the data."""
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, in as many rows as its width asks for."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    # About a tenth of an inch a letter at 12 points, and seven letters' room for the line and the gaps.
    columns = max(1, int(figure.get_figwidth() / (0.1 * (max(map(len, labels)) + 7))))
    rows = math.ceil(len(labels) / columns)
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=math.ceil(len(labels) / rows),
        frameon=False,
        fontsize=12,
    )


def log_steps(axes: Axes, first: float, last: float) -> None:
    """A log axis of steps from ``first`` to ``last``, with 0 a little to the left of ``first``.

    An arm that starts from a trained network has something to show at step 0, where a plain log axis has no place.
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


def metric_of(row: Row, metric: str) -> float:
    """A metric of a row, in the units of its axis (``METRICS``).

    Raises:
        ValueError: the row has no such metric.
    """
    if metric not in row.metrics:
        raise ValueError(f"metric: got {metric!r}; expected one of {', '.join(sorted(row.metrics)) or 'none'}")
    return row.metrics[metric] * METRICS.get(metric, ("", 1.0))[1]


def metric_label(metric: str) -> str:
    """What the axis of a metric is called."""
    return METRICS.get(metric, (f"test {metric}", 1.0))[0]


def training_seconds(row: Row, device: str) -> float:
    """The time an arm has trained for: that of the CPU where it trains, else of the clock, as the GPU's is not CPU
    time."""
    return row.cpu_seconds if device == "cpu" else row.wall_seconds


def over_seeds(
    results: Sequence[StageResult], split: str, value: Callable[[Row, StageResult], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) and values (seeds, points), at the steps that all the seeds have."""
    found = [{row.step: value(row, result) for row in result.split(split)} for result in results]
    steps = sorted(set.intersection(*(set(values) for values in found)))
    return np.array(steps, dtype=float), np.array([[values[step] for step in steps] for values in found])


def draw_range(
    axes: Axes, x: np.ndarray, values: np.ndarray, colour: str, label: str, *, marker: str = "", style: str = "-"
) -> None:
    """The mean over seeds as a line, and their range as a band around it; ``x`` (points,), ``values`` (seeds, points).

    ``learned``'s and ``transfer``'s lines lie above the others, as they are what the figure is about.
    """
    order = 3 if label.startswith(("learned", "transfer")) else 2
    axes.plot(
        x,
        values.mean(0),
        label=label,
        color=colour,
        marker=marker,
        markersize=4.5,
        linewidth=2,
        linestyle=style,
        zorder=order,
    )
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0, zorder=order)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG."""
    encoded = BytesIO()
    figure.savefig(encoded, format="png", dpi=110)
    atomic_bytes(path, encoded.getvalue())
