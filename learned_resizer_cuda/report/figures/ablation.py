"""The test metric against cost and parameters of resizers of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...train.results import Metric
from ..summary import ArmSummary
from .style import MARKERS, arm_colours, finish_axes, legend_below, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def save_ablation(arms: Sequence[ArmSummary], path: Path, metric: Metric) -> None:
    """Draw the metric against GFLOP and against thousands of parameters.

    There is a line over n for each r. Bars are one standard deviation each way. Axes of cost are logarithmic, as n goes
    up by doubling. Arms without a learned resizer, for instance ``bilinear`` and ``control``, are dashed lines at their
    means.

    Args:
        arms: at least one with a learned resizer, whose ``gflop`` is known.
        path: the PNG to write.
        metric: of the test rows.

    Raises:
        ValueError: there is no arm with a learned resizer.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

    learned = [arm for arm in arms if arm.front.is_learned]
    if not learned:
        raise ValueError("arms: got none with a learned resizer; expected at least one")
    baselines = {arm.arm: arm.metrics[metric.name].mean for arm in arms if not arm.front.is_learned}
    figure = new_figure(13, 5.6)
    by_cost, by_parameters = figure.subplots(1, 2, sharey=True)
    for axes, x in (
        (by_cost, [arm.gflop for arm in learned if arm.gflop is not None]),
        (by_parameters, [arm.resizer_parameters / 1000 for arm in learned]),
    ):
        _draw_arms(axes, learned, x, metric)
        for name, colour in arm_colours(baselines).items():
            level = metric.factor * baselines[name]
            axes.axhline(level, color=colour, linestyle="--", linewidth=1.6, label=name, zorder=1)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)
        left, right = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if right > 10 * left else MaxNLocator(6))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    finish_axes(by_cost, "By cost", "GFLOP of resizer and network, one image", metric.label)
    finish_axes(by_parameters, "By size", "parameters of the resizer, thousands", "")
    legend_below(figure, by_cost)
    save_figure(figure, path)


def _draw_arms(axes: Axes, arms: Sequence[ArmSummary], x: Sequence[float], metric: Metric) -> None:
    """Draw arms at ``x``: line and colour by r, marker by n."""
    from matplotlib import colormaps

    blocks = sorted({arm.front.num_blocks for arm in arms})
    filters = sorted({arm.front.num_filters for arm in arms})
    markers = {n: MARKERS[index % len(MARKERS)] for index, n in enumerate(filters)}
    # Purple to orange: baselines are grey, blue or green.
    for r, colour in zip(blocks, colormaps["plasma"](np.linspace(0, 0.75, len(blocks))), strict=True):
        mine = [(cost, arm) for cost, arm in zip(x, arms, strict=True) if arm.front.num_blocks == r]
        mine.sort(key=lambda pair: pair[0])
        costs, values = [cost for cost, _ in mine], [arm.metrics[metric.name] for _, arm in mine]
        means = [metric.factor * value.mean for value in values]
        bars = None if values[0].std is None else [metric.factor * (value.std or 0) for value in values]
        axes.errorbar(costs, means, bars, label=f"r = {r}", color=colour, linewidth=1.5, capsize=3, elinewidth=1)
        for cost, mean, (_, arm) in zip(costs, means, mine, strict=True):
            axes.plot(cost, mean, markers[arm.front.num_filters], color=colour, markersize=8)
    for n, marker in markers.items():
        axes.plot([], [], marker, color="0.4", markersize=8, label=f"n = {n}")
