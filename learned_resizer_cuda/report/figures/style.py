"""Style shared by a run's figures: canvas, colours, axes and legends."""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...atomic import atomic_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

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
    """A figure in inches, safe in any thread: without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def arm_colours(arms: Iterable[str]) -> dict[str, str]:
    """A different colour for each arm, from ``COLOURS`` or a colour map."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    names = list(dict.fromkeys(arms))
    others = [name for name in names if name not in COLOURS]
    shades = map(to_hex, colormaps["turbo"](np.linspace(0.05, 0.95, len(others))))
    colours = COLOURS | dict(zip(others, shades, strict=True))
    return {name: colours[name] for name in names}


def central_range(values: Tensor) -> tuple[float, float]:
    """1st and 99th percentile, or a range of 1 if equal."""
    # By sorting: torch.quantile takes at most 16 million values.
    ordered = values.flatten().float().sort().values
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (0.01, 0.99))
    return (low, high) if low < high else (low - 0.5, low + 0.5)


def finish_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Set title and axis labels; draw a light grid behind the data."""
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(x, fontsize=11)
    axes.set_ylabel(y, fontsize=11)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, axes: Axes) -> None:
    """Draw one legend below the figure, in as many rows as needed."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    # At 12 points a letter takes about a tenth of an inch, the line and the gaps as much as seven letters.
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


def save_figure(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG."""
    encoded = BytesIO()
    figure.savefig(encoded, format="png", dpi=110)
    atomic_bytes(path, encoded.getvalue())
