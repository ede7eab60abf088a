"""Plot of the benchmarks: the ratio to every peer in every case, on a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from benchmarks.cases import Case

# Okabe and Ito's palette, which can be told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
INK, GRID = "#222222", "#dddddd"


def draw(summary: dict[str, Any], path: Path) -> None:
    """Write the plot, in the format of the path's ending.

    Args:
        summary: from `benchmarks.report.summarise`.
        path: of the picture.
    """
    panels = []
    for op in dict.fromkeys(row["case"]["op"] for row in summary["time"]):
        rows = [row for row in summary["time"] if row["case"]["op"] == op]
        panels.append((f"{op}: time", "time of the peer / time of ours: right of 1, ours is faster", rows))
    if summary["memory"]:
        panels.append(
            ("Peak memory", "memory of the peer / memory of ours: right of 1, ours is smaller", _memory(summary))
        )
    heights = [len(_lines(rows)) + 3 for *_, rows in panels]
    with plt.rc_context({"font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GRID}):
        figure, axes = plt.subplots(
            len(panels),
            1,
            figsize=(10.5, 0.3 * sum(heights) + 0.8),
            height_ratios=heights,
            squeeze=False,
            layout="constrained",
        )
        for axis, (title, meaning, rows) in zip(axes[:, 0], panels, strict=True):
            _panel(axis, title, meaning, rows)
        e = summary["environment"]
        figure.suptitle(f"{e['device']}, torch {e['versions']['torch']}, {e['date']}", fontsize=10, color="#666666")
        figure.savefig(path, dpi=150)
        plt.close(figure)


def _memory(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Memory rows with inverted ratios, so that further right is better in every panel."""
    turned = []
    for row in summary["memory"]:
        ratio = 1 / row["ratio"]
        bar = None if row["bar"] is None else 1 / row["bar"]
        turned.append({**row, "ratio": ratio, "low": ratio, "high": ratio, "bar": bar})
    return turned


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_line(row) for row in rows))


def _line(row: dict[str, Any]) -> str:
    case = Case(**row["case"])
    if case.op in ("resize", "resample", "resample_fixed"):
        return f"{case.filter}, {case.direction}, {case.dtype} {case.layout}, {case.sides}"
    return f"{case.direction}, {case.sides}"


def _panel(axis: Axes, title: str, meaning: str, rows: list[dict[str, Any]]) -> None:
    lines = _lines(rows)
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    for row in rows:
        k = peers.index(row["peer"])
        # Equally fast peers would hide each other: each has its own height within the line.
        y = lines.index(_line(row)) + 0.22 * (k - (len(peers) - 1) / 2) / max(1, (len(peers) - 1) / 2)
        colour = COLOURS[k % len(COLOURS)]
        axis.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.5, alpha=0.5, zorder=2)
        axis.plot(row["ratio"], y, MARKERS[k % len(MARKERS)], color=colour, markersize=5, zorder=3)
        if row["bar"] is not None:
            axis.plot(row["bar"], y, "|", color=colour, markersize=10, markeredgewidth=2, zorder=1)
    for y in range(0, len(lines), 2):
        axis.axhspan(y - 0.5, y + 0.5, color="#f6f6f6", zorder=0)
    axis.axvline(1.0, color=INK, linewidth=1, zorder=1)
    axis.set_xscale("log")
    low = min([1.0, *(row["low"] for row in rows), *(row["bar"] for row in rows if row["bar"])])
    high = max([1.0, *(row["high"] for row in rows), *(row["bar"] for row in rows if row["bar"])])
    axis.set_xlim(low / 1.15, high * 1.15)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if low / 1.15 <= t <= high * 1.15]
    axis.set_xticks(ticks)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_yticks(range(len(lines)), lines)
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(meaning, loc="left")
    axis.grid(axis="x", color=GRID, linewidth=0.6, zorder=0)
    axis.set_axisbelow(True)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    _legend(axis, peers, any(row["bar"] is not None for row in rows))


def _legend(axis: Axes, peers: list[str], bars: bool) -> None:
    handles = [
        Line2D(
            [],
            [],
            linestyle="none",
            marker=MARKERS[k % len(MARKERS)],
            color=COLOURS[k % len(COLOURS)],
            label=peer,
        )
        for k, peer in enumerate(peers)
    ]
    if bars:
        bar = {"marker": "|", "markersize": 10, "markeredgewidth": 2}
        handles.append(Line2D([], [], linestyle="none", color="#888888", label="the bar to reach", **bar))
    axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
