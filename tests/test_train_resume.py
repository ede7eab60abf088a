"""A training that is killed at any moment goes on with the same command, and ends with an undisturbed run's numbers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.recipes.checkpoint import RoundCheckpoint
from tests.photo_folders import class_folder

# Imports once, then forks a process for each call of the command: a fork costs no imports, and is killed alone.
FORKS = """
import os, signal, sys, time
from learned_resizer_cuda.cli import train
from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.recipes import present, progress, run

arguments, delays = sys.argv[2:], [float(delay) for delay in sys.argv[1].split()]
for delay in [*delays, None]:
    child = os.fork()
    if not child:
        try:
            code = main(["train", *arguments])
        except SystemExit as end:
            code = end.code
        os._exit(code or 0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(status, flush=True)
    if not status:  # it had ended
        break
"""
SETTINGS = (
    "--model small_cnn --size 8 --input-size 16 --arms learned,control --steps 40 --batch-size 4 --evaluations 2 "
    "--checkpoint-steps 4 --optimizer sgd --learning-rate 0.01 --recalibration-batches 2 --accelerator cpu"
).split()
TIMES = ("cpu_seconds", "wall_seconds")


def forks(delays: list[float], *arguments: object) -> list[int]:
    """The exit statuses of the command, called again and again: killed after each delay, then left alone."""
    words = [" ".join(map(str, delays)), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", FORKS, *words], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.splitlines() if line.strip().isdigit()]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


def test_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    data = class_folder(tmp_path / "data", train=6, val=3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ("--data", data, *SETTINGS)
    assert forks([], *settings, "--output", whole) == [0]
    # Short delays first, so that it is killed before there is anything, then while it trains and tests and draws.
    statuses = forks([0.05, 0.5, 0.9, 1.3, 0.7, 1.1, 1.7], *settings, "--output", killed)
    assert statuses[-1] == 0 and statuses.count(9) >= 3, statuses

    assert rows(whole) == rows(killed)
    for path in whole.glob("stages/*/*.safetensors"):
        one, other = load_file(path), load_file(killed / path.relative_to(whole))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    figures = [json.loads((folder / "summary.json").read_text())["arms"] for folder in (whole, killed)]
    for one, other in zip(*figures, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMES} == {k: v for k, v in other.items() if k not in TIMES}
    assert not list(killed.rglob("*.part")) and not list(killed.rglob("last.ckpt"))


def test_a_stage_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """Not from the start: rows before the checkpoint are those of the killed process, to the very time."""
    data = class_folder(tmp_path / "data", train=6, val=3)
    folder = tmp_path / "run"
    settings = ["--data", data, *SETTINGS, "--arms", "bilinear", "--steps", 4000, "--checkpoint-steps", 20]
    statuses: list[int] = []
    path = folder / "stages/bilinear-16-seed0/metrics.csv"
    statuses = forks([2.5], *settings, "--output", folder)
    if statuses[0] == 0:
        pytest.skip("this machine trained 4,000 steps in 2.5 s, before it could be killed")
    before = path.read_text().splitlines() if path.exists() else []
    assert statuses == [9, 0]
    assert len(before) == 4000 + 3 + 1  # header, steps, the tests
    seconds = [float(row["wall_seconds"]) for row in csv.DictReader(before) if row["split"] == "train"]
    assert all(a < b for a, b in zip(seconds, seconds[1:], strict=False))


def test_each_round_has_its_own_random_state() -> None:
    """So that dropout after a restart draws what it would have drawn; other processes, rounds and seeds draw others."""

    class FakeTrainer:
        def __init__(self, epoch: int, rank: int) -> None:
            self.current_epoch, self.global_rank = epoch, rank

    def drawn(seed: int, epoch: int, rank: int) -> float:
        with torch.random.fork_rng(devices=[]):
            RoundCheckpoint(Path("x"), seed).on_train_epoch_start(FakeTrainer(epoch, rank), None)  # type: ignore[arg-type]
            return float(torch.rand(()))

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    assert len({drawn(seed, epoch, rank) for seed in (0, 1) for epoch in (0, 1, 2) for rank in (0, 1)}) == 12
