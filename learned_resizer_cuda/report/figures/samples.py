"""Test images before and after each resizer, with their networks' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...data.source import NATIVE, InputSize
from ...resize_batch import resize_batch
from ...train.config import FIXED
from ...train.models import learned_part
from ...train.results import METRICS, StageResult
from ...train.tasks import mean_score
from .style import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 5
_LONGEST = 16
"""Letters of a class name that fit below a picture."""


@dataclass(frozen=True)
class Panel:
    """A column of the figure.

    Attributes:
        title: above it.
        values: images (rows, C, h, w), or a list of (C, h, w).
        low, high: ends of the colour map, or values to which colour images are clipped.
        signed: values are differences of one channel, with a colour bar.
        answer: logits (rows, K) of the network behind the resizer.
    """

    title: str
    values: Tensor | list[Tensor]
    low: float = 0.0
    high: float = 1.0
    signed: bool = False
    answer: Tensor | None = None

    def show(self, axes: Axes, row: int) -> Any:
        """Draw one image and return matplotlib's handle of it."""
        image = self.values[row].float()
        if len(image) == 1:
            cmap = "RdBu_r" if self.signed else "gray"
            return axes.imshow(image[0].numpy(), interpolation="nearest", cmap=cmap, vmin=self.low, vmax=self.high)
        scaled = ((image - self.low) / (self.high - self.low)).clamp(0, 1)
        return axes.imshow(scaled.permute(1, 2, 0).numpy(), interpolation="nearest")


def pick_images(targets: Tensor, rows: int) -> list[int]:
    """Indices of at most ``rows`` test images with different targets.

    Their classes differ, or their mean grades go from lowest to highest.

    Args:
        targets: classes, int64 (N,), or histograms, float (N, K).
        rows: at least 1.
    """
    if targets.dim() == 2:
        order = mean_score(targets).argsort(stable=True)
        return order[torch.linspace(0, len(order) - 1, min(rows, len(order))).round().long()].tolist()
    classes = targets.unique()
    chosen = classes[torch.linspace(0, len(classes) - 1, min(rows, len(classes))).round().long()]
    # Not the first of a class: test sets often begin with near-duplicates. 7 and 3 are arbitrary.
    return [int(mine[(7 * i + 3) % len(mine)]) for i, mine in enumerate((targets == c).nonzero()[:, 0] for c in chosen)]


@torch.no_grad()
def save_samples(
    results: Sequence[StageResult],
    images: Tensor | list[Tensor],
    targets: Tensor,
    path: Path,
    *,
    interpolation: str,
    size: int | tuple[int, int],
    labels: Sequence[str],
    task: str,
    display: Callable[[Tensor], Tensor] | None = None,
    arm: str = "learned",
) -> None:
    """Draw test images after each resizer, with the answers of the networks.

    Columns are the input, each fixed filter, the learned resizer, and the learned output minus the fixed resize inside
    the resizer, signed, averaged over the channels. Colours run from 0 to 1, except in the column of the learned
    resizer, whose output is not bounded: there they run from the 1st to the 99th percentile over the images shown, and
    the title gives both. Below the arms that were trained stands the answer of their network: a class with a tick or a
    cross, or a mean grade with its error. Without results of ``arm`` the last two columns are left out.

    Deterministic: the same targets pick the same images.

    Args:
        results: the first of each arm is used, at the images' input size if there is one.
        images: float (N, C, H, W) as the resizers get them, C 1 or 3; in [0, 1] after ``display``. Or a list of
            N images (C, H_i, W_i), for results at native sizes.
        targets: int64 (N,) classes, the teacher's in distillation, or float (N, K) histograms that sum to 1.
        path: the PNG to write.
        interpolation: of the resampling inside the learned resizer.
        size: of the network's input, a side or (height, width).
        labels: names of the K classes or bins; none: no answers are shown.
        task: the run's objective.
        display: maps normalised images back to [0, 1] and keeps their shape. None: they are in [0, 1] already.
        arm: the arm of the learned resizer.

    Raises:
        ValueError: the task, the images' shape or dtype, or the number of targets is another one.
    """
    if task not in METRICS:
        raise ValueError(f"task: got {task!r}; expected one of {', '.join(METRICS)}")
    if isinstance(images, Tensor) and (
        images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images) or not images.is_floating_point()
    ):
        raise ValueError(
            f"images: got {images.dtype} {tuple(images.shape)}; expected floating-point (N, 1 or 3, H, W), N at least 1"
        )
    if len(targets) != len(images) or targets.dim() != (2 if task == "iqa" else 1):
        expected = f"({len(images)}, K)" if task == "iqa" else f"({len(images)},)"
        raise ValueError(f"targets: got shape {tuple(targets.shape)}; expected {expected}")
    index = pick_images(targets, ROWS)
    chosen = images[index] if isinstance(images, Tensor) else [images[i] for i in index]
    panels = _panels(results, chosen, size, interpolation, display or (lambda values: values), arm)
    truth = targets[index]
    figure = new_figure(2.2 * len(panels) + 0.6, 2.55 * len(index) + 1.0)
    # The colour bar has its own row, so that it takes no room from the panels above it.
    grid = figure.subplots(len(index) + 1, len(panels), squeeze=False, height_ratios=[1] * len(index) + [0.06])
    for axes in grid[-1]:
        axes.set_axis_off()
    for column, panel in enumerate(panels):
        for row, axes in enumerate(grid[:-1, column]):
            shown = panel.show(axes, row)
            axes.set_xticks([])
            axes.set_yticks([])
            if not row:
                axes.set_title(panel.title, fontsize=12)
            if panel.answer is not None and labels:
                text, colour = _answer(panel.answer[row], truth[row], labels)
                axes.set_xlabel(text, color=colour, fontsize=11, parse_math=False)
            if not column and labels:
                axes.set_ylabel(_truth(truth[row], labels), fontsize=12, parse_math=False)
        if panel.signed:
            grid[-1, column].set_axis_on()
            figure.colorbar(shown, cax=grid[-1, column], orientation="horizontal")
    save_figure(figure, path)


