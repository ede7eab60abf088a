"""Summary of a run: means, gaps, verdicts and tables."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("yaml", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.report.summary import Gap, MeanStd, Summary, summarise
from learned_resizer_cuda.report.tables import ablation_table, arms_table, epochs_table
from learned_resizer_cuda.train.config import FIXED, RunConfig
from learned_resizer_cuda.train.protocol import Front, Stage
from learned_resizer_cuda.train.results import ACCURACY, Row, StageResult

KINDS = {"blind": "blind", "transfer": "file", "control": "fixed", "control-long": "fixed"} | dict.fromkeys(
    FIXED, "fixed"
)


def result(
    arm: str,
    metric: float | tuple[float, ...],
    seed: int = 0,
    seconds: float = 1.0,
    steps: int = 400,
    name: str = "accuracy",
    input_size: int = 96,
) -> StageResult:
    """A stage tested at equal intervals with these metrics, whose training batches had the last one."""
    tests = metric if isinstance(metric, tuple) else (metric,)
    at = np.linspace(0, steps, len(tests)).astype(int) if len(tests) > 1 else [steps]

    def row(step: int, split: str, value: float) -> Row:
        return Row(arm, seed, input_size, step, step / 62.5, split, 1.0, 0.1, seconds, seconds, {name: value})

    rows = [row(steps, "train", tests[-1])] + [row(int(step), "test", v) for step, v in zip(at, tests, strict=True)]
    none = torch.nn.Identity()
    start = None if arm in FIXED else "bilinear"
    stage = Stage(arm, seed, input_size, steps, 0.1, Front(KINDS.get(arm, "learned"), "bilinear"), start)
    return StageResult(stage, 64, seconds, seconds, 0, "cpu", rows, none, none)


def summary_of(results: list[StageResult], images: int = 1000, **values: Any) -> Summary:
    return summarise(RunConfig.make(values), results, {96: images, 128: images})


def test_mean_and_deviation() -> None:
    assert MeanStd.of([0.5]).text(1, 100) == "50.0"
    assert MeanStd.of([0.5, 0.6, 0.7]).text(1, 100) == "60.0 ± 10.0"  # sample standard deviation


def test_brief_metrics() -> None:
    assert result("learned", 0.5432).final.brief == "test 54.3%"
    quality = replace(result("learned", 0.0).final, metrics={"plcc": 0.9, "srcc": 0.8123})
    assert quality.brief == "SRCC 0.812"


@pytest.mark.parametrize(
    ("learned", "other", "verdict", "words"),
    [
        (0.90, 0.60, "wins", "learned wins"),
        (0.60, 0.90, "loses", "does NOT win: bicubic is better"),
        (0.90, 0.89, "undecided", "does NOT win: no clear gain"),
        (0.89, 0.90, "undecided", "does NOT win: no clear gain"),
        (0.80, 0.80, "undecided", "does NOT win: no clear gain"),
    ],
)
def test_verdict(learned: float, other: float, verdict: str, words: str) -> None:
    (gap,) = summary_of([result("bicubic", other), result("learned", learned)]).gaps
    p = (learned + other) / 2
    assert gap.margin == pytest.approx(2 * np.sqrt(2 * p * (1 - p) / 1000))
    assert gap.verdict == verdict and words in gap.sentence()
    assert f"{100 * (learned - other):+.1f} points" in gap.sentence()


def test_margin_of_a_correlation() -> None:
    """The margin assumes the scatter of a correlation over samples of 400 normal pairs, measured here."""
    generator = np.random.default_rng(0)
    rho, images = 0.7, 400
    pairs = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], (2000, images))
    drawn = np.array([np.corrcoef(pair.T)[0, 1] for pair in pairs])
    results = [result("control", rho, name="srcc"), result("learned", rho, name="srcc")]
    (gap,) = summary_of(results, images, task="iqa").gaps
    # Two independent ones differ by sqrt(2) times as much. 2,000 samples give the deviation to 1.6 %; 3 times that.
    assert gap.margin == pytest.approx(2 * np.sqrt(2) * drawn.std(), rel=0.05)
    assert "+0.000 SRCC" in gap.sentence()


def test_seeds_that_disagree_widen_the_margin() -> None:
    """Gaps of +25, +5 and -5 points: 8 on average, but no clear gain."""
    results = []
    for seed, accuracy in enumerate((0.85, 0.65, 0.55)):
        results += [result("bicubic", 0.6, seed), result("learned", accuracy, seed)]
    (gap,) = summary_of(results, 100_000, seeds=3).gaps
    assert gap.gap.mean == pytest.approx(0.25 / 3) and gap.gap.std is not None
    assert gap.margin == pytest.approx(2 * gap.gap.std / np.sqrt(3), rel=0.01)
    assert gap.verdict == "undecided"


def test_gaps_and_the_controls_cost() -> None:
    arms = ("bilinear", "bicubic", "blind", "control")
    results = [result(arm, 0.5, seconds=20) for arm in arms]
    results += [result("learned", 0.9, seconds=50), result("control-long", 0.7, seconds=60, steps=4000)]
    summary = summary_of(results)
    assert [gap.against for gap in summary.gaps] == ["bilinear", "bicubic", "blind", "control", "control-long"]
    assert summary.notes == [
        "control: 400 steps, 20 CPU s, less than the learned arm's 400 steps, 50 CPU s",
        "control-long: 4,000 steps, 60 CPU s, at least the learned arm's 400 steps, 50 CPU s",
    ]
    values = json.loads(json.dumps(summary.as_dict()))
    assert values["gaps"][4]["verdict"] == "wins" and values["gaps"][4]["metric"] == "accuracy"
    assert not any("front" in arm for arm in values["arms"])  # it may name a path
    assert next(arm for arm in values["arms"] if arm["arm"] == "learned")["metrics"]["accuracy"]["mean"] == 0.9


def test_gaps_stay_within_an_input_size() -> None:
    results = [result("bilinear", 0.5), result("learned", 0.6)]
    results += [result("bilinear", 0.7, input_size=128), result("learned", 0.9, input_size=128)]
    summary = summary_of(results, input_size=(96, 128))
    assert [(gap.input_size, round(gap.gap.mean, 6)) for gap in summary.gaps] == [(96, 0.1), (128, 0.2)]
    assert [sentence.split(" points")[0] for sentence in summary.verdicts()] == [
        "input 96: learned − bilinear: +10.0",
        "input 128: learned − bilinear: +20.0",
    ]
    table = arms_table(summary)
    assert table.header[1] == "input" and [row[1] for row in table.rows] == ["96", "96", "128", "128"]
    assert table.bold == (3,)


def test_no_gap_without_the_learned_arm() -> None:
    assert summary_of([result("bilinear", 0.5), result("bicubic", 0.6)]).gaps == []


def test_gap_of_equal_extremes() -> None:
    assert Gap("learned", "bicubic", 96, ACCURACY, MeanStd.of([0.0]), 0.0).verdict == "undecided"


def test_table_by_epoch() -> None:
    results = [result("transfer", (0.1, 0.5, 0.8), steps=125), result("control", (0.4, 0.5, 0.6), steps=125)]
    table = epochs_table([result("bilinear", 0.4), *results], ACCURACY)
    assert table.header == ("epoch", "transfer", "control")
    assert table.rows == [("0", "10.0", "40.0"), ("1", "50.0", "50.0"), ("2", "80.0", "60.0")]


def test_ablation_has_a_line_an_arm() -> None:
    results = [result("bilinear", 0.5), result("r1-n16", 0.7), result("r2-n32", 0.8), result("control", 0.6)]
    summary = summary_of(results, command="ablate")
    assert [row[0] for row in ablation_table(summary).rows] == ["bilinear", "r1-n16", "r2-n32", "control"]
    assert [(gap.arm, gap.against) for gap in summary.gaps] == [("r1-n16", "control"), ("r2-n32", "control")]
