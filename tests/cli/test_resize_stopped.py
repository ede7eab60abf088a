"""`learned-resizer resize`, stopped or killed at any moment."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

import torch

from tests.helpers.failures import Case, Outcome
from tests.helpers.resize_command import before_encoding, held, level_of, photo, resized, state

KILLS = 200


def _signalled(number: int, folder: Path) -> Outcome:
    for name in "abc":
        photo(folder / f"in/{name}.png")
    out = folder / "out"
    with before_encoding(lambda picture: (out / "a.png").exists() and os.kill(os.getpid(), number)):
        code, answer = resized(folder / "in", "--output", out)
    return Outcome(code, answer, held(out))


def _signalled_while_writing(folder: Path) -> Outcome:
    """The current picture is finished and counted."""
    for name in "abc":
        photo(folder / f"in/{name}.png")
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        os.kill(os.getpid(), signal.SIGTERM)
        # A second signal would end the process at once
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with mock.patch.object(os, "fsync", flush):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _hung_up(folder: Path) -> Outcome:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return _signalled(signal.SIGHUP, folder)
    finally:
        signal.signal(signal.SIGHUP, former)


def _killed(folder: Path, kills: int = KILLS) -> Outcome:
    suffixes = ("jpg", "png", "tif", "bmp")
    for number in range(12):
        photo(folder / f"{number:02}.{suffixes[number % 4]}", 150, level=20 * number)
    moments = random.Random(0)
    damaged = leftovers = 0
    for turn in range(kills):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                torch.set_num_threads(1)
                while True:
                    for size in (150, 151):
                        resized(folder, "--output", folder, "--overwrite", size=size + 2 * (turn % 2))
            os._exit(0)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            right = state(path) in [f"whole, {side}x{side}" for side in range(150, 154)]
            damaged += not (right and abs(level_of(path) - 20 * int(path.stem)) <= 1)  # a level of JPEG
        leftovers += sum(path.name.startswith(".") for path in folder.iterdir())
    code, answer = resized(folder, "--output", folder, "--overwrite")
    hidden = sum(path.name.startswith(".") for path in folder.iterdir())
    return Outcome(code, answer, f"{damaged} damaged originals; {hidden} temporary files after the next run")


CASES = [
    *(
        Case(
            f"resize is stopped by {name}",
            partial(_signalled, number),
            128 + number,
            f"learned-resizer resize: stopped by {name}\n1 resized, 0 skipped, 2 left",
            "a.png whole, 20x20",
        )
        for name, number in (("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM), ("SIGHUP", signal.SIGHUP))
    ),
    Case(
        "by SIGTERM while it writes the first",
        _signalled_while_writing,
        143,
        "learned-resizer resize: stopped by SIGTERM\n1 resized, 0 skipped, 2 left",
        "a.png whole, 20x20",
    ),
    Case(
        "SIGHUP under nohup",
        _hung_up,
        0,
        "3 resized, 0 skipped",
        "a.png whole, 20x20, b.png whole, 20x20, c.png whole, 20x20",
    ),
    Case(
        f"killed {KILLS} times at random moments, in place",
        _killed,
        0,
        "12 resized, 0 skipped",
        "0 damaged originals; 0 temporary files after the next run",
    ),
]


@pytest.mark.usefixtures("signals_count")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=case.what, marks=pytest.mark.slow if case.act is _killed else ()) for case in CASES],
)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)
