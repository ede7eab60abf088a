"""A training that is killed at any moment: the same command resumes it, and ends with an undisturbed run's numbers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from itertools import pairwise, takewhile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision

from learned_resizer_cuda.train.checkpoint import load_checkpoint, save_checkpoint, seed_round
from learned_resizer_cuda.train.run_folder import CONFIG
from tests.helpers.photo_folders import class_folder

# Imports once, then forks a process for each call of the command: a fork costs no imports, and is killed alone. Kills
# happen when there are so many lines of metrics, or, for a word, when there is a file of that name.
FORKS = """
import json, os, signal, sys, time
from pathlib import Path
from learned_resizer_cuda.cli import training
from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.report import write
from learned_resizer_cuda.cli import progress
from learned_resizer_cuda.train import run

output, kills, arguments = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3:]

def lines():
    return {str(path): path.read_text().splitlines() for path in output.glob("stages/*/metrics.csv")}

def due(kill):
    if kill.isdigit():
        return sum(map(len, lines().values())) >= int(kill)
    return any(output.rglob(kill))

for kill in [*kills, None]:
    child = os.fork()
    if not child:
        try:
            code = main(["train", *arguments, "--output", str(output)])
        except SystemExit as end:
            code = end.code
        os._exit(code or 0)
    ended, status = 0, 0
    while kill is not None and not ended:
        if due(kill):
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        _, status = os.waitpid(child, 0)
    print(json.dumps([status, lines()]), flush=True)
    if not status:
        break
"""
ROUND = 4
SETTINGS = (
    *("--model", "small_cnn", "--size", 8, "--input-size", 16, "--arms", "learned", "--steps", 24, "--batch-size", 4),
    *("--evaluations", 2, "--checkpoint-steps", ROUND, "--optimizer", "sgd", "--learning-rate", 0.01),
    *("--recalibration-batches", 2, "--accelerator", "cpu"),
)
TIMES = ("cpu_seconds", "wall_seconds")


def forks(output: Path, kills: str, *arguments: object) -> list[tuple[int, dict[str, list[str]]]]:
    """Calls the command again and again, killed at each of ``kills``, then left alone.

    Returns:
        After each call, its exit status (9 where it was killed), and the lines of all files of metrics.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    words = [sys.executable, "-c", FORKS, str(output), kills, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]  # type: ignore[misc]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    """Killed before there is anything, after the test before the first step, within a stage, between the two, within
    the second, and while the report is made."""
    data = class_folder(tmp_path / "data", train=6, val=3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    settings = ("--data", data, *SETTINGS)
    assert [status for status, _ in forks(whole, "", *settings)] == [0]
    calls = forks(killed, f"{CONFIG} 1 11 15 network.safetensors 40 50 samples.png", *settings)
    assert [status for status, _ in calls] == [9] * 8 + [0]

    # Each call resumes at the checkpoint of the one before: the lines up to there stay, to the very time of each.
    for (_, before), (_, after) in pairwise(calls):
        for path, lines in before.items():
            kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lines, after[path], strict=False)))
            assert kept >= len(lines) - ROUND - 1 or len(lines) <= ROUND + 2

    assert rows(whole) == rows(killed)
    for path in whole.glob("stages/*/*.safetensors"):
        one, other = load_file(path), load_file(killed / path.relative_to(whole))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    figures = [json.loads((folder / "summary.json").read_text())["arms"] for folder in (whole, killed)]
    for one, other in zip(*figures, strict=True):
        assert {k: v for k, v in one.items() if k not in TIMES} == {k: v for k, v in other.items() if k not in TIMES}
    assert not list(killed.rglob("*.part")) and not list(killed.rglob("last.ckpt"))


def test_each_round_has_its_own_random_state() -> None:
    """So that dropout after a restart draws what it would have drawn; other processes, rounds and seeds draw others."""

    def drawn(seed: int, number: int, rank: int) -> float:
        with torch.random.fork_rng(devices=[]):
            seed_round(seed, number, rank)
            return float(torch.rand(()))

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    assert len({drawn(seed, number, rank) for seed in (0, 1) for number in (0, 1, 2) for rank in (0, 1)}) == 12


def test_a_checkpoint_holds_the_scale_of_16_mixed(tmp_path: Path) -> None:
    """A step that overflows halves the scale and is skipped; what is resumed after it ends with the same bits."""

    class Small:
        def __init__(self) -> None:
            self.fabric = Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu"))
            self.model = torch.nn.Linear(4, 2)
            torch.nn.init.ones_(self.model.weight)
            self.optimiser = self.fabric.setup_optimizers(torch.optim.AdamW(self.model.parameters(), 0.01))
            self.scaler = self.fabric.strategy.precision
            self.parts = {"model": self.model, "optimiser": self.optimiser, "precision": self.scaler}

        def step(self, factor: float) -> None:
            with self.fabric.autocast():
                loss = factor * self.model(torch.ones(3, 4)).square().sum()
            self.optimiser.zero_grad()
            self.fabric.backward(loss)
            self.optimiser.step()

    whole, resumed = Small(), Small()
    whole.step(1e-4)
    before, scale = whole.model.weight.clone(), whole.scaler.state_dict()["scale"]
    whole.step(1.0)  # gradients of 24 · 65,536 are above the 65,504 of float16
    assert torch.equal(whole.model.weight, before) and whole.scaler.state_dict()["scale"] == scale / 2
    save_checkpoint(tmp_path / "last.ckpt", whole.parts)
    load_checkpoint(tmp_path / "last.ckpt", resumed.parts)
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    for small in (whole, resumed):
        small.step(1e-4)
    assert torch.equal(resumed.model.weight, whole.model.weight) and not torch.equal(whole.model.weight, before)
