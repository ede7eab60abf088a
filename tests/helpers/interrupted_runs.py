"""Finished and interrupted runs, for tests that damage or resume them."""

from __future__ import annotations

import atexit
import contextlib
import csv
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from learned_resizer_cuda.atomic import atomic_bytes
from learned_resizer_cuda.report import write
from learned_resizer_cuda.train.run_folder import LOCK
from learned_resizer_cuda.train.tasks import Classification
from tests.helpers.failures import command, names
from tests.helpers.photo_folders import class_folder

SETTINGS = (
    *("--model", "small_cnn", "--size", 6, "--input-size", 12, "--arms", "learned", "--steps", 6),
    *("--batch-size", 4, "--evaluations", 1, "--checkpoint-steps", 3, "--optimizer", "sgd", "--learning-rate", 0.01),
    *("--recalibration-batches", 2, "--accelerator", "cpu", "--max-unreadable", 3),
)
LATE = 6 + 5
"""Number of the training step in the middle of the second and last stage, after its first checkpoint."""
STAGE, LAST = "stages/bilinear-12-seed0", "stages/learned-12-seed0"
TIMES = ("cpu_seconds", "wall_seconds")


@cache
def shared() -> Path:
    """A folder for what several cases start from."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    class_folder(Path(folder) / "data", train=6, val=3)
    # One that is met and skipped, for a list of them
    (Path(folder) / "data/train/bee/2.png").write_bytes(b"no image")
    return Path(folder)


def train(output: Path | None, *arguments: object) -> tuple[int, str]:
    """Exit code and all output of the command that every case calls; its pictures are empty, and quickly drawn."""
    where = () if output is None else ("--output", output)
    words = ("train", "--data", shared() / "data", *SETTINGS, *where, *arguments)

    def draw(*arguments: Any, **options: Any) -> None:
        (path,) = (argument for argument in arguments if isinstance(argument, Path))
        atomic_bytes(path, b"\x89PNG\r\n\x1a\n")

    with patch.object(write, "save_curves", draw), patch.object(write, "save_samples", draw):
        return command(*words)


@contextlib.contextmanager
def before(owner: Any, name: str, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Calls ``act`` before the ``number``-th call of a function or method."""
    original, calls = getattr(owner, name), count(1)

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            act()
        return original(*arguments, **options)

    with patch.object(owner, name, call):
        yield


@cache
def finished() -> Path:
    """A run that nothing has disturbed."""
    code, printed = train(shared() / "finished")
    assert code == 0, printed
    return shared() / "finished"


@cache
def interrupted() -> Path:
    """A run that was stopped in its last stage."""
    with before(Classification, "correct", LATE, partial(signal.raise_signal, signal.SIGTERM)):
        code, printed = train(shared() / "interrupted")
    assert code == 143, printed
    assert (shared() / "interrupted" / LAST / "last.ckpt").is_file()
    return shared() / "interrupted"


def same_bits(folder: Path) -> str:
    """The difference from an undisturbed run, in words."""
    rows = []
    for path in (finished(), folder):
        with (path / "metrics.csv").open() as file:
            rows.append([{name: row[name] for name in row if name not in TIMES} for row in csv.DictReader(file)])
    if rows[0] != rows[1]:
        return "other figures"
    for path in finished().rglob("*.safetensors"):
        one, other = load_file(path), load_file(folder / path.relative_to(finished()))
        if one.keys() != other.keys() or not all(torch.equal(one[name], other[name]) for name in one):
            return "other weights"
    return "the same bits"


def again(folder: Path, *arguments: object) -> str:
    """Resumes a run by the same command; returns ``same_bits``, or what went wrong."""
    code, printed = train(folder, *arguments)
    if code or "resuming train" not in printed:
        return printed
    left = [name for name in names(folder) if name.endswith((".part", ".ckpt", LOCK))]
    return f"{left} left" if left else same_bits(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    former = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)
