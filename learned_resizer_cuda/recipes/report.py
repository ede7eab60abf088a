"""What a comparison found: means over seeds, gaps between arms, and whether a gap is more than chance."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._version import __version__
from .compare import TRAIN_WINDOW, ArmResult, training_seconds
from .config import LONG_FACTOR, RunConfig

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A figure over seeds: mean and sample standard deviation (None for one seed)."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, tuple(values))

    def text(self, digits: int = 1, factor: float = 1) -> str:
        """``mean`` or ``mean ± std``, both times ``factor``."""
        spread = "" if self.std is None else f" ± {factor * self.std:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds."""

    arm: str
    steps: int
    test_accuracy: Figure
    train_accuracy: Figure
    cpu_seconds: Figure
    wall_seconds: Figure
    resizer_parameters: int


@dataclass(frozen=True)
class Gap:
    """Test accuracy of ``learned`` minus that of another arm, seed by seed.

    ``margin`` is what chance alone may make of it, at about 95 %: ``2 sqrt(2 p (1 - p) / N + s² / n)``, with the
    mean accuracy p of the two, N test images, and the gap's standard deviation s over n seeds (0 for one seed,
    where it is unknown). The two arms see the same test images, so the first term is on the safe side.
    """

    against: str
    gap: Figure
    margin: float

    @property
    def verdict(self) -> str:
        """``"wins"``, ``"loses"``, or ``"undecided"`` where the gap is within the margin."""
        if abs(self.gap.mean) <= self.margin:
            return "undecided"
        return "wins" if self.gap.mean > 0 else "loses"

    def sentence(self) -> str:
        """The gap in percentage points and what it means, in one line."""
        points = f"{'+' if self.gap.mean >= 0 else ''}{self.gap.text(factor=100)} points"
        meaning = {
            "wins": "learned wins",
            "loses": f"learned does NOT win: {self.against} is better",
            "undecided": f"learned does NOT win: no clear gain, the gap is within ±{100 * self.margin:.1f} of chance",
        }[self.verdict]
        return f"learned − {self.against}: {points}: {meaning}"


@dataclass(frozen=True)
class Summary:
    """All of a comparison's figures."""

    arms: list[ArmSummary]
    gaps: list[Gap]
    notes: list[str]

    def arm(self, name: str) -> ArmSummary | None:
        return next((summary for summary in self.arms if summary.arm == name), None)


def summarise(config: RunConfig, results: Sequence[ArmResult], test_images: int) -> Summary:
    """Means, standard deviations and gaps of a finished comparison.

    Args:
        config: what was run.
        results: of ``compare``.
        test_images: number of images behind each test accuracy.
    """
    by_arm = {arm: [result for result in results if result.arm == arm] for arm in config.ordered_arms}
    arms = [_summarise_arm(mine) for mine in by_arm.values()]
    gaps = []
    for against in ("bicubic", "bilinear", "blind", "bicubic-long"):
        if "learned" in by_arm and against in by_arm:
            gaps.append(_gap(by_arm["learned"], by_arm[against], test_images))
    notes = []
    if "learned" in by_arm and "bicubic-long" in by_arm:
        clock = "CPU" if results[0].device == "cpu" else "wall"
        learned, long = (
            statistics.fmean(training_seconds(result) for result in by_arm[arm]) for arm in ("learned", "bicubic-long")
        )
        steps = by_arm["bicubic-long"][0].steps
        relation = "at least" if long >= learned else "LESS THAN"
        extended = config.long_steps is None and steps > LONG_FACTOR * config.steps
        repeat = f"; --long-steps {steps} repeats it whatever the clock says" if extended else ""
        notes.append(
            f"bicubic-long: {steps:,} steps, {long:.0f} {clock} s, {relation} the learned arm's {learned:.0f} {clock} s"
            + repeat
        )
    return Summary(arms, gaps, notes)


def _summarise_arm(results: Sequence[ArmResult]) -> ArmSummary:
    first = results[0]
    return ArmSummary(
        arm=first.arm,
        steps=first.steps,
        test_accuracy=Figure.of([result.test_accuracy for result in results]),
        train_accuracy=Figure.of([result.train_accuracy for result in results]),
        cpu_seconds=Figure.of([result.cpu_seconds for result in results]),
        wall_seconds=Figure.of([result.wall_seconds for result in results]),
        resizer_parameters=first.resizer_parameters,
    )


def _gap(learned: Sequence[ArmResult], other: Sequence[ArmResult], test_images: int) -> Gap:
    gap = Figure.of([a.test_accuracy - b.test_accuracy for a, b in zip(learned, other, strict=True)])
    p = statistics.fmean(result.test_accuracy for result in (*learned, *other))
    variance = 2 * p * (1 - p) / test_images + (gap.std or 0) ** 2 / len(learned)
    return Gap(other[0].arm, gap, 2 * math.sqrt(variance))


def table(summary: Summary) -> Table:
    """The result as a rich table."""
    from rich.table import Table

    view = Table(title="Same images, same network, same training: only the resizer differs")
    view.add_column("resizer")
    for heading in ("steps", "test accuracy, %", "train accuracy, %", "CPU s", "wall s"):
        view.add_column(heading, justify="right")
    best = max(arm.test_accuracy.mean for arm in summary.arms)
    for arm in summary.arms:
        view.add_row(
            arm.arm,
            f"{arm.steps:,}",
            arm.test_accuracy.text(factor=100),
            arm.train_accuracy.text(factor=100),
            arm.cpu_seconds.text(0),
            arm.wall_seconds.text(0),
            style="bold" if arm.test_accuracy.mean == best else None,
        )
    return view


def as_dict(config: RunConfig, summary: Summary, wall_seconds: float, device: str) -> dict[str, Any]:
    """summary.json: figures, gaps, verdicts, and where they were measured."""
    return {
        "config": config.as_dict(),
        "environment": {
            "learned_resizer_cuda": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": device,
            "threads": torch.get_num_threads(),
        },
        "wall_seconds": wall_seconds,
        "train_accuracy_is": f"mean over the last {TRAIN_WINDOW} training batches, in training mode",
        "arms": {arm.arm: {k: v for k, v in asdict(arm).items() if k != "arm"} for arm in summary.arms},
        "gaps": [asdict(gap) | {"verdict": gap.verdict, "sentence": gap.sentence()} for gap in summary.gaps],
        "notes": summary.notes,
    }


def save(values: dict[str, Any], path: Path) -> None:
    """Writes ``values`` as indented JSON."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
