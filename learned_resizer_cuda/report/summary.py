"""What a run found: means over seeds, gaps between arms, whether a gap is more than chance, and all of it in tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..train.config import RunConfig
from ..train.evaluate import Evaluation
from ..train.results import PRIMARY, Row, StageResult
from .page import Table

TRAIN_WINDOW = 50
"""Training accuracy is the mean over this many last batches, as they were seen in training."""


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
    """One arm at one input size over its seeds."""

    arm: str
    input_size: int
    steps: int
    batch_size: int
    metrics: dict[str, Figure]
    test_loss: Figure
    train_loss: Figure
    train_accuracy: Figure | None
    cpu_seconds: Figure
    wall_seconds: Figure
    resizer_parameters: int
    gflop: float | None
    """Of resizer and network together, for one image."""


@dataclass(frozen=True)
class Gap:
    """Metric of one arm minus that of another at the same input size, seed by seed.

    ``margin`` is what chance alone may make of it, at about 95 %: ``2 sqrt(2 v / N + s² / n)`` over N test images and
    n seeds, with the gap's standard deviation s over the seeds (0 for one seed, where it is unknown), and the variance
    v of one image's part in the metric: ``p (1 - p)`` for an accuracy p, ``(1 - ρ²)²`` for a correlation ρ, as for a
    normal pair, of the mean of the two arms. Both arms see the same images, so the first term is on the safe side.
    """

    arm: str
    against: str
    input_size: int
    metric: str
    gap: Figure
    margin: float

    @property
    def verdict(self) -> str:
        """``"wins"``, ``"loses"``, or ``"undecided"`` where the gap is within the margin."""
        if abs(self.gap.mean) <= self.margin:
            return "undecided"
        return "wins" if self.gap.mean > 0 else "loses"

    def sentence(self) -> str:
        """The gap and what it means, in one line: percentage points for an accuracy."""
        factor, digits, unit = (100, 1, " points") if self.metric == "accuracy" else (1, 3, f" {self.metric.upper()}")
        amount = f"{'+' if self.gap.mean >= 0 else ''}{self.gap.text(digits, factor)}{unit}"
        meaning = {
            "wins": f"{self.arm} wins",
            "loses": f"{self.arm} does NOT win: {self.against} is better",
            "undecided": f"{self.arm} does NOT win: no clear gain, the gap is within "
            f"±{factor * self.margin:.{digits}f} of chance",
        }[self.verdict]
        return f"{self.arm} − {self.against}: {amount}: {meaning}"


@dataclass(frozen=True)
class Summary:
    """All of a run's figures."""

    task: str
    arms: list[ArmSummary]
    gaps: list[Gap]
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    """Those of the run's command, the first of them ``arms_table``."""

    def arm(self, name: str, input_size: int | None = None) -> ArmSummary | None:
        for summary in self.arms:
            if summary.arm == name and input_size in (None, summary.input_size):
                return summary
        return None


def summarise(
    config: RunConfig,
    results: Sequence[StageResult],
    test_sizes: dict[int, int],
    costs: dict[tuple[int, str], float] | None = None,
) -> Summary:
    """Means, standard deviations and gaps of a finished run.

    Args:
        config: what was run.
        results: of all stages.
        test_sizes: test images by input size.
        costs: GFLOP of one image, by input size and arm.
    """
    groups: dict[tuple[int, str], list[StageResult]] = {}
    for result in results:
        groups.setdefault((result.input_size, result.arm), []).append(result)
    arms = [_summarise_arm(mine, costs or {}) for mine in groups.values()]
    gaps = []
    for (input_size, arm), mine in groups.items():
        for against in _rivals(config, arm):
            if (input_size, against) in groups:
                gaps.append(_gap(mine, groups[input_size, against], PRIMARY[config.task], test_sizes[input_size]))
    return Summary(config.task, arms, gaps, _notes(arms))


def _rivals(config: RunConfig, arm: str) -> tuple[str, ...]:
    """The arms that one is compared with."""
    if config.command == "train":
        return ("bilinear", "bicubic", "lanczos", "blind", "control", "control-long") if arm == "learned" else ()
    if config.command == "transfer":
        return (config.baseline, "control", "fresh") if arm == "transfer" else ()
    return ("control",) if arm.startswith("r") else ()


def _summarise_arm(results: Sequence[StageResult], costs: dict[tuple[int, str], float]) -> ArmSummary:
    first = results[0]
    finals = [result.final for result in results]
    lasts = [_last_training(result) for result in results]
    accuracies = [accuracy for _, accuracy in lasts if accuracy is not None]
    return ArmSummary(
        arm=first.arm,
        input_size=first.input_size,
        steps=first.steps,
        batch_size=first.batch_size,
        metrics={name: Figure.of([final.metrics[name] for final in finals]) for name in finals[0].metrics},
        test_loss=Figure.of([final.loss for final in finals]),
        train_loss=Figure.of([loss for loss, _ in lasts]),
        train_accuracy=Figure.of(accuracies) if accuracies else None,
        cpu_seconds=Figure.of([result.cpu_seconds for result in results]),
        wall_seconds=Figure.of([result.wall_seconds for result in results]),
        resizer_parameters=first.resizer_parameters,
        gflop=costs.get((first.input_size, first.arm)),
    )


def _last_training(result: StageResult) -> tuple[float, float | None]:
    rows: list[Row] = result.split("train")[-TRAIN_WINDOW:]
    accuracies = [row.metrics["accuracy"] for row in rows if "accuracy" in row.metrics]
    return statistics.fmean(row.loss for row in rows), statistics.fmean(accuracies) if accuracies else None


