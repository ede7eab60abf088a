"""What `train` and `evaluate` print, in pipes, terminals and encodings."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")


from learned_resizer_cuda.cli.progress import ProgressLines
from learned_resizer_cuda.train.config import RunConfig
from tests.helpers.failures import Case, Outcome
from tests.helpers.photo_folders import class_folder
from tests.helpers.terminals import CONTROLS, Broken, Terminal, command, stream
from tests.train.test_bad_data import SHORT


@pytest.mark.slow
def test_train_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = class_folder(tmp_path / "data", train=6, val=3)
    original = RunConfig.open_source

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return original(*arguments)

    tests: list[int] = []
    monkeypatch.setattr(RunConfig, "open_source", slow)
    monkeypatch.setattr(ProgressLines, "testing", lambda lines, stage: tests.append(lines._running[stage].step))
    monkeypatch.setattr(ProgressLines.__init__, "__defaults__", (0.01,))
    monkeypatch.setenv("COLUMNS", "20")
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stream(output))
    folder = tmp_path / "run"
    # With workers, so that processes are forked while lines are printed
    assert command(*SHORT, "--data", data, "--num-workers", 2, "--output", folder) == 0
    lines = output.getvalue().decode().splitlines()
    assert lines[0] == f"train: small_cnn on {data}, in {folder}"
    order = (
        r"reading the data \(0:00:00\)",
        r"bilinear 16, seed 0: starts, 6 steps",
        r"bilinear 16, seed 0: step \d of 6.* \(0:00:0\d\)",
        r"bilinear 16, seed 0: ends, 6 steps, test [\d.]+% \(0:00:0\d\)",
        r"writing the report \(0:00:0\d\)",
        r"│ bilinear │     6 │ +[\d.]+ │ +[\d.]+ │ +\d │ +\d │",
        rf"\d+ s\. In {re.escape(str(folder))}: config\.yaml, .*",
    )
    places = [next((at for at, line in enumerate(lines) if re.fullmatch(pattern, line)), None) for pattern in order]
    assert None not in places and places == sorted(places, key=lambda at: at or 0), (places, lines)
    assert tests == [0, 6]
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]

    # Progress of evaluate goes to standard error, and does not disturb the JSON
    errors = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", stream(errors))
    output.seek(0)
    output.truncate()
    assert command("evaluate", folder, "--accelerator", "cpu", "--json") == 0
    assert output.getvalue().startswith(b"[\n")
    lines = errors.getvalue().decode().splitlines()
    told = [line for line in lines if not line.startswith("starting ")]  # on a busy machine, the thread is first
    assert told[0] == f"evaluate: {folder} on {data}"
    assert any(re.fullmatch(r"testing bilinear 16, seed 0, 1 of 1 \(0:00:0\d\)", line) for line in told)


@pytest.mark.slow
def test_train_on_a_narrow_ascii_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folder(tmp_path / "data-\udcff", train=6, val=3)
    for name, value in {"COLUMNS": "40", "LINES": "20", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    output, errors = Terminal(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stream(output, "ascii"))
    monkeypatch.setattr(sys, "stderr", stream(errors, "ascii"))
    folder = tmp_path / "×\udcff"
    assert command(*SHORT, "--arms", "learned", "--seeds", 2, "--data", data, "--output", folder) == 0, (
        errors.getvalue()
    )
    lines = re.split(r"[\r\n]+", CONTROLS.sub("", output.getvalue().decode("ascii")))
    assert lines[0] == rf"train: small_cnn on {tmp_path}/data-\xff, in {tmp_path}/x\xff"
    assert lines[-2].startswith(tuple("0123456789")) and rf"In {tmp_path}/x\xff: config.yaml" in lines[-2]
    assert all(len(line) <= 40 for line in lines[1:-2]), max(lines[1:-2], key=len)
    for seed in (0, 1):
        assert any(re.fullmatch(rf"bilinear 16, seed {seed} 6/6 +test +[\d.]+%", line.rstrip()) for line in lines)
    for pattern in (r"resizer: bilinear", r"  steps: 6", r"  test accuracy, %: [\d.]+ \+/- [\d.]+", r"  CPU s: .*"):
        assert any(re.fullmatch(pattern, line) for line in lines)
    assert rf"small_cnn on {tmp_path}/data-\xff" in (folder / "report.html").read_text(encoding="utf-8")


def test_train_whose_reader_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = class_folder(tmp_path / "data", train=6, val=3)
    broken = Broken(errno.EPIPE, writes=1)
    monkeypatch.setattr(sys, "stdout", stream(io.BufferedWriter(broken)))
    assert command(*SHORT, "--data", data, "--output", tmp_path / "run") == 0
    assert broken.writes < 0 and (tmp_path / "run/summary.json").is_file()


# Cases for the table of tests/helpers/failures.py


def _trained(folder: Path, out: io.TextIOBase, pattern: str) -> Outcome:
    """Trains with that standard output; the answer is its first line that matches, without colours."""
    data = class_folder(folder / "data", train=6, val=3)
    errors = io.StringIO()
    with mock.patch.multiple(sys, stdout=out, stderr=errors):
        code = command(*SHORT, "--seeds", 2, "--data", data, "--output", folder / "run")
    binary = getattr(out, "buffer", None)
    written = binary.getvalue().decode(out.encoding) if isinstance(binary, io.BytesIO) else ""  # type: ignore[arg-type]
    lines = re.split(r"[\r\n]+", CONTROLS.sub("", written)) + errors.getvalue().splitlines()
    found = next((line.strip() for line in lines if re.search(pattern, line)), "")
    figures = re.sub(r"\d+\.\d", "F", re.sub(r"\d+:\d\d:\d\d", "TIME", found))
    complete = all((folder / "run" / name).is_file() for name in ("summary.json", "report.html", "metrics.csv"))
    return Outcome(code, figures, "the whole run" if complete else "a part of the run")


def _narrow(folder: Path) -> Outcome:
    with mock.patch.dict(os.environ, {"COLUMNS": "40", "LINES": "20", "TERM": "xterm"}):
        return _trained(folder, stream(Terminal()), "test accuracy, %: ")


CASES = [
    *(
        Case(
            f"train, printing to {encoding}",
            lambda folder, encoding=encoding: _trained(folder, stream(io.BytesIO(), encoding), r"±|\+/-"),
            0,
            shown,
            "the whole run",
        )
        for encoding, shown in (("ascii", "F +/- F"), ("latin-1", "F ± F"), ("utf-8", "F ± F"))
    ),
    Case("train on a terminal of 40 columns", _narrow, 0, "test accuracy, %: F ± F", "the whole run"),
    Case(
        "train in a pipe: besides, a line every 30 s",
        lambda folder: _trained(folder, stream(io.BytesIO()), "ends"),
        0,
        "bilinear 16, seed 0: ends, 6 steps, test F% (TIME)",
        "the whole run",
    ),
    Case(
        "train, whose reader goes away",
        lambda folder: _trained(folder, stream(io.BufferedWriter(Broken(errno.EPIPE, 1))), "."),
        0,
        "",
        "the whole run",
    ),
    Case(
        "train, printing to a full disk",
        lambda folder: _trained(folder, stream(io.BufferedWriter(Broken(errno.ENOSPC))), "."),
        1,
        "learned-resizer: cannot write to standard output: No space left on device",
        "the whole run",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)
