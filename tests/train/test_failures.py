"""Damaged run folders, full disks, signals, wrong clocks and strange names: how a training ends, and goes on."""

from __future__ import annotations

import atexit
import contextlib
import csv
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import psutil
import torch
from safetensors.torch import load_file, save_file

from learned_resizer_cuda.atomic import atomic_bytes
from learned_resizer_cuda.report import write
from learned_resizer_cuda.train import run
from learned_resizer_cuda.train import run_folder as folder_module
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.module import JointTraining
from learned_resizer_cuda.train.run_folder import LOCK, FolderInUseError, RunFolder
from tests.helpers.failures import Case, Outcome, command, names, remount, small_disk
from tests.helpers.gloo_processes import needs_gloo
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
    with before(JointTraining, "training_step", LATE, partial(signal.raise_signal, signal.SIGTERM)):
        code, printed = train(shared() / "interrupted")
    assert code == 143, printed
    assert (shared() / "interrupted" / LAST / "last.ckpt").is_file()
    return shared() / "interrupted"


def same_bits(folder: Path) -> str:
    """What differs from an undisturbed run, in words."""
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
    """The same command, and what it comes to."""
    code, printed = train(folder, *arguments)
    if code or "going on with train" not in printed:
        return printed
    left = [name for name in names(folder) if name.endswith((".part", ".ckpt", LOCK))]
    return f"{left} left" if left else same_bits(folder)


def unreported() -> Path:
    """A run that was stopped in its report."""
    folder = Path(tempfile.mkdtemp(dir=shared())) / "run"
    shutil.copytree(finished(), folder)
    (folder / "summary.json").unlink()
    return folder


@cache
def automatic() -> Path:
    """An interrupted run that has found its batch size itself."""
    folder = shared() / "automatic"
    shutil.copytree(interrupted(), folder)
    replace(RunConfig.load(folder / "config.yaml"), batch_size="auto").save(folder / "config.yaml")
    (folder / "batch-sizes.json").write_text('{"12": 4}')
    return folder


# Damaged files


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit of what a disk holds, in a tensor."""
    data = bytearray(path.read_bytes())
    data[data.index(b"state_dict") + len(data) // 2] ^= 1
    path.write_bytes(data)


def damaged(name: str, spoil: Callable[[Path], object], start: Callable[[], Path] = interrupted) -> Case:
    """A row: ``spoil`` gets the file ``name`` of a run that goes on, or of a finished one that is evaluated."""

    def act(folder: Path) -> Outcome:
        path = folder / "run" / name
        shutil.copytree(start(), folder / "run")
        spoil(path)
        held = contents(folder)
        if start is finished:
            code, printed = command("evaluate", folder / "run", "--accelerator", "cpu")
        else:
            code, printed = train(folder / "run", *(("--batch-size", "auto") if start is automatic else ()))
        kept = "all of it" if contents(folder) == held else "something else"
        return Outcome(code, printed.splitlines()[-1], kept)

    how = {cut: "cut off", flip: "with one bit changed"}.get(spoil, "that holds something else")
    what = "is evaluated" if start is finished else "goes on"
    return Case(f"{name} {how}, of a run that {what}", act, 1, f"FOLDER/run/{name} is damaged", "all of it")


def foreign(path: Path) -> None:
    """The weights of another module."""
    save_file({"weight": torch.zeros(1)}, path)


def _without_tab(path: Path) -> None:
    path.write_text("a\nb\n")


# Full disks


def full(what: str, options: str, name: str, more: str = "size=64m,nr_inodes=1000") -> Case:
    """A row: a disk of so much space, on which the file ``name`` is the first that does not fit."""

    def act(folder: Path) -> Outcome:
        finished()
        with small_disk(folder / "disk", options):
            code, printed = train(folder / "disk/run")
            parts = [name for name in names(folder) if name.endswith(".part")]
            remount(folder / "disk", more)
            # What had nothing to go on with has left nothing
            done, told = train(folder / "disk/run")
            assert done == 0, told
            left = same_bits(folder / "disk/run")
        return Outcome(
            code, printed.splitlines()[-1], f"no temporary file; with more space {left}" if not parts else str(parts)
        )

    answer = (
        f"cannot write FOLDER/disk/run/{name}: No space left on device; free some space, then the same command goes on"
    )
    return Case(what, act, 1, answer, "no temporary file; with more space the same bits", mounts=True)


def _read_only(folder: Path) -> Outcome:
    with small_disk(folder / "disk", "size=64m"):
        shutil.copytree(interrupted(), folder / "disk/run")
        remount(folder / "disk", "ro")
        code, printed = train(folder / "disk/run")
        remount(folder / "disk", "rw")
        return Outcome(code, printed, f"made writable again, {again(folder / 'disk/run')}")


# Signals


def _everywhere(number: int) -> None:
    """As a terminal sends it: to this process and to its workers."""
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, number)
    signal.raise_signal(number)


def stopped(what: str, owner: Any, name: str, number: int, sent: signal.Signals, *arguments: object) -> Case:
    """A row: the signal comes before the ``number``-th call of a function or method."""
    told = "Ctrl-C" if sent is signal.SIGINT else sent.name

    def act(folder: Path) -> Outcome:
        finished()
        start = time.monotonic()
        with before(owner, name, number, partial(_everywhere, sent)):
            code, printed = train(folder / "run", *arguments)
        assert time.monotonic() - start < 20
        orphans = [worker for worker in multiprocessing.active_children() if worker.is_alive()]
        parts = [name for name in names(folder) if name.endswith((".part", LOCK))]
        assert not orphans and not parts
        lines = [line for line in printed.splitlines() if "seed 0" not in line]  # progress bars
        return Outcome(code, "\n".join(lines), f"going on, {again(folder / 'run', *arguments)}")

    answer = f"learned-resizer train: stopped by {told}; the same command goes on from here"
    return Case(f"{told} {what}", act, 128 + sent, answer, "going on, the same bits")


def _swallowed() -> None:
    """What torch makes of an exception while it asks a sequence for its length."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)
    raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")


