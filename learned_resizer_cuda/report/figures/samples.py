"""Test images before and after each resizer, with their networks' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...data.source import IGNORED, NATIVE, InputSize
from ...resize_batch import resize_batch
from ...train.config import FIXED
from ...train.models import learned_part
from ...train.results import METRICS, StageResult
from ...train.tasks import at_size_of, mean_score
from .style import central_range, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = 5
_LONGEST = 16
"""Letters of a class name that fit below a picture."""


class Asked(NamedTuple):
    """A network that is asked about the images.

    Attributes:
        name: of the network; empty for the only one.
        task: or the run's objective, of one network.
        labels: names of its K classes or bins; none: no answers are shown.
        targets: int64 (N,) classes, the teacher's in distillation; float (N, K) histograms that sum to 1; or uint8
            (N, H, W) masks.
    """

    name: str
    task: str
    labels: Sequence[str]
    targets: Tensor


@dataclass(frozen=True)
class Panel:
    """A column of the figure.

    Attributes:
        title: above it.
        values: images (rows, C, h, w), or a list of (C, h, w).
        low, high: ends of the colour map, or values to which colour images are clipped.
        signed: values are differences of one channel, with a colour bar.
        answers: of each network behind the resizer, logits (rows, K) or (rows, K, h, w).
        masks: shown instead of a network's (rows, H, W).
    """

    title: str
    values: Tensor | list[Tensor]
    low: float = 0.0
    high: float = 1.0
    signed: bool = False
    answers: tuple[Tensor, ...] = ()
    masks: Tensor | None = None

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

    Their classes differ, in masks their last ones, or their mean grades go from lowest to highest.

    Args:
        targets: classes, int64 (N,), histograms, float (N, K), or masks, uint8 (N, H, W).
        rows: at least 1.
    """
    if targets.dim() == 2:
        order = mean_score(targets).argsort(stable=True)
        return order[torch.linspace(0, len(order) - 1, min(rows, len(order))).round().long()].tolist()
    if targets.dim() == 3:
        targets = targets.where(targets != IGNORED, 0).flatten(1).amax(1)
    classes = targets.unique()
    chosen = classes[torch.linspace(0, len(classes) - 1, min(rows, len(classes))).round().long()]
    # Not the first of a class: test sets often begin with near-duplicates. 7 and 3 are arbitrary.
    return [int(mine[(7 * i + 3) % len(mine)]) for i, mine in enumerate((targets == c).nonzero()[:, 0] for c in chosen)]


@torch.no_grad()
def save_samples(
    results: Sequence[StageResult],
    images: Tensor | list[Tensor],
    networks: Sequence[Asked],
    path: Path,
    *,
    interpolation: str,
    size: int | tuple[int, int],
    display: Callable[[Tensor], Tensor] | None = None,
    arm: str = "learned",
) -> None:
    """Draw test images after each resizer, with the answers of the networks.

    Columns are the input, each fixed filter, the learned resizer, and the learned output minus the fixed resize inside
    the resizer, signed, averaged over the channels. Colours run from 0 to 1, except in the column of the learned
    resizer, whose output is not bounded: there they run from the 1st to the 99th percentile over the images shown, and
    the title gives both. Below the arms that were trained stands the answer of each network: a class with a tick or a
    cross, or a mean grade with its error. Masks lie over the images, the true ones over the input, a network's over
    what it was given, with the mean intersection over union in that image; class 0 is clear. Without results of ``arm``
    the last two columns are left out.

    Deterministic: the same targets pick the same images.

    Args:
        results: the first of each arm is used, at the images' input size if there is one.
        images: float (N, C, H, W) as the resizers get them, C 1 or 3; in [0, 1] after ``display``. Or a list of
            N images (C, H_i, W_i), for results at native sizes.
        networks: what is behind each resizer; the first one's targets pick the images, the first masks are drawn.
        path: the PNG to write.
        interpolation: of the resampling inside the learned resizer.
        size: of the network's input, a side or (height, width).
        display: maps normalised images back to [0, 1] and keeps their shape. None: they are in [0, 1] already.
        arm: the arm of the learned resizer.

    Raises:
        ValueError: the task, the images' shape or dtype, or the number of targets is another one.
    """
    for asked in networks:
        if asked.task not in METRICS:
            raise ValueError(f"task: got {asked.task!r}; expected one of {', '.join(METRICS)}")
    if isinstance(images, Tensor) and (
        images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images) or not images.is_floating_point()
    ):
        raise ValueError(
            f"images: got {images.dtype} {tuple(images.shape)}; expected floating-point (N, 1 or 3, H, W), N at least 1"
        )
    for asked in networks:
        shape = {"iqa": ("K",), "segmentation": ("H", "W")}.get(asked.task, ())
        if len(asked.targets) != len(images) or asked.targets.dim() != 1 + len(shape):
            expected = f"({', '.join((str(len(images)), *shape))}{'' if shape else ','})"
            raise ValueError(f"targets: got shape {tuple(asked.targets.shape)}; expected {expected}")
    index = pick_images(networks[0].targets, ROWS)
    networks = [asked._replace(targets=asked.targets[index]) for asked in networks]
    chosen = images[index] if isinstance(images, Tensor) else [images[i] for i in index]
    panels = _panels(results, chosen, size, interpolation, display or (lambda values: values), arm)
    drawn = next((number for number, asked in enumerate(networks) if asked.task == "segmentation"), None)
    if drawn is not None:
        panels[0] = replace(panels[0], masks=networks[drawn].targets)
    figure = new_figure(2.2 * len(panels) + 0.6, (2.35 + 0.2 * len(networks)) * len(index) + 1.0)
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
            if panel.masks is not None:
                _overlay(axes, panel, panel.masks[row])
            elif panel.answers and drawn is not None:
                answer, truth = panel.answers[drawn][row], networks[drawn].targets[row]
                _overlay(axes, panel, at_size_of(answer[None], truth[None])[0].argmax(0))
            said = zip(networks, panel.answers, strict=True) if panel.answers else ()
            lines = [(a.name, *_answer(logits[row], a.targets[row], a.labels)) for a, logits in said if a.labels]
            if lines:
                text = "\n".join(f"{name}: {answer}" if name else answer for name, answer, _ in lines)
                colour = lines[0][2] if len(lines) == 1 else "black"
                axes.set_xlabel(text, color=colour, fontsize=11 if len(lines) == 1 else 9, parse_math=False)
            if not column and networks[0].labels:
                truth_text = _truth(networks[0].targets[row], networks[0].labels)
                axes.set_ylabel(truth_text, fontsize=12, parse_math=False)
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
        answers = () if result is None else _answers(result, values)
        panels.append(Panel(f"{name}\n{_sides(values)}", display(values), answers=answers))
    learned = _result_of(results, arm, input_size)
    if learned is None:
        return panels
    output = learned_part(learned.resizer)(batch)
    shown, base = display(output), display(resize_batch(batch, tuple(output.shape[-2:]), interpolation=interpolation))
    low, high = central_range(shown)
    title = f"{arm} {_sides(output)}\nshown: {low:.2f} to {high:.2f}".replace("-", "−")
    panels.append(Panel(title, shown, low, high, answers=_answers(learned, output)))
    gap = (shown - base).mean(1, keepdim=True)
    limit = float(gap.abs().max()) or 1.0
    panels.append(Panel(f"difference\n{arm} − {interpolation}", gap, -limit, limit, signed=True))
    return panels


