"""The paper's experiments at a small scale, and some beyond: docs/experiments.md and beyond.md.

    python -m benchmarks.experiments.paper                       # all, into runs/experiments: hours on two cores
    python -m benchmarks.experiments.paper --only iqa,transfer   # some
    python -m benchmarks.experiments.paper --only iqa --collect  # run nothing, keep the results of a complete run

The summary.json of each run is kept as benchmarks/results/NAME.json, and its pictures in docs/. An interrupted run
resumes. `python -m benchmarks.readme` fills the tables of the pages from the results.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.mixed_sizes import write_folder

ROOT = Path(__file__).resolve().parents[2]
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"


@dataclass(frozen=True)
class Experiment:
    """Arguments of `learned-resizer`, and pictures of the run with their names in docs/.

    ``{runs}`` in an argument is the folder of the runs: an experiment may start from another's files.
    """

    arguments: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...] = ()


# A learning rate that is nearly too high, small batches, and a test every fifth of an epoch.
_SHAKEN = (
    *("train", "--arms", "learned", "--optimizer", "sgd", "--schedule", "constant", "--batch-size", "16"),
    *("--learning-rate", "0.05", "--fine-tune-learning-rate", "0.05"),
    *("--baseline-epochs", "3.2", "--epochs", "3.2", "--evaluations", "16"),
)
# Small networks of timm that train at 24×24
_SMALL = ("--size", "24", "--epochs", "6.4", "--evaluations", "4")
_FILES = tuple(f"{name}={{runs}}/{name}" for name in ("single", "single-efficientnet"))
EXPERIMENTS = {
    "train": Experiment(
        ("train", "--seeds", "2"),
        (("samples.png", "samples.png"), ("spectrum.png", "spectrum.png")),
    ),
    "protocol": Experiment(
        (
            *("train", "--model", "test_resnet", "--size", "24", "--seeds", "3", "--evaluations", "4"),
            *("--epochs", "6.4", "--arms", "bilinear,bicubic,learned,blind,control"),
        ),
        (("curves.png", "curves.png"),),
    ),
    "iqa": Experiment(
        (
            *("train", "--task", "iqa", "--seeds", "3", "--evaluations", "4"),
            *("--arms", "bilinear,learned,blind,control"),
        ),
        (("samples.png", "samples-iqa.png"),),
    ),
    "transfer": Experiment(
        (
            *("transfer", "--resizer", "{runs}/protocol/stages/learned-96-seed0/resizer.safetensors"),
            *("--model", "small_cnn", "--size", "24", "--epochs", "4", "--seeds", "2"),
        ),
        (("transfer.png", "transfer.png"),),
    ),
    "ablation": Experiment(
        (
            *("ablate", "--num-blocks", "1,2,3", "--num-filters", "16,32"),
            *("--baseline-epochs", "6.4", "--epochs", "2.0", "--evaluations", "2"),
        ),
        (("ablation.png", "ablation.png"),),
    ),
    # Of digits on photographs with sides of 64 to 192 pixels: mixed_sizes.py
    "native": Experiment(
        (
            *(
                "train",
                "--data",
                "{runs}/mixed",
                "--model",
                "small_cnn",
                "--input-size",
                "64,96,125,native",
                "--size",
                "24",
            ),
            *("--arms", "bilinear,learned,control", "--steps", "400", "--batch-size", "32", "--evaluations", "4"),
            *("--augment", "none", "--fit", "squash", "--loss", "softmax", "--label-smoothing", "0"),
            *("--optimizer", "adamw", "--schedule", "one-cycle"),
            *("--learning-rate", "3e-3", "--fine-tune-learning-rate", "3e-3"),
        )
    ),
    # Beyond the article: one resizer for several networks, for masks, and for two tasks
    "universal": Experiment(
        (
            *("train", "--models", "test_resnet,test_efficientnet,test_byobnet", *_SMALL),
            *("--arms", "bilinear,learned,control"),
        )
    ),
    "single": Experiment(("train", "--model", "test_resnet", *_SMALL, "--arms", "bilinear,learned")),
    "single-efficientnet": Experiment(("train", "--model", "test_efficientnet", *_SMALL, "--arms", "bilinear,learned")),
    "unseen": Experiment(
        (
            *("transfer", "--model", "small_cnn", "--size", "24", "--epochs", "0,1,2,3,4", "--seeds", "3"),
            "--resizer",
            ",".join(f"{name}/resizer.safetensors" for name in ("universal={runs}/universal", *_FILES)),
        ),
        (("transfer.png", "transfer-universal.png"),),
    ),
    "segmentation": Experiment(
        ("train", "--task", "segmentation", "--seeds", "3", "--evaluations", "4"),
        (("samples.png", "samples-segmentation.png"),),
    ),
    "one-task": Experiment(
        (
            *("train", "--model", "small_cnn", "--size", "24", "--seeds", "3", "--baseline-epochs", "9.6"),
            *("--epochs", "4.8", "--evaluations", "4", "--arms", "bilinear,learned,control"),
        )
    ),
    "two-tasks": Experiment(
        (
            *("train", "--models", "small_cnn,segmentation:small_unet", "--size", "24", "--seeds", "3"),
            *("--baseline-epochs", "9.6", "--epochs", "4.8", "--evaluations", "4"),
            *("--arms", "bilinear,learned,control"),
        ),
        (("samples.png", "samples-two-tasks.png"),),
    ),
    "stability-off": Experiment((*_SHAKEN, "--no-recalibrate-bn")),
    "stability-on": Experiment((*_SHAKEN, "--recalibrate-bn")),
}


def run(name: str, runs: Path) -> None:
    """Run or resume an experiment, unless it is complete."""
    if (runs / name / "summary.json").exists():
        return
    if name == "native" and not (runs / "mixed").exists():
        write_folder(runs / "mixed")
    arguments = [argument.format(runs=runs) for argument in EXPERIMENTS[name].arguments]
    arguments += ["--accelerator", "cpu"]  # as docs/experiments.md says
    command = [sys.executable, "-m", "learned_resizer_cuda", *arguments, "--output", str(runs / name)]
    print(f"{name}: learned-resizer {' '.join(arguments)}", flush=True)
    subprocess.run(command, check=True)


def collect(name: str, runs: Path) -> None:
    """Keep the results and pictures of a complete run."""
    summary = json.loads((runs / name / "summary.json").read_text(encoding="utf-8"))
    summary["config"] = without_folders(summary["config"])
    (RESULTS / f"{name}.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for source, target in EXPERIMENTS[name].pictures:
        shutil.copyfile(runs / name / source, DOCS / target)
    both = [runs / f"stability-{state}" / "metrics.csv" for state in ("off", "on")]
    if name.startswith("stability") and all(path.exists() for path in both):
        save_stability(*both)


def without_folders(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the folders of the machine that it ran on."""
    resizers = [re.sub(r"^([\w-]+=)?.*/", r"\1", text) for text in config["resizer"]]
    return config | {"resizer": resizers, "data": config["data"] and Path(config["data"]).name}


