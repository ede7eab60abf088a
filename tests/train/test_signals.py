"""Ctrl-C, SIGTERM and SIGHUP: how a training ends, and how it resumes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import psutil
import torch
from safetensors.torch import load_file

from learned_resizer_cuda.report import write
from learned_resizer_cuda.train import network_file, run
from learned_resizer_cuda.train.run_folder import LOCK
from learned_resizer_cuda.train.tasks import Classification
from tests.helpers.failures import Case, Outcome, names
from tests.helpers.gloo_processes import needs_gloo
from tests.helpers.interrupted_runs import LATE, SETTINGS, again, before, finished, same_bits, shared, train, working_in

pytestmark = pytest.mark.usefixtures("signals_count")


def _everywhere(number: int) -> None:
    """Sends a signal as a terminal does: to this process and to its workers."""
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
        return Outcome(code, "\n".join(lines), f"resumed, {again(folder / 'run', *arguments)}")

    answer = f"learned-resizer train: stopped by {told}; the same command resumes from here"
    return Case(f"{told} {what}", act, 128 + sent, answer, "resumed, the same bits")


def _swallowed() -> None:
    """Replaces the signal's exception by another, as torch does while it asks a sequence for its length."""
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)
    raise ValueError("could not determine the shape of object type 'torch.storage.UntypedStorage'")


def _stopped_in_c(folder: Path) -> Outcome:
    finished()
    with before(network_file, "WeightsFile", 1, _swallowed):
        code, printed = train(folder / "run")
    return Outcome(code, printed.splitlines()[-1], f"resumed, {again(folder / 'run')}")


def _chosen_folder(folder: Path) -> Outcome:
    with working_in(folder):
        with before(Classification, "correct", 5, partial(signal.raise_signal, signal.SIGTERM)):
            code, printed = train(None)
        again, told = train(None)
    assert again == 0 and "resuming train" in told and "in runs/" in told
    return Outcome(code, printed, f"resumed, {same_bits(next((folder / 'runs').iterdir()))}")


CASES: Sequence[Case] = [
    stopped("in a step", Classification, "correct", 5, signal.SIGINT),
    stopped("in a step, with a worker", Classification, "correct", 8, signal.SIGINT, "--num-workers", 1),
    stopped("in a step", Classification, "correct", LATE, signal.SIGHUP),
    stopped("between two stages", run, "build_models", 2, signal.SIGTERM),
    stopped("while a stage is kept", run, "save_resizer", 1, signal.SIGHUP),
    stopped("in the report", write, "save_page", 1, signal.SIGINT),
    Case(
        "SIGTERM in a call that raises another error for it",
        _stopped_in_c,
        143,
        "learned-resizer train: stopped by SIGTERM; the same command resumes from here",
        "resumed, the same bits",
    ),
    Case(
        "SIGTERM in a folder that was chosen by the time",
        _chosen_folder,
        143,
        "stopped by SIGTERM; the same command resumes from here, in runs/20",
        "resumed, the same bits",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


def two_processes(output: Path) -> subprocess.Popen[str]:
    """The command in two processes, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    arguments = ("train", "--data", shared() / "data", *SETTINGS, "--devices", 2, "--steps", 60, "--output", output)
    words = [sys.executable, "-m", "learned_resizer_cuda", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


@cache
def finished_by_two() -> Path:
    """An undisturbed run of two processes."""
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
    assert printed.splitlines() == [f"learned-resizer train: stopped by {told}; the same command resumes from here"]
    assert process.returncode == 128 + sent
    assert others and not psutil.wait_procs(others, timeout=1)[1]
    assert not [name for name in names(tmp_path) if name.endswith((".part", LOCK))]

    process = two_processes(tmp_path / "run")
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "resuming train" in printed or when == "start"
    for path in finished_by_two().glob("stages/*/*.safetensors"):
        one, other = load_file(path), load_file(tmp_path / "run" / path.relative_to(finished_by_two()))
        assert all(torch.equal(one[name], other[name]) for name in one)