def _gap(mine: Sequence[StageResult], other: Sequence[StageResult], metric: str, test_images: int) -> Gap:
    values = [[result.final.metrics[metric] for result in results] for results in (mine, other)]
    gap = Figure.of([a - b for a, b in zip(*values, strict=True)])
    centre = statistics.fmean(values[0] + values[1])
    variance = centre * (1 - centre) if metric == "accuracy" else (1 - centre**2) ** 2
    margin = 2 * math.sqrt(2 * variance / test_images + (gap.std or 0) ** 2 / len(mine))
    return Gap(mine[0].arm, other[0].arm, mine[0].input_size, metric, gap, margin)


def _notes(arms: Sequence[ArmSummary]) -> list[str]:
    """Whether the control had as much time as the learned arm: equal steps cost less behind a fixed filter."""
    notes = []
    for mine in arms:
        if mine.arm != "learned":
            continue
        for other in arms:
            if other.arm in ("control", "control-long") and other.input_size == mine.input_size:
                relation = "at least" if other.cpu_seconds.mean >= mine.cpu_seconds.mean else "less than"
                notes.append(
                    f"{other.arm}: {other.steps:,} steps, {other.cpu_seconds.mean:.0f} CPU s, {relation} the learned "
                    f"arm's {mine.steps:,} steps, {mine.cpu_seconds.mean:.0f} CPU s"
                )
    return notes


def metric_heading(metric: str) -> str:
    """Column title of a metric."""
    return {"accuracy": "test accuracy, %", "plcc": "PLCC", "srcc": "SRCC"}[metric]


def metric_text(metric: str, figure: Figure) -> str:
    """A metric as text: per cent for an accuracy, three digits for a correlation."""
    return figure.text(factor=100) if metric == "accuracy" else figure.text(3)


def arms_table(summary: Summary) -> Table:
    """All arms with their metrics and cost; the best by the task's own metric set off."""
    several = len({arm.input_size for arm in summary.arms}) > 1
    metrics = list(summary.arms[0].metrics)
    accuracy = summary.arms[0].train_accuracy is not None
    header = (
        "resizer",
        *(("input",) if several else ()),
        "steps",
        *map(metric_heading, metrics),
        *(("train accuracy, %",) if accuracy else ("train loss",)),
        "CPU s",
        "wall s",
    )
    rows = []
    for arm in summary.arms:
        train = arm.train_accuracy.text(factor=100) if arm.train_accuracy is not None else arm.train_loss.text(4)
        rows.append(
            (
                arm.arm,
                *((f"{arm.input_size}",) if several else ()),
                f"{arm.steps:,}",
                *(metric_text(name, arm.metrics[name]) for name in metrics),
                train,
                arm.cpu_seconds.text(0),
                arm.wall_seconds.text(0),
            )
        )
    judged = [arm.metrics[PRIMARY[summary.task]].mean for arm in summary.arms]
    caption = "Same images, same network: only what stands in front differs"
    return Table(header, rows, caption, (judged.index(max(judged)),))


def epochs_table(results: Sequence[StageResult]) -> Table:
    """Metrics at step 0 and after each pass over the test images, by arm: how a transferred resizer adapts."""
    arms = [arm for arm in dict.fromkeys(result.arm for result in results) if arm in ("transfer", "fresh", "control")]
    metric = next(name for name in PRIMARY.values() if name in results[0].final.metrics)
    steps = sorted({row.step for result in results if result.arm in arms for row in result.split("test")})
    rows = []
    for step in steps:
        cells = []
        epoch = 0.0
        for arm in arms:
            found = [row for result in results if result.arm == arm for row in result.split("test") if row.step == step]
            epoch = found[0].epoch
            cells.append(metric_text(metric, Figure.of([row.metrics[metric] for row in found])))
        rows.append((f"{epoch:.1f}".removesuffix(".0"), *cells))
    return Table(("epoch", *arms), rows, f"{metric_heading(metric)}, by epoch of tuning")


def ablation_table(summary: Summary) -> Table:
    """Metric, cost and parameters by r and n."""
    metric = PRIMARY[summary.task]
    rows = [
        (
            arm.arm,
            metric_text(metric, arm.metrics[metric]),
            "" if arm.gflop is None else f"{arm.gflop:.4f}",
            f"{arm.resizer_parameters:,}",
        )
        for arm in summary.arms
    ]
    header = ("blocks r, filters n", metric_heading(metric), "GFLOP an image", "resizer's parameters")
    return Table(header, rows, "Accuracy against cost" if metric == "accuracy" else "Correlation against cost")


def as_dict(summary: Summary) -> dict[str, Any]:
    """Figures, gaps, verdicts and notes as plain values, for summary.json."""
    return {
        "arms": [asdict(arm) for arm in summary.arms],
        "gaps": [asdict(gap) | {"verdict": gap.verdict, "sentence": gap.sentence()} for gap in summary.gaps],
        "notes": summary.notes,
    }


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Means and deviations over the seeds, by arm and input size."""
    metrics = list(evaluations[0].metrics)
    groups: dict[tuple[str, int], list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault((evaluation.arm, evaluation.input_size), []).append(evaluation)
    rows = [
        (
            arm,
            str(input_size),
            str(len(mine)),
            *(metric_text(name, Figure.of([one.metrics[name] for one in mine])) for name in metrics),
            Figure.of([one.loss for one in mine]).text(4),
        )
        for (arm, input_size), mine in groups.items()
    ]
    return Table(("resizer", "input", "seeds", *map(metric_heading, metrics), "test loss"), rows, "On the test images")
