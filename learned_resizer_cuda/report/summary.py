"""A run's means over seeds, and gaps between arms compared with chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..data.source import InputSize
from ..train.config import RunConfig
from ..train.protocol import Front, Stage
from ..train.results import Metric, StageResult, judged_by, share_of

TRAIN_WINDOW = 50
"""Training loss and accuracy are means over this many last batches, as they were seen in training."""


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation (None for one seed) over seeds."""

    mean: float
    std: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanStd:
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, tuple(values))

    def text(self, digits: int, factor: float = 1) -> str:
        """``mean`` or ``mean ± std``, both times ``factor``."""
        spread = "" if self.std is None else f" ± {factor * self.std:.{digits}f}"
        return f"{factor * self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class ArmSummary:
    """One arm at one input size over its seeds.

    ``gflop``: resizer and network together, for one image. ``train_loss`` is None where nothing was trained,
    ``train_accuracy`` also where training batches have no share of right answers.
    """

    arm: str
    input_size: InputSize
    front: Front
    steps: int
    batch_size: int
    metrics: dict[str, MeanStd]
    test_loss: MeanStd
    train_loss: MeanStd | None
    train_accuracy: MeanStd | None
    cpu_seconds: MeanStd
    wall_seconds: MeanStd
    resizer_parameters: int
    gflop: float | None


@dataclass(frozen=True)
class Gap:
    """One arm's metric minus another's at equal input size, seed by seed.

    ``margin`` is the gap that chance alone may make, at about 95 %: ``2 sqrt(2 v / N + s² / n)`` for N test images and
    n seeds. s is the gap's standard deviation over the seeds, 0 for one seed, where it is unknown. v is the metric's
    ``variance`` at the mean of both arms. Both arms see the same images, so the first term is on the safe side.

    ``before`` compares the first tests, before a transferred resizer and its network are tuned.
    """

    arm: str
    against: str
    input_size: InputSize
    metric: Metric
    gap: MeanStd
    margin: float
    before: bool = False

    @property
    def verdict(self) -> str:
        """``"wins"``, ``"loses"``, or ``"undecided"`` where the gap is within the margin."""
        if abs(self.gap.mean) <= self.margin:
            return "undecided"
        return "wins" if self.gap.mean > 0 else "loses"

    def sentence(self) -> str:
        """The gap and its meaning in one line."""
        digits, factor = self.metric.digits, self.metric.factor
        amount = f"{'+' if self.gap.mean >= 0 else ''}{self.gap.text(digits, factor)} {self.metric.unit}"
        meaning = {
            "wins": f"{self.arm} wins",
            "loses": f"{self.arm} does NOT win: {self.against} is better",
            "undecided": f"{self.arm} does NOT win: no clear gain, the gap is within "
            f"±{factor * self.margin:.{digits}f} of chance",
        }[self.verdict]
        when = "before tuning, " if self.before else ""
        network = self.metric.name.partition(":")[2]
        return f"{f'{network}: ' if network else ''}{when}{self.arm} − {self.against}: {amount}: {meaning}"


@dataclass(frozen=True)
class Summary:
    """Summary of a run.

    ``metrics`` are those it is judged by, ``share`` is the name of that of training batches.
    """

    metrics: tuple[Metric, ...]
    share: str | None
    arms: list[ArmSummary]
    gaps: list[Gap]
    notes: list[str] = field(default_factory=list)

    def verdicts(self) -> list[str]:
        """The sentence of each gap; in a sweep with its input size."""
        several = len({gap.input_size for gap in self.gaps}) > 1
        return [f"input {gap.input_size}: {gap.sentence()}" if several else gap.sentence() for gap in self.gaps]

    def as_dict(self) -> dict[str, Any]:
        """Means, gaps, verdicts and notes as plain values, for summary.json."""
        arms = [asdict(arm) for arm in self.arms]
        for arm in arms:
            del arm["front"]  # the configuration tells it, and it may name a path of this machine
        gaps = [
            asdict(gap) | {"metric": gap.metric.name, "verdict": gap.verdict, "sentence": sentence}
            for gap, sentence in zip(self.gaps, self.verdicts(), strict=True)
        ]
        return {"arms": arms, "gaps": gaps, "notes": self.notes}