def accuracies(path: Path, split: str) -> list[tuple[float, float]]:
    """Epochs, and accuracies in per cent, of the learned arm."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "learned" and row["split"] == split]
    return [(float(row["epoch"]), 100 * float(row["accuracy"])) for row in rows if int(row["step"])]


def falls(points: Sequence[tuple[float, float]]) -> list[float]:
    """Distance of each test below the best one before it, at least 0."""
    best, found = 0.0, []
    for _, accuracy in points:
        found.append(max(0.0, best - accuracy))
        best = max(best, accuracy)
    return found


def save_stability(off: Path, on: Path) -> None:
    """Write stability.png and .json: the same training, tested with running and with recalibrated statistics.

    Recalibration changes no weight: both runs train the same bits, so both test the same networks.
    """
    from learned_resizer_cuda.report.figures.style import finish_axes, legend_below, new_figure, save_figure

    trained = [accuracies(path, "train") for path in (off, on)]
    if trained[0] != trained[1]:
        raise ValueError(f"{off} and {on} are not of the same training: their training accuracies differ")
    figure = new_figure(9, 4.6)
    axes = figure.subplots()
    figures = {}
    for label, path, colour in (
        ("running statistics", off, "#D55E00"),
        ("recalibrated", on, "#0072B2"),
    ):
        points = accuracies(path, "test")
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, linewidth=2, color=colour, label=label)
        fallen = falls(points)
        figures[label] = {"largest_fall": max(fallen), "falls_above_5": sum(fall > 5 for fall in fallen)}
        figures[label] |= {"tests": len(points), "accuracies": [accuracy for _, accuracy in points]}
    window = max(1, len(trained[0]) // 16)
    means = [
        (trained[0][end - 1][0], sum(accuracy for _, accuracy in trained[0][end - window : end]) / window)
        for end in range(window, len(trained[0]) + 1, window)
    ]
    axes.plot(*zip(*means, strict=True), linestyle="--", color="#999999", label="training batches")
    finish_axes(axes, "The same weights, tested with two sets of statistics", "epoch of joint training", "accuracy, %")
    legend_below(figure, axes)
    save_figure(figure, DOCS / "stability.png")
    (RESULTS / "stability.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the experiments and keep their results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.paper", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(EXPERIMENTS), help="names, separated by commas")
    parser.add_argument("--runs", type=Path, default=Path("runs/experiments"), help="folder of the runs")
    parser.add_argument("--collect", action="store_true", help="run nothing, keep the results of complete runs")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"--only: got {', '.join(sorted(unknown))}; expected some of {', '.join(EXPERIMENTS)}")
    for name in names:
        if not options.collect:
            run(name, options.runs)
        collect(name, options.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
