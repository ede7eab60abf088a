"""What the size of a resizer buys: a test metric against its cost and its parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .style import MARKERS, METRICS, arm_colours, finish_axes, legend_below, metric_label, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Where a label may stand, in points from its own, the best first among equals.
_OFFSETS = (
    ((0, 8), "center", "bottom"),
    ((0, -8), "center", "top"),
    ((7, 4), "left", "bottom"),
    ((-7, 4), "right", "bottom"),
    ((7, -4), "left", "top"),
    ((-7, -4), "right", "top"),
    ((9, 0), "left", "center"),
    ((-9, 0), "right", "center"),
    ((0, 18), "center", "bottom"),
    ((0, -18), "center", "top"),
)


@dataclass(frozen=True)
class AblationPoint:
    """One size of the resizer and what came of it.

    Attributes:
        num_blocks, num_filters: r and n.
        gflop: of the resizer for one image, in 10⁹ floating-point operations.
        parameters: of the resizer.
        mean: of the test metric over the seeds, in the metric's own units.
        std: sample standard deviation over the seeds; None for one seed.
    """

    num_blocks: int
    num_filters: int
    gflop: float
    parameters: int
    mean: float
    std: float | None = None


def save_ablation(points: Sequence[AblationPoint], baselines: Mapping[str, float], path: Path, metric: str) -> None:
    """Draws the metric against GFLOP and against thousands of parameters, a line over n for each r.

    Bars are one standard deviation each way. Axes of cost are logarithmic, for n goes up by doubling.

    Args:
        points: at least one.
        baselines: means of the metric without a learned resizer by name, for instance ``bilinear`` and ``control``;
            dashed lines.
        path: the PNG to write.
        metric: what the means are of.

    Raises:
        ValueError: there are no points.
    """
    if not points:
        raise ValueError("points: got none; expected at least one")
    label, factor = metric_label(metric), METRICS.get(metric, ("", 1.0))[1]
    figure = new_figure(13, 5.6)
    by_cost, by_parameters = figure.subplots(1, 2, sharey=True)
    cost = [point.gflop for point in points]
    parameters = [point.parameters / 1000 for point in points]
    for axes, x in ((by_cost, cost), (by_parameters, parameters)):
        _draw_points(axes, points, x, factor)
        names = list(baselines)
        for name, colour in arm_colours(names).items():
            style = ("--", ":", "-.")[names.index(name) % 3]
            axes.axhline(factor * baselines[name], color=colour, linestyle=style, linewidth=1.6, label=name, zorder=1)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)
        _cost_ticks(axes)
    finish_axes(by_cost, "By cost", "GFLOP of resizer and network, one image", label)
    finish_axes(by_parameters, "By size", "parameters of the resizer, thousands", "")
    legend_below(figure, by_cost)
    figure.draw_without_rendering()  # settles the layout, which the labels are placed in
    for axes, x in ((by_cost, cost), (by_parameters, parameters)):
        _label_points(axes, points, x, factor)
    save_figure(figure, path)


def _draw_points(axes: Axes, points: Sequence[AblationPoint], x: Sequence[float], factor: float) -> None:
    rows = sorted({point.num_blocks for point in points})
    # Colours that no baseline has.
    colours = dict(zip(rows, ("#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#332288", "#882255"), strict=False))
    for index, blocks in enumerate(rows):
        mine = [pair for pair in zip(x, points, strict=True) if pair[1].num_blocks == blocks]
        mine.sort(key=lambda pair: pair[0])
        bars: Any = None
        if any(point.std is not None for _, point in mine):
            bars = [factor * (point.std or 0) for _, point in mine]
        axes.errorbar(
            [value for value, _ in mine],
            [factor * point.mean for _, point in mine],
            yerr=bars,
            label=f"r = {blocks}",
            color=colours.get(blocks, "#000000"),
            marker=MARKERS[index % len(MARKERS)],
            markersize=7,
            linewidth=1.5,
            capsize=3,
            elinewidth=1,
        )


def _cost_ticks(axes: Axes) -> None:
    """Plain numbers: the roundest ones of which at least three are on the axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    left, right = axes.get_xlim()
    decades = range(math.floor(math.log10(left)), math.ceil(math.log10(right)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5)):
        ticks = [tick for power in decades for digit in digits if left <= (tick := digit * 10.0**power) <= right]
        if len(ticks) >= 3:
            break
    else:
        # So short an axis is nearly linear.
        ticks = [tick for tick in MaxNLocator(6).tick_values(left, right) if left <= tick <= right]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _label_points(axes: Axes, points: Sequence[AblationPoint], x: Sequence[float], factor: float) -> None:
    """Writes r and n at each point, where it covers least of the labels, markers, bars and lines there are."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    taken = [Bbox.from_bounds(px - 3, py - 3, 6, 6) for px, py in _drawn(axes)]
    for value, point in sorted(zip(x, points, strict=True), key=lambda pair: pair[0]):
        best: tuple[int, Any, Any] | None = None
        for offset, horizontal, vertical in _OFFSETS:
            text = axes.annotate(
                f"r{point.num_blocks} n{point.num_filters}",
                (value, factor * point.mean),
                offset,
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=10,
                zorder=5,
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
            text.set_in_layout(False)  # the places hold for the layout as it is
            box = text.get_window_extent()
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1) and axes.bbox.containsy(box.y1)
            cost = box.count_overlaps(taken) + (0 if inside else 100)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        assert best is not None
        # Weighs more than a line: a label over another one can be read no more.
        taken += [best[2]] * 20


def _drawn(axes: Axes) -> np.ndarray:
    """Places along all the lines, bars and markers, a few pixels apart, in pixels; (places, 2)."""
    paths, markers = [], []
    for line in axes.lines:
        # A baseline's ends are on the axes' own scale, not on the data's: every line knows its transform.
        path = line.get_transform().transform(np.asarray(line.get_path().vertices, dtype=float))
        if line.get_linestyle() != "None":
            paths.append(path)
        if line.get_marker() in list(MARKERS):
            markers.append(np.repeat(path, 5, 0))  # larger than a line is wide
    for bars in axes.collections:
        paths += [bars.get_transform().transform(path.vertices) for path in bars.get_paths()]
    places = [*markers]
    for path in paths:
        for start, end in itertools.pairwise(path):
            share = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / 6))[:, None]
            places.append(start + share * (end - start))
    return np.concatenate(places)
