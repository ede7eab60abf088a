"""Two processes on a CPU reach the loss curve of one with the joint batch: started by Lightning, and by torchrun."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from tests.photo_folders import class_folder

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch was built without gloo"
)

SETTINGS = (
    *("train", "--model", "small_cnn", "--size", "8", "--input-size", "16", "--arms", "learned,control"),
    *("--steps", "12", "--batch-size", "8", "--evaluations", "2", "--optimizer", "sgd", "--schedule", "constant"),
    *("--learning-rate", "0.02", "--fine-tune-learning-rate", "0.02", "--accelerator", "cpu", "--normalize"),
)
MODULE = ("-m", "learned_resizer_cuda")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *MODULE)


def run(folder: Path, data: Path, *arguments: str, start: tuple[str, ...] = MODULE) -> list[dict[str, str]]:
    """The rows of metrics.csv of a run in processes of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, *start, *SETTINGS, "--data", str(data), *arguments, "--output", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Within 1e-4, the bar; in 24 steps of float32 sums in another order differ by some 1e-6. An odd number of test
    images: the two processes test unequally many."""
    data = class_folder(tmp_path / "data", train=7, val=3)
    (data / "train/bee/2.png").write_bytes(b"no image")  # each process meets its own; they are counted together
    alone = run(tmp_path / "one", data)
    for name, start in (("lightning", MODULE), ("torchrun", TORCHRUN)):
        both = run(tmp_path / name, data, "--devices", "2", start=start)
        assert len(alone) == len(both) == 3 * (12 + 3)
        for one, other in zip(alone, both, strict=True):
            where = [(row["arm"], row["split"], row["step"]) for row in (one, other)]
            assert where[0] == where[1]
            assert abs(float(one["loss"]) - float(other["loss"])) <= 1e-4, (name, where[0])
            assert one["accuracy"] == other["accuracy"], (name, where[0])
        lines = (tmp_path / name / "unreadable.tsv").read_text().splitlines()
        assert len(lines) == 1 and "2.png" in lines[0]
        assert json.loads((tmp_path / name / "summary.json").read_text())["config"]["devices"] == 2
    # Losses moved, so that equal ones say something.
    losses = [float(row["loss"]) for row in alone if row["arm"] == "bilinear" and row["split"] == "train"]
    assert max(losses) - min(losses) > 0.01