def _panels(
    results: Sequence[StageResult],
    batch: Tensor | list[Tensor],
    size: int | tuple[int, int],
    interpolation: str,
    display: Callable[[Tensor], Tensor],
    arm: str,
) -> list[Panel]:
    if isinstance(batch, Tensor):
        input_size: InputSize = batch.shape[-1]
        panels = [Panel(f"input\n{_sides(batch)}", display(batch))]
    else:
        input_size = NATIVE
        panels = [Panel("input\nnative size", [display(image) for image in batch])]
    for name in FIXED:
        values = resize_batch(batch, size, interpolation=name)
        result = _result_of(results, name, input_size)
        answer = None if result is None else result.network(values)
        panels.append(Panel(f"{name}\n{_sides(values)}", display(values), answer=answer))
    learned = _result_of(results, arm, input_size)
    if learned is None:
        return panels
    output = learned_part(learned.resizer)(batch)
    shown, base = display(output), display(resize_batch(batch, tuple(output.shape[-2:]), interpolation=interpolation))
    # By sorting: torch.quantile takes at most 16 million values.
    ordered = shown.flatten().float().sort().values
    low, high = (float(ordered[round(share * (len(ordered) - 1))]) for share in (0.01, 0.99))
    if not low < high:
        low, high = low - 0.5, low + 0.5
    title = f"{arm} {_sides(output)}\nshown: {low:.2f} to {high:.2f}".replace("-", "−")
    panels.append(Panel(title, shown, low, high, answer=learned.network(output)))
    gap = (shown - base).mean(1, keepdim=True)
    limit = float(gap.abs().max()) or 1.0
    panels.append(Panel(f"difference\n{arm} − {interpolation}", gap, -limit, limit, signed=True))
    return panels


def _sides(values: Tensor) -> str:
    return f"{values.shape[2]}×{values.shape[3]}"


def _result_of(results: Sequence[StageResult], arm: str, input_size: InputSize) -> StageResult | None:
    mine = [result for result in results if result.stage.arm == arm]
    return next((result for result in mine if result.stage.input_size == input_size), mine[0] if mine else None)


def _answer(logits: Tensor, truth: Tensor, labels: Sequence[str]) -> tuple[str, str]:
    """A network's answer to one image and its colour; logits (K,)."""
    if truth.dim():
        grade, target = (float(mean_score(row[None])) for row in (logits.float().softmax(0), truth.float()))
        return f"{grade:.2f} ({grade - target:+.2f})".replace("-", "−"), "black"
    predicted = int(logits.argmax())
    right = predicted == int(truth)
    return f"{_short(labels[predicted])} {'✓' if right else '✗'}", "#007A33" if right else "#B00020"


def _truth(truth: Tensor, labels: Sequence[str]) -> str:
    return f"mean grade {float(mean_score(truth[None].float())):.2f}" if truth.dim() else _short(labels[int(truth)])


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
