"""`learned-resizer train`: fixed filters and the learned resizer in front of the same network, on real images."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ..recipes.config import RunConfig

ALL_ARMS = "bilinear,bicubic,blind,learned,bicubic-long"


def train(
    arms: Annotated[str, typer.Option(help="Resizers to compare, separated by commas.")] = ALL_ARMS,
    seeds: Annotated[int, typer.Option(help="Repetitions, each with its own seed.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first repetition.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimiser steps of every arm but bicubic-long.")] = 400,
    long_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps of bicubic-long.",
            show_default="5 × steps; 10, 15, … × steps where that takes less time than the learned arm",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 64,
    interpolation: Annotated[
        str, typer.Option(help="Filter inside the learned resizer: bilinear, bicubic or lanczos.")
    ] = "bilinear",
    num_filters: Annotated[int, typer.Option(help="Filters of the learned resizer (n in the paper).")] = 16,
    num_blocks: Annotated[int, typer.Option(help="Residual blocks of the learned resizer (r in the paper).")] = 1,
    loss: Annotated[str, typer.Option(help="Cross-entropy over softmax or sigmoid outputs.")] = "softmax",
    label_smoothing: Annotated[float, typer.Option(help="Label smoothing, in [0, 1).")] = 0.0,
    evaluations: Annotated[int, typer.Option(help="Passes over the test images during an arm's training.")] = 8,
    accelerator: Annotated[str, typer.Option(help="Where to train: auto, cpu or gpu.")] = "auto",
    output: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/<date>-<time>")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a former run's files in the folder.")] = False,
) -> None:
    """Train the learned resizer in front of a small network, beside fixed filters.

    The images are real and come with the installed packages, no network needed: handwritten digits on
    photographs, 96×96, resized to 16×16 for the network.

    bilinear and bicubic are the fixed filters; blind is the learned resizer fed only with
    what bilinear left, and bicubic-long trains at least as long as the learned arm takes: together they tell a
    gain that comes from the image's detail from one that comes from more parameters or more training.

    Writes config.yaml, metrics.csv, summary.json, curves.png, samples.png and resizer.safetensors.
    """
    from ..recipes.config import RunConfig
    from ..recipes.run import prepare_folder

    folder = output or Path("runs") / datetime.now().strftime("%Y-%m-%d-%H%M%S")
    try:
        config = RunConfig(
            arms=tuple(arm.strip() for arm in arms.split(",") if arm.strip()),
            seed=seed,
            seeds=seeds,
            steps=steps,
            long_steps=long_steps,
            batch_size=batch_size,
            interpolation=interpolation,
            num_filters=num_filters,
            num_blocks=num_blocks,
            loss=loss,
            label_smoothing=label_smoothing,
            evaluations=evaluations,
            accelerator=accelerator,
        )
        prepare_folder(folder, overwrite)
    except (TypeError, ValueError, OSError) as error:
        _fail(error)
    _run(config, folder)


def _run(config: RunConfig, folder: Path) -> None:
    from rich.console import Console

    from ..recipes.memory import keep_freed_memory
    from ..recipes.progress import ProgressBars
    from ..recipes.report import table
    from ..recipes.run import FILES, run

    keep_freed_memory()
    console = Console()
    started = time.perf_counter()
    try:
        with ProgressBars(console) as bars:
            summary = run(config, folder, bars)
    except FileNotFoundError as error:
        _fail(error)
    console.print(table(summary))
    for line in [gap.sentence() for gap in summary.gaps] + summary.notes:
        console.print(line, highlight=False, soft_wrap=True)
    made = ", ".join(name for name in FILES if (folder / name).exists())
    console.print(
        f"{time.perf_counter() - started:.0f} s. In {folder}: {made}", highlight=False, markup=False, soft_wrap=True
    )


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"learned-resizer train: {error}", err=True)
    raise typer.Exit(2)