def summarise(
    config: RunConfig,
    results: Sequence[StageResult],
    test_sizes: dict[InputSize, int],
    costs: dict[tuple[InputSize, str], float] | None = None,
) -> Summary:
    """Summarise a complete run.

    Args:
        config: of the run.
        results: of all its stages.
        test_sizes: number of test images by input size.
        costs: GFLOP of one image by input size and arm.
    """
    groups: dict[tuple[InputSize, str], list[StageResult]] = {}
    for result in results:
        groups.setdefault((result.stage.input_size, result.stage.arm), []).append(result)
    arms = [_summarise_arm(mine, (costs or {}).get(key)) for key, mine in groups.items()]
    metrics = judged_by(config)
    gaps = [
        _gap(mine, groups[input_size, against], metric, test_sizes[input_size], before)
        for metric in metrics
        for (input_size, _), mine in groups.items()
        for before in (False, True)
        for against in _rivals(config, mine[0].stage, before)
        if (input_size, against) in groups
    ]
    return Summary(metrics, share_of(config), arms, gaps, _notes(arms))


def _rivals(config: RunConfig, stage: Stage, before: bool) -> tuple[str, ...]:
    """The arms that a stage is compared with, before or after training."""
    if config.command != "transfer":
        fixed = ("bilinear", "bicubic", "lanczos") if config.command == "train" else ()
        trained = ("blind", "control", "control-long") if config.command == "train" else ("control",)
        return (*fixed, *trained) if stage.front.kind == "learned" and not before else ()
    if stage.front.kind != "file":
        return ()
    # The first of several against the others
    files = list(config.resizers)
    others = tuple(files[1:]) if stage.arm == files[0] else ()
    return (config.baseline, *others) if before else (config.baseline, "control", "fresh", *others)


def _summarise_arm(results: Sequence[StageResult], gflop: float | None) -> ArmSummary:
    stage = results[0].stage
    finals = [result.final for result in results]
    lasts = [result.split("train")[-TRAIN_WINDOW:] for result in results]
    share = next(iter(lasts[0][-1].metrics), None) if lasts[0] else None
    return ArmSummary(
        arm=stage.arm,
        input_size=stage.input_size,
        front=stage.front,
        steps=stage.steps,
        batch_size=results[0].batch_size,
        metrics={name: MeanStd.of([final.metrics[name] for final in finals]) for name in finals[0].metrics},
        test_loss=MeanStd.of([final.loss for final in finals]),
        train_loss=MeanStd.of([statistics.fmean(row.loss for row in rows) for rows in lasts]) if lasts[0] else None,
        train_accuracy=None
        if share is None
        else MeanStd.of([statistics.fmean(row.metrics[share] for row in rows) for rows in lasts]),
        cpu_seconds=MeanStd.of([result.cpu_seconds for result in results]),
        wall_seconds=MeanStd.of([result.wall_seconds for result in results]),
        resizer_parameters=results[0].resizer_parameters,
        gflop=gflop,
    )


def _gap(
    mine: Sequence[StageResult], other: Sequence[StageResult], metric: Metric, test_images: int, before: bool
) -> Gap:
    def tested(result: StageResult) -> float:
        # A baseline has been trained before
        row = result.split("test")[0] if before and result.stage.start is not None else result.final
        return row.metrics[metric.name]

    values = [[tested(result) for result in results] for results in (mine, other)]
    gap = MeanStd.of([a - b for a, b in zip(*values, strict=True)])
    variance = metric.variance(statistics.fmean(values[0] + values[1]))
    margin = 2 * math.sqrt(2 * variance / test_images + (gap.std or 0) ** 2 / len(mine))
    stage = mine[0].stage
    return Gap(stage.arm, other[0].stage.arm, stage.input_size, metric, gap, margin, before)


def _notes(arms: Sequence[ArmSummary]) -> list[str]:
    """Whether a control trained for as long as the learned arm.

    A step costs less behind a fixed filter.
    """
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
