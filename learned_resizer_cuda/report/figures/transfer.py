"""How a transferred resizer fares in front of a new network: a test metric by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...train.results import StageResult
from .curves import lines_of
from .style import finish_axes, legend_below, metric_label, metric_of, new_figure, over_seeds, save_figure


def save_transfer(results: Sequence[StageResult], path: Path, metric: str) -> None:
    """Draws a test metric by epoch, from 0 where an arm was tested before its training, for each arm.

    Mean line and range over the seeds; the legend gives the means after the last epoch.

    Args:
        results: every seed and input size of the arms, for instance ``transfer``, ``fresh`` and ``control``.
        path: the PNG to write.
        metric: a name in the test rows' ``metrics``.

    Raises:
        ValueError: there are no results, or their test rows have no such metric.
    """
    from matplotlib.ticker import MaxNLocator

    lines = lines_of(results)
    figure = new_figure(8, 5.4)
    axes = figure.subplots()
    for line in lines:
        _, epochs = over_seeds(line.results, "test", lambda row, _: row.epoch)
        _, values = over_seeds(line.results, "test", lambda row, _: metric_of(row, metric))
        line = line._replace(label=f"{line.label}: {values[:, -1].mean():.{1 if metric == 'accuracy' else 3}f}")
        line.draw(axes, epochs.mean(0), values)
    finish_axes(axes, "A new network behind the resizer", "epoch", metric_label(metric))
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_below(figure, axes)
    save_figure(figure, path)
