"""What the figures of a run share: the canvas, a colour for every arm, axes, and values over seeds."""

from __future__ import annotations

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

# Okabe and Ito's palette and two of Tol's muted colours, which can be told apart with any colour vision. Without the
# yellow, which is too light for lines on white.
COLOURS = {
    "input": "#000000",
    "bilinear": "#999999",
    "bicubic": "#E69F00",
    "lanczos": "#009E73",
    "learned": "#D55E00",
    "blind": "#56B4E9",
    "control": "#0072B2",
    "control-long": "#332288",
    "transfer": "#CC79A7",
    "fresh": "#882255",
}
MARKERS = "osD^vP*X"


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches with a canvas of its own: without pyplot's global state, safe in any thread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """A colour for each arm, all different: of ``COLOURS``, and for other names evenly from a colour map."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = list(dict.fromkeys(arms))
    others = [name for name in names if name not in COLOURS]
    shades = map(to_hex, colormaps["turbo"](np.linspace(0.05, 0.95, len(others))))
    colours = COLOURS | dict(zip(others, shades, strict=True))
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


def over_seeds(
    results: Sequence[StageResult], split: str, value: Callable[[Row], float]
) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) and values (seeds, points), at the steps that all the seeds have."""
    found = [{row.step: value(row) for row in result.split(split)} for result in results]
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
