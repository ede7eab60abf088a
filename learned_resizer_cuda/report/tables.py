"""Tables of a run, for the terminal, the page and summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.source import InputSize
from ..train.evaluate import Evaluation
from ..train.results import Metric, StageResult, metric_named
from .summary import ArmSummary, MeanStd, Summary


@dataclass(frozen=True)
class Table:
    """Rows of strings; ``bold``: indices of the rows that stand out.

    Raises:
        ValueError: a row's length differs from the header's.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bold: Sequence[int] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"rows: got {len(row)} cells in row {number}; expected {len(self.header)}")


def run_tables(command: str, summary: Summary, results: Sequence[StageResult]) -> list[Table]:
    """The tables of a run of ``command``, ``arms_table`` first."""
    tables = [arms_table(summary)]
    if command == "ablate":
        tables.append(ablation_table(summary))
    if command == "transfer":
        tables.append(epochs_table(results, summary.metrics[0]))
    return tables


def arms_table(summary: Summary) -> Table:
    """All arms' metrics and training times.

    In bold the arm that is best by the metric the run is judged by; of several networks, by all of theirs.
    """
    sizes = len({arm.input_size for arm in summary.arms}) > 1
    metrics = _metrics_in(summary.arms[0].metrics)
    share = summary.share is not None
    header = (
        "resizer",
        *(("input",) if sizes else ()),
        "steps",
        *(metric.label for metric in metrics),
        metrics[0].train_label if share else "train loss",
        "CPU s",
        "wall s",
    )
    rows = [
        (
            arm.arm,
            *((str(arm.input_size),) if sizes else ()),
            f"{arm.steps:,}",
            *(_text(metric, arm.metrics[metric.name]) for metric in metrics),
            _trained(arm, metrics[0] if share else None),
            arm.cpu_seconds.text(0),
            arm.wall_seconds.text(0),
        )
        for arm in summary.arms
    ]
    best = {_best([arm.metrics[metric.name].mean for arm in summary.arms]) for metric in summary.metrics}
    caption = "Same images, same network: only the resizer differs"
    return Table(header, rows, caption, tuple(best) if len(best) == 1 else ())


def _best(values: Sequence[float]) -> int:
    return values.index(max(values))


def epochs_table(results: Sequence[StageResult], metric: Metric) -> Table:
    """A metric by arm and epoch: how a transferred resizer adapts.

    Rows are at step 0 and after each pass over the test images. Arms: the transferred resizers, fresh and control. At
    step 0 the control is the baseline.
    """
    baselines = {result.stage.start for result in results}
    arms = [arm for arm in dict.fromkeys(result.stage.arm for result in results) if arm not in baselines]
    tests = [row for result in results for row in result.split("test") if row.arm in arms]
    rows = []
    for step in sorted({row.step for row in tests}):
        at_step = [row for row in tests if row.step == step]
        means = (MeanStd.of([row.metrics[metric.name] for row in at_step if row.arm == arm]) for arm in arms)
        rows.append((_epoch(at_step[0].epoch), *(_text(metric, mean) for mean in means)))
    return Table(("epoch", *arms), rows, f"{metric.label}, by epoch of tuning")


def _epoch(epoch: float) -> str:
    return f"{epoch:.1g}" if 0 < epoch < 0.05 else f"{epoch:.1f}".removesuffix(".0")


def ablation_table(summary: Summary) -> Table:
    """The primary metric, cost and parameters by r and n."""
    metric = summary.metrics[0]
    header = ("blocks r, filters n", metric.label, "GFLOP an image", "resizer's parameters")
    rows = [
        (
            arm.arm,
            _text(metric, arm.metrics[metric.name]),
            "" if arm.gflop is None else f"{arm.gflop:.4f}",
            f"{arm.resizer_parameters:,}",
        )
        for arm in summary.arms
    ]
    return Table(header, rows, "Test metric against cost and parameters")


def gain_table(gains: Mapping[str, Mapping[str, float]]) -> Table:
    """Resizers' gains over bilinear in dB: ``lower`` and ``upper`` half of frequencies."""
    rows = [
        (name, *(f"{value:+.1f}" for value in (gain["lower"], gain["upper"], gain["upper"] - gain["lower"])))
        for name, gain in gains.items()
    ]
    header = ("resizer", "lower half of frequencies, dB", "upper half, dB", "boost of the upper half, dB")
    return Table(header, rows, "Power against bilinear")


def evaluation_table(evaluations: Sequence[Evaluation]) -> Table:
    """Means and deviations over the seeds, by arm and input size."""
    metrics = _metrics_in(evaluations[0].metrics)
    groups: dict[tuple[str, InputSize, InputSize], list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault((evaluation.arm, evaluation.input_size, evaluation.test_size), []).append(evaluation)
    elsewhere = any(one.input_size != one.test_size for one in evaluations)
    rows = [
        (
            arm,
            str(input_size),
            *((str(test_size),) if elsewhere else ()),
            str(len(mine)),
            *(_text(metric, MeanStd.of([one.metrics[metric.name] for one in mine])) for metric in metrics),
            MeanStd.of([one.loss for one in mine]).text(4),
        )
        for (arm, input_size, test_size), mine in groups.items()
    ]
    tested = ("tested at",) if elsewhere else ()
    header = ("resizer", "input", *tested, "seeds", *(metric.label for metric in metrics), "test loss")
    return Table(header, rows, "On the test images")


def _trained(arm: ArmSummary, share: Metric | None) -> str:
    """Share of right answers in training, else the loss, else a dash."""
    if arm.train_loss is None:
        return "–"
    return arm.train_loss.text(4) if share is None or arm.train_accuracy is None else _text(share, arm.train_accuracy)


def _metrics_in(values: Mapping[str, object]) -> list[Metric]:
    return [metric_named(name) for name in values]


def _text(metric: Metric, values: MeanStd) -> str:
    return values.text(metric.digits, metric.factor)
