"""The two pictures of a run: how the arms learned, and what the resizers make of test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..data.module import to_unit
from ..resize import resize
from .compare import ArmResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart with any colour vision, and in the same order everywhere.
COLOURS = {
    "bilinear": "#999999",
    "bicubic": "#E69F00",
    "blind": "#56B4E9",
    "learned": "#D55E00",
    "bicubic-long": "#0072B2",
}
FIXED = ("bilinear", "bicubic", "lanczos")
ROWS = 5


def save_curves(results: Sequence[ArmResult], path: Path) -> None:
    """Training loss by step, and test accuracy by step and by CPU time; mean line and range over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(15, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, by_step, by_time = figure.subplots(1, 3)
    for arm in dict.fromkeys(result.arm for result in results):
        mine = [result for result in results if result.arm == arm]
        steps, values = _curve(mine, "train", "loss")
        _draw(loss, steps, _smooth(values), arm)
        steps, values = _curve(mine, "test", "accuracy")
        _draw(by_step, steps, 100 * values, arm, marker="o")
        _, seconds = _curve(mine, "test", "cpu_seconds")
        _draw(by_time, seconds.mean(0), 100 * values, arm, marker="o")
    _finish(loss, "Training loss", "optimiser step", "loss, running mean")
    _finish(by_step, "Test accuracy by step", "optimiser step", "test accuracy, %")
    _finish(by_time, "Test accuracy by training time", "CPU seconds of training", "test accuracy, %")
    by_time.set_xlim(left=0)
    if len({result.steps for result in results}) > 1:
        # The long arm would press the others into a corner.
        for axes in (loss, by_step):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        loss.set_xlim(left=min(result.steps for result in results) / 40)  # before that nothing has been learned
    handles, labels = by_step.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=12)
    figure.savefig(path, dpi=110)


def _curve(results: Sequence[ArmResult], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (points,) and values (seeds, points)."""
    rows = [[row for row in result.rows if row.split == split] for result in results]
    return np.array([row.step for row in rows[0]]), np.array([[getattr(row, name) for row in mine] for mine in rows])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a twentieth of the run, shorter at its ends; (seeds, points) → the same shape."""
    window = max(1, values.shape[1] // 20)
    weight = np.convolve(np.ones(values.shape[1]), np.ones(window), "same")
    return np.stack([np.convolve(row, np.ones(window), "same") / weight for row in values])


def _draw(axes: Axes, x: np.ndarray, values: np.ndarray, arm: str, marker: str = "") -> None:
    order = 3 if arm == "learned" else 2
    axes.plot(x, values.mean(0), label=arm, color=COLOURS[arm], marker=marker, markersize=4, linewidth=2, zorder=order)
    if len(values) > 1:
        axes.fill_between(x, values.min(0), values.max(0), color=COLOURS[arm], alpha=0.2, linewidth=0, zorder=order)


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def pick_images(labels: Tensor, rows: int) -> list[int]:
    """Indices of ``rows`` images of different classes, spread over the set."""
    classes = labels.unique()
    chosen = classes[torch.linspace(0, len(classes) - 1, min(rows, len(classes))).round().long()]
    return [int(mine[(7 * i + 3) % len(mine)]) for i, mine in enumerate((labels == c).nonzero()[:, 0] for c in chosen)]


@torch.no_grad()
def save_samples(
    results: Sequence[ArmResult], images: Tensor, labels: Tensor, interpolation: str, size: int, path: Path
) -> None:
    """Test images as each resizer shows them to its network, and what the network answers.

    Columns: the input, each fixed filter, the learned resizer, and the learned result minus the fixed resize
    inside it. Grey runs from 0 to 1 in every column but the learned ones, whose values are not bound to it:
    theirs runs over their own range.

    Args:
        results: of ``compare``; the first seed of an arm answers.
        images: uint8 (N, 1, H, W) test images.
        labels: int64 (N,).
        interpolation: of the resampling inside the learned resizer.
        size: side of the network's input.
        path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    index = pick_images(labels, ROWS)
    batch, truth = to_unit(images[index]), labels[index].tolist()
    panels: list[tuple[str, Tensor, ArmResult | None]] = [(f"input\n{batch.shape[2]}×{batch.shape[3]}", batch, None)]
    answers = {result.arm: result for result in reversed(results)}
    for name in FIXED:
        panels.append((f"{name}\n{size}×{size}", resize(batch, size, interpolation=name), answers.get(name)))
    if learned := answers.get("learned"):
        output = learned.resizer(batch)
        panels.append((f"learned\n{size}×{size}", output, learned))
        base = resize(batch, size, interpolation=interpolation)
        panels.append((f"difference\nlearned − {interpolation}", output - base, None))
    figure = Figure(figsize=(2.1 * len(panels) + 0.5, 2.3 * len(index) + 1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    # The colour bar has a row of its own, so that it takes nothing from the panels above it.
    grid = figure.subplots(len(index) + 1, len(panels), squeeze=False, height_ratios=[1] * len(index) + [0.06])
    for axes in grid[-1]:
        axes.set_axis_off()
    for column, (title, values, answer) in enumerate(panels):
        told = None if answer is None else answer.network(values).argmax(1).tolist()
        scale = _scale(title, values)
        for row, axes in enumerate(grid[:-1, column]):
            shown = axes.imshow(values[row, 0].numpy(), interpolation="nearest", **scale)
            axes.set_xticks([])
            axes.set_yticks([])
            if not row:
                axes.set_title(title, fontsize=13)
            if told is not None:
                right = told[row] == truth[row]
                axes.set_xlabel(
                    f"read as {told[row]} {'✓' if right else '✗'}", color="#007A33" if right else "#B00020", fontsize=11
                )
            if not column:
                axes.set_ylabel(f"digit {truth[row]}", fontsize=13)
        if title.startswith("difference"):
            grid[-1, column].set_axis_on()
            figure.colorbar(shown, cax=grid[-1, column], orientation="horizontal")
    figure.savefig(path, dpi=100)


def _scale(title: str, values: Tensor) -> dict[str, object]:
    if title.startswith("difference"):
        limit = float(values.abs().max()) or 1.0
        return {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    if title.startswith("learned"):
        return {"cmap": "gray", "vmin": float(values.min()), "vmax": float(values.max())}
    return {"cmap": "gray", "vmin": 0, "vmax": 1}