def _stopped_in_c(folder: Path) -> Outcome:
    finished()
    with before(run, "WeightsFile", 1, _swallowed):
        code, printed = train(folder / "run")
    return Outcome(code, printed.splitlines()[-1], f"going on, {again(folder / 'run')}")


# Folders, locks and clocks


def _planted_link(folder: Path) -> Outcome:
    (folder / "mine.txt").write_text("mine")
    (folder / "run").mkdir()
    (folder / "run" / LOCK).symlink_to(folder / "mine.txt")
    code, printed = train(folder / "run")
    return Outcome(code, printed, (folder / "mine.txt").read_text())


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    former = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(former)


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


def _chosen_folder(folder: Path) -> Outcome:
    with working_in(folder):
        with before(JointTraining, "training_step", 5, partial(signal.raise_signal, signal.SIGTERM)):
            code, printed = train(None)
        again, told = train(None)
    assert again == 0 and "going on with train" in told and "in runs/" in told
    return Outcome(code, printed, f"going on, {same_bits(next((folder / 'runs').iterdir()))}")


# Data


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
    replace(
        damaged("stages/bilinear-12-seed0/network.safetensors", foreign),
        answer="FOLDER/run/stages/bilinear-12-seed0/network.safetensors is of another configuration; delete",
    ),
    damaged(f"{LAST}/last.ckpt", cut),
    damaged(f"{LAST}/last.ckpt", flip),
    damaged(f"{LAST}/last.ckpt", lambda path: path.write_bytes(b"")),
    damaged(f"{LAST}/metrics.csv", cut),
    damaged(f"{STAGE}/metrics.csv", cut),
    damaged(f"{STAGE}/metrics.csv", lambda path: path.write_text("a,b\n1\n")),
    damaged(f"{STAGE}/result.json", cut),
    damaged(f"{STAGE}/result.json", lambda path: path.write_text('{"steps": "6"}')),
    damaged(f"{STAGE}/network.safetensors", cut),
    damaged(f"{LAST}/network.safetensors", cut, unreported),
    damaged(f"{LAST}/resizer.safetensors", cut, unreported),
    damaged("config.yaml", lambda path: path.write_text("seeds: many")),
    damaged("unreadable.tsv", _without_tab),
    damaged("batch-sizes.json", lambda path: path.write_text('{"12": 3, "24"'), automatic),
    damaged(f"{STAGE}/network.safetensors", cut, finished),
    damaged(f"{LAST}/resizer.safetensors", cut, finished),
    damaged("config.yaml", cut, finished),
    full("no space for the configuration", "nr_inodes=3", "config.yaml"),
    full("no space for figures", "size=4k", f"{STAGE}/metrics.csv"),
    full("no space for a checkpoint", "size=500k", f"{STAGE}/last.ckpt"),
    full("no space for a later checkpoint", "size=1700k", f"{LAST}/last.ckpt"),
    full("no inode for a stage", "nr_inodes=5", STAGE),
    full("no inode for what a stage has come to", "nr_inodes=10", f"{STAGE}/result.json"),
    full("no inode for a resizer", "nr_inodes=14", f"{LAST}/resizer.safetensors"),
    full("no inode for a picture", "nr_inodes=16", "curves.png"),
    Case(
        "a file system that has become read-only",
        _read_only,
        1,
        "cannot write FOLDER/disk/run/.lock: Read-only file system; make the file system writable, then",
        "made writable again, the same bits",
        mounts=True,
    ),
    stopped("in a step", JointTraining, "training_step", 5, signal.SIGINT),
    stopped("in a step, with a worker", JointTraining, "training_step", 8, signal.SIGINT, "--num-workers", 1),
    stopped("in a step", JointTraining, "training_step", LATE, signal.SIGHUP),
    stopped("between two stages", run, "build_models", 2, signal.SIGTERM),
    stopped("while a stage is kept", run, "save_resizer", 1, signal.SIGHUP),
    stopped("in the report", write, "save_page", 1, signal.SIGINT),
    Case(
        "SIGTERM in a call that raises another error for it",
        _stopped_in_c,
        143,
        "learned-resizer train: stopped by SIGTERM; the same command goes on from here",
        "going on, the same bits",
    ),
    Case(
        "SIGTERM in a folder that was chosen by the time",
        _chosen_folder,
        143,
        "stopped by SIGTERM; the same command goes on from here, in runs/20",
        "going on, the same bits",
    ),
    Case("a link planted as the lock", _planted_link, 2, "output: FOLDER/run/.lock is a link; expected a file", "mine"),
    Case(
        "a clock set back: the unfinished run goes on",
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


@pytest.mark.parametrize(
    ("name", "start"),
    [
        (f"{LAST}/last.ckpt", interrupted),
        (f"{STAGE}/metrics.csv", interrupted),
        (f"{LAST}/network.safetensors", unreported),
        (f"{STAGE}/network.safetensors", finished),
        ("unreadable.tsv", interrupted),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_the_message_says_helps(name: str, start: Callable[[], Path], tmp_path: Path) -> None:
    shutil.copytree(start(), tmp_path / "run")
    (tmp_path / "run" / name).write_text("damaged\n")
    if start is finished:
        code, printed = command("evaluate", tmp_path / "run", "--accelerator", "cpu")
    else:
        code, printed = train(tmp_path / "run")
    told = re.search(r"; delete (.*), then", printed)
    assert code == 1 and told is not None, printed
    for path in [tmp_path / "run" / name] if told[1] == "it" else map(Path, told[1].split(" and ")):
        assert path.is_relative_to(tmp_path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again(tmp_path / "run") == "the same bits"


def test_a_lock_that_its_holder_takes_away_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process waits, the holder ends, a third one starts: the second and the third may not both work there."""
    monkeypatch.setattr(folder_module, "PATIENCE", 0.0)
    config, held = RunConfig.make({}), []

    def end_and_start() -> None:
        (tmp_path / "run" / LOCK).unlink()
        held.append(RunFolder(tmp_path / "run", config))

    with before(fcntl, "flock", 1, end_and_start), pytest.raises(FolderInUseError):
        RunFolder(tmp_path / "run", config)
    held[0].close()


def two_processes(output: Path) -> subprocess.Popen[str]:
    """The command in two processes, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    arguments = ("train", "--data", shared() / "data", *SETTINGS, "--devices", 2, "--steps", 60, "--output", output)
    words = [sys.executable, "-m", "learned_resizer_cuda", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@cache
def finished_by_two() -> Path:
    """What two processes come to that nothing has disturbed."""
    process = two_processes(shared() / "two")
    printed = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return shared() / "two"


@pytest.mark.slow
@needs_gloo
@pytest.mark.parametrize(
    ("sent", "to_all", "when"),
    [
        (signal.SIGINT, True, "step"),
        (signal.SIGTERM, False, "step"),
        (signal.SIGHUP, True, "stage"),
        (signal.SIGINT, True, "start"),
    ],
)
def test_two_processes_end_together(sent: signal.Signals, to_all: bool, when: str, tmp_path: Path) -> None:
    """Ctrl-C in a terminal goes to both, SIGTERM of a scheduler to the first one."""
    process = two_processes(tmp_path / "run")

    def due() -> bool:
        if when == "start":  # the second one is being started
            others = psutil.Process(process.pid).children()
            return any(other.environ().get("LOCAL_RANK") == "1" for other in others)
        if when == "stage":
            return any(tmp_path.rglob("result.json"))
        return any(path.read_text().count("\n") > 10 for path in tmp_path.rglob("metrics.csv"))

    deadline = time.monotonic() + 120
    while not due():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    others = psutil.Process(process.pid).children(recursive=True)
    (os.killpg if to_all else os.kill)(process.pid, sent)
    _, printed = process.communicate(timeout=60)
    told = "Ctrl-C" if sent is signal.SIGINT else sent.name
    assert printed.splitlines() == [f"learned-resizer train: stopped by {told}; the same command goes on from here"]
    assert process.returncode == 128 + sent
    assert others and not psutil.wait_procs(others, timeout=1)[1]
    assert not [name for name in names(tmp_path) if name.endswith((".part", LOCK))]

    process = two_processes(tmp_path / "run")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "going on with train" in printed or when == "start"
    for path in finished_by_two().glob("stages/*/*.safetensors"):
        one, other = load_file(path), load_file(tmp_path / "run" / path.relative_to(finished_by_two()))
        assert all(torch.equal(one[name], other[name]) for name in one)
