"""Run folders with planted links, wrong clocks, other processes and strange names."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.train import run_folder as folder_module
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.run_folder import LOCK, FolderInUseError, RunFolder
from tests.helpers.failures import Case, Outcome, command
from tests.helpers.interrupted_runs import (
    SETTINGS,
    before,
    contents,
    finished,
    interrupted,
    same_bits,
    train,
    working_in,
)
from tests.helpers.photo_folders import class_folder


def _planted_link(folder: Path) -> Outcome:
    (folder / "mine.txt").write_text("mine")
    (folder / "run").mkdir()
    (folder / "run" / LOCK).symlink_to(folder / "mine.txt")
    code, printed = train(folder / "run")
    return Outcome(code, printed, (folder / "mine.txt").read_text())


class SetBack(datetime):
    """A clock that stands still in the past."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(2001, 2, 3, 4, 5, 6)


def _set_back(folder: Path) -> Outcome:
    """The run was made in what is now the future, and one of another configuration seems to be newer still."""
    for name, days in (("2099-01-01-000000", 10_000), ("2099-01-02-000000", 20_000)):
        shutil.copytree(interrupted(), folder / "runs" / name)
        changed = time.time() + days * 86_400
        os.utime(folder / "runs" / name / "config.yaml", (changed, changed))
    other = folder / "runs/2099-01-02-000000/config.yaml"
    other.write_text(other.read_text().replace("seed: 0", "seed: 7"))
    held = contents(other.parent)
    with working_in(folder), patch.object(folder_module, "datetime", SetBack):
        code, printed = train(None)
    kept = sorted(path.name for path in (folder / "runs").iterdir()), contents(other.parent) == held
    assert kept == (["2099-01-01-000000", "2099-01-02-000000"], True)
    return Outcome(code, printed, same_bits(folder / "runs/2099-01-01-000000"))


def _taken_name(folder: Path) -> Outcome:
    with working_in(folder), patch.object(folder_module, "datetime", SetBack):
        shutil.copytree(finished(), folder / "runs/2001-02-03-040506")
        held = contents(folder / "runs")
        code, printed = train(None)
        kept = all((folder / "runs" / name).read_bytes() == data for name, data in held.items())
    return Outcome(code, printed, ", ".join(sorted(path.name for path in (folder / "runs").iterdir())) if kept else "")


def _two_at_once(folder: Path) -> Outcome:
    """The second command has chosen its folder, and trains, before the first one has made anything of its own."""
    inner = []
    with (
        working_in(folder),
        patch.object(folder_module, "datetime", SetBack),
        before(RunFolder, "__init__", 1, lambda: inner.append(train(None))),
    ):
        code, printed = train(None)
    assert inner[0][0] == 0, inner
    return Outcome(code, printed, ", ".join(sorted(path.name for path in (folder / "runs").iterdir())))


def _strange_names(folder: Path) -> Outcome:
    """Bytes that are not UTF-8, in the names of the data's folder, a class and an image."""
    data = class_folder(folder / os.fsdecode(b"da\xfeta"), train=6, val=3)
    for split in ("train", "val"):
        (data / split / "ant").rename(data / split / os.fsdecode(b"\xff"))
    (data / "train" / os.fsdecode(b"\xff") / os.fsdecode(b"\xfd.png")).write_bytes(b"no image")
    code, printed = command("train", "--data", data, *SETTINGS, "--output", folder / "run")
    unreadable = (folder / "run/unreadable.tsv").read_bytes().partition(b"\t")[0]
    assert unreadable == os.fsencode(folder) + b"/da\xfeta/train/\xff/\xfd.png"
    assert json.loads((folder / "run/summary.json").read_text())["config"]["data"] == str(data)
    assert r"da\xfeta" in (folder / "run/report.html").read_text(encoding="utf-8")
    return Outcome(code, printed, ", ".join(name for name in os.listdir(folder / "run") if name.startswith("sa")))


CASES: Sequence[Case] = [
    Case(
        "a link planted as the lock",
        _planted_link,
        2,
        "output: FOLDER/run/.lock is a link; expected a lock file",
        "mine",
    ),
    Case(
        "a clock set back: the unfinished run is resumed",
        _set_back,
        0,
        "in runs/2099-01-01-000000",
        "the same bits",
    ),
    Case(
        "a clock set back to the time of a finished run",
        _taken_name,
        0,
        "In runs/2001-02-03-040506-2: ",
        "2001-02-03-040506, 2001-02-03-040506-2",
    ),
    Case(
        "two commands in the same second",
        _two_at_once,
        0,
        "In runs/2001-02-03-040506: ",
        "2001-02-03-040506, 2001-02-03-040506-2",
    ),
    Case("names that are not UTF-8", _strange_names, 0, "report.html", "samples.png"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


def test_a_lock_that_its_holder_takes_away_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process waits, the holder ends, a third one starts: the second and the third may not both work there."""
    monkeypatch.setattr(folder_module, "PATIENCE", 0.0)
    config, held = RunConfig.make({}), []

    def end_and_start() -> None:
        (tmp_path / "run" / LOCK).unlink()
        held.append(RunFolder(tmp_path / "run", config))

    # filelock's first call tries whether the file system has locks
    with before(fcntl, "flock", 2, end_and_start), pytest.raises(FolderInUseError):
        RunFolder(tmp_path / "run", config)
    held[0].close()