def _answers(result: StageResult, values: Tensor) -> tuple[Tensor, ...]:
    outputs = result.network(values)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _overlay(axes: Axes, panel: Panel, mask: Tensor) -> None:
    """Draw a mask (H, W) over a panel; class 0 stays clear.

    So do unlabelled pixels.
    """
    from matplotlib import colormaps

    # Neighbouring classes are a golden section of the colours apart
    hues = 0.618034 * mask.long() % 1
    shown = (mask != 0) & (mask != IGNORED)
    rgba = colormaps["hsv"](hues.numpy())
    rgba[..., 3] = 0.65 * shown.numpy()
    # Pixel edges of the panel's image, whatever the mask's size
    height, width = panel.values[0].shape[-2:]
    axes.imshow(rgba, interpolation="nearest", extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _sides(values: Tensor) -> str:
    return f"{values.shape[2]}×{values.shape[3]}"


def _result_of(results: Sequence[StageResult], arm: str, input_size: InputSize) -> StageResult | None:
    mine = [result for result in results if result.stage.arm == arm]
    return next((result for result in mine if result.stage.input_size == input_size), mine[0] if mine else None)


def _answer(logits: Tensor, truth: Tensor, labels: Sequence[str]) -> tuple[str, str]:
    """A network's answer to one image, and its colour.

    Logits are (K,) or (K, h, w).
    """
    if truth.dim() == 2:
        mask = at_size_of(logits[None], truth[None])[0].argmax(0)
        return f"mIoU {_mean_iou(mask, truth):.0%}", "black"
    if truth.dim():
        grade, target = (float(mean_score(row[None])) for row in (logits.float().softmax(0), truth.float()))
        return f"{grade:.2f} ({grade - target:+.2f})".replace("-", "−"), "black"
    predicted = int(logits.argmax())
    right = predicted == int(truth)
    return f"{_short(labels[predicted])} {'✓' if right else '✗'}", "#007A33" if right else "#B00020"


def _truth(truth: Tensor, labels: Sequence[str]) -> str:
    if truth.dim() == 2:  # the classes but 0, the largest first
        counts = torch.bincount(truth[(truth != 0) & (truth != IGNORED)].long(), minlength=len(labels))
        return _short(", ".join(labels[index] for index in counts.argsort(descending=True)[:2] if counts[index]))
    return f"mean grade {float(mean_score(truth[None].float())):.2f}" if truth.dim() else _short(labels[int(truth)])


def _mean_iou(mask: Tensor, truth: Tensor) -> float:
    """Over the classes in an image's mask or the truth."""
    mask, truth = mask[truth != IGNORED], truth[truth != IGNORED]
    pairs = [(mask == index, truth == index) for index in torch.cat([mask, truth]).unique()]
    shares = [float((a & b).sum() / (a | b).sum()) for a, b in pairs]
    return sum(shares) / max(1, len(shares))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
