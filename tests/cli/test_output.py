"""What commands print: in every encoding and width, to readers that go away, and in pipes while they work."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

from rich.console import Console

from learned_resizer_cuda.cli.heartbeat import Heartbeat
from learned_resizer_cuda.cli.main import COMMANDS, main
from learned_resizer_cuda.cli.progress import ProgressBars, ProgressLines, progress
from learned_resizer_cuda.cli.streams import take_every_text
from learned_resizer_cuda.report.tables import Table, ablation_table, arms_table, epochs_table, evaluation_table
from learned_resizer_cuda.report.terminal import open_console, print_summary, print_table
from learned_resizer_cuda.substitutes import ERRORS, printable
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.evaluate import Evaluation
from learned_resizer_cuda.train.protocol import Front, Stage
from learned_resizer_cuda.train.results import ACCURACY, Row, StageResult
from tests.helpers.failures import Case, Outcome
from tests.helpers.photo_folders import class_folder
from tests.report.test_summary import result, summary_of
from tests.train.test_bad_data import SHORT

ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")
WIDTHS = (20, 30, 40, 60, 80, 120, 200)
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Broken(io.RawIOBase):
    """Takes so many writes; then there is no space, or no reader."""

    def __init__(self, code: int, writes: int = 0) -> None:
        self.code, self.writes = code, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise OSError(self.code, os.strerror(self.code))
        return len(data)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def stream(binary: Any, encoding: str = "utf-8") -> io.TextIOWrapper:
    """As Python's own standard output: it raises where the encoding lacks a sign."""
    return io.TextIOWrapper(binary, encoding, "strict")


def command(*arguments: object) -> int:
    """The exit code of a command line."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def console(width: int, encoding: str = "utf-8", terminal: bool = True) -> tuple[Console, Callable[[], list[str]]]:
    """A console of that width, and what gives the lines that are on it."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, ERRORS)
    made = Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)

    def lines() -> list[str]:
        file.flush()
        return CONTROLS.sub("", file.buffer.getvalue().decode(encoding)).splitlines()  # type: ignore[attr-defined]

    return made, lines


# --- encodings, and readers that go away ------------------------------------------------------------------


def test_substitutes() -> None:
    text = "96×96 → 16: +1.0 ± 2.0, −3 … é\udcff"
    assert printable(text, "ascii") == r"96x96 -> 16: +1.0 +/- 2.0, -3 ... \xe9\xff"
    assert printable(text, "latin-1") == r"96×96 -> 16: +1.0 ± 2.0, -3 ... é\xff"
    assert printable(text, "utf-8") == text.replace("\udcff", r"\xff")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_help_is_whole_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMMANDS:
        output = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", stream(output, encoding))
        assert command(name, "--help") == 0
        text = output.getvalue().decode(encoding)
        assert "\\" not in text and "─" not in text
        if name == "train":
            words = ("--fine-tune-learning-rate ", "--recalibration-batches ", "bilinear,bicubic,learned,blind,control")
            assert all(word in text for word in words)
            assert "[bilinear, bicubic, lanczos]" in " ".join(text.split())
            assert [line for line in text.splitlines() if line.startswith("Training")]


def test_usage_errors_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (("train", "--schritte", "×\udcff"), ("×\udcff",)):
        errors = io.BytesIO()
        monkeypatch.setattr(sys, "stderr", stream(errors, "ascii"))
        assert command(*arguments) == 2
        assert errors.getvalue().isascii() and errors.getvalue().count(b"\n") >= 1


@pytest.mark.parametrize("arguments", [("info",), ("--help",), ("train", "--help"), ("--version",)])
@pytest.mark.parametrize(("code", "ends"), [(errno.ENOSPC, 1), (errno.EIO, 1), (errno.EPIPE, 0)])
def test_output_that_cannot_be_written(
    arguments: tuple[str, ...],
    code: int,
    ends: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdout", stream(io.BufferedWriter(Broken(code))))
    assert command(*arguments) == ends
    told = f"learned-resizer: cannot write to standard output: {os.strerror(code)}\n" if ends else ""
    assert capsys.readouterr().err == told


def test_a_failing_command_keeps_its_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdout", stream(io.BufferedWriter(Broken(errno.ENOSPC))))
    with pytest.raises(SystemExit) as end, take_every_text():
        print("something")
        raise SystemExit(143)
    assert end.value.code == 143
    with pytest.raises(KeyError), take_every_text():
        print("something")
        raise KeyError
    assert capsys.readouterr().err == ""


def test_closed_streams(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", None)
        assert command("--help") == 0
    with monkeypatch.context() as context:
        context.setattr(sys, "stderr", None)
        assert command("retrain") == 2
    assert capsys.readouterr() == ("", "")  # what is meant for standard error does not go elsewhere


def test_a_closed_descriptor_and_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """In the C locale. The first file that the command opens must not become its standard output."""
    script = (
        "import os, sys\n"
        "from learned_resizer_cuda.cli.main import main\n"
        "try:\n"
        "    main(['train', '--config', sys.argv[1]])\n"
        "finally:\n"
        "    print(os.path.samestat(os.fstat(1), os.stat(os.devnull)), file=sys.stderr)\n"
    )
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["sh", "-c", 'exec "$0" "$@" >&-', sys.executable, "-c", script, b"run-\xff"]
    done = subprocess.run(words, cwd=tmp_path, stderr=subprocess.PIPE, env=os.environ | plain, check=False)
    assert done.returncode == 2
    line, occupied = done.stderr.splitlines()
    assert line == rb"learned-resizer train: config: no such file: run-\xff"
    assert occupied == b"True"


def test_a_full_pipe_that_does_not_block_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = os.pipe()
    os.set_blocking(target, False)
    read = bytearray()

    def reader() -> None:
        time.sleep(0.1)
        while part := os.read(source, 1 << 16):
            read.extend(part)

    thread = threading.Thread(target=reader)
    thread.start()
    with open(target, "wb") as binary:
        monkeypatch.setattr(sys, "stdout", stream(binary))
        with take_every_text():
            print("x" * 300_000)
        monkeypatch.undo()
    thread.join()
    os.close(source)
    assert len(read) == 300_001


# --- widths -----------------------------------------------------------------------------------------------


def stage(arm: str, input_size: int = 224, steps: int = 4000, seed: int = 0) -> Stage:
    return Stage(arm, seed, input_size, steps, 0.1, Front("fixed", "bilinear"))


def row_of(arm: str, value: float) -> Row:
    return Row(arm, 0, 224, 2000, 1.0, "test", 1.0, 0.1, 1.0, 1.0, {"accuracy": value})


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("width", WIDTHS)
def test_bars_fit(width: int, encoding: str) -> None:
    for one in (stage("bilinear"), stage("control-long", 1024, 100_000, 12)):
        screen, lines = console(width, encoding)
        with ProgressBars(screen) as bars:
            bars.start(one)
            bars.step(one.steps // 2)
            bars.tested(row_of(one.arm, 1.0))
            screen.print(bars._bars.make_tasks_table(bars._bars.tasks))
            screen.print("-- end")
            screen.file.flush()
        # The last one: a busy machine draws earlier ones, before the test or of another second.
        line = [line.rstrip() for line in lines() if f"{one.steps // 2}/{one.steps}" in line][-1]
        assert all(len(line) <= width for line in lines())
        assert line.startswith(one.arm[:2]) and (width < 30 or f"{one.seed} " in line)
        whole = f"{one.arm} {one.input_size}, seed {one.seed}"
        assert whole in line or printable("…", encoding) in line
        if width >= 40:
            assert line.count("-" if encoding == "ascii" else "━") >= 2  # a half of at least five
        if width >= 60:
            assert whole in line and "test 100.0%" in line


def test_a_finished_stage_keeps_its_line() -> None:
    """Above the bar that moves: bars of thirty stages would not fit the screen, and hide the last one."""
    for width in (40, 100):
        screen, lines = console(width)
        with ProgressBars(screen) as bars:
            bars.found(result("bilinear", 0.25, seed=99))
            for seed in range(30):
                bars.start(stage("learned", 96, 400, seed))
                bars.testing()
                bars.finish(result("learned", 0.5, seed))
                assert not bars._bars.tasks
            bars.doing("writing the report")
        text = "\n".join(lines())
        for seed in range(30):
            assert re.search(rf"learned 96, seed {seed} .*400/400 +test 50\.0%", text)
        assert re.search(r"bilinear 96, seed 99 .*400/400 +test 25\.0%", text)


def tables() -> list[Table]:
    """All that are printed, with several seeds and input sizes."""
    results = []
    for size in (96, 128):
        for arm in ("bilinear", "r2-n32", "learned", "control-long"):
            results += [result(arm, 0.5 + 0.1 * seed, seed, 1234.0, 4000, input_size=size) for seed in (0, 1)]
    summary = summary_of(results, input_size=(96, 128), seeds=2)
    tuned = [result("transfer", (0.1, 0.5, 0.8), steps=125), result("control", (0.4, 0.5, 0.6), steps=125)]
    found = [Evaluation("learned", seed, 96, 1.5 + seed, {"plcc": 0.9, "srcc": 0.8 - seed / 10}) for seed in (0, 1)]
    return [arms_table(summary), ablation_table(summary), epochs_table(tuned, ACCURACY), evaluation_table(found)]


def whole(cells: Sequence[str], lines: Sequence[str], encoding: str) -> bool:
    return all(any(printable(cell, encoding) in line for line in lines) for cell in cells)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("width", WIDTHS)
def test_tables_are_whole(width: int, encoding: str) -> None:
    for table in tables():
        for terminal in (True, False):
            screen, lines = console(width, encoding, terminal)
            print_table(screen, table)
            assert whole([*table.header, *(cell for row in table.rows for cell in row)], lines(), encoding)
            assert " ".join(lines()).replace(" ", "").count(table.caption.replace(" ", "")) == 1
            if terminal:
                assert width < 40 or all(len(line) <= width for line in lines())
                # As a table where that fits, else each figure beside or below its heading.
                if any(line.startswith(("+", "┏")) for line in lines()):
                    assert any(whole(table.header, [line], encoding) for line in lines())
                else:
                    assert sum(line.startswith(f"{table.header[0]}:") for line in lines()) == len(table.rows)
            else:  # whatever width rich takes a pipe to have
                for row in table.rows:
                    assert any(whole(row, [line], encoding) for line in lines())


def test_sentences() -> None:
    """Broken between words on a terminal, and one line each in a pipe."""
    summary = summary_of([result("bilinear", 0.5), result("learned", 0.5)])
    (gap,) = summary.gaps
    screen, lines = console(40)
    print_summary(screen, summary, [])
    assert all(len(line) <= 40 for line in lines()) and " ".join(gap.sentence().split()) in " ".join(
        " ".join(lines()).split()
    )
    screen, lines = console(40, terminal=False)
    print_summary(screen, summary, [])
    assert lines() == [gap.sentence()]


def test_forced_colours_move_no_bars_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", stream(io.BytesIO()))
    assert isinstance(progress(open_console()), ProgressLines)
    monkeypatch.setattr(sys, "stdout", stream(Terminal()))
    assert isinstance(progress(open_console()), ProgressBars)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress(open_console()), ProgressLines)


# --- what goes on, in pipes -------------------------------------------------------------------------------


def wait_until(true: Callable[[], object]) -> None:
    latest = time.monotonic() + 10
    while not true():
        assert time.monotonic() < latest
        time.sleep(0.002)


def test_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goes on where the system's clock is set back, and ends with the body, whatever ends it."""
    said: list[str] = []
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * len(said))
    with pytest.raises(KeyError), Heartbeat(said.append, lambda: f"line {len(said)}", every=0.005):
        wait_until(lambda: len(said) >= 3)
        raise KeyError
    count = len(said)
    assert said[:3] == ["line 0", "line 1", "line 2"]
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    time.sleep(0.03)
    assert len(said) == count


def test_heartbeat_waits_its_time() -> None:
    said: list[str] = []
    with Heartbeat(said.append, lambda: "line", every=60):
        time.sleep(0.05)
    assert said == []


def test_no_worker_is_forked_while_a_line_is_written() -> None:
    """It would inherit the locks that the thread holds, of the output's buffer for instance, for ever."""
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            time.sleep(0.01)

    with Heartbeat(say, lambda: "", every=0.0005):
        for _ in range(5):
            wait_until(lock.locked)
            child = os.fork()
            if not child:
                os._exit(0 if lock.acquire(timeout=1) else 1)
            assert os.waitpid(child, 0)[1] == 0


def test_lines() -> None:
    screen, lines = console(20, terminal=False)
    told = ProgressLines(screen)
    told.doing("reading the data")
    assert told.state() == "reading the data (0:00:00)"
    told._since -= 3725
    assert told.state() == "reading the data (1:02:05)"
    told.start(stage("control-long", 96))
    assert told.state() == "control-long 96, seed 0: step 0 of 4000 (0:00:00)"
    told.testing()
    assert told.state() == "control-long 96, seed 0: testing after step 0 (0:00:00)"
    told.tested(row_of("control-long", 0.25))
    told.step(120)
    assert told.state() == "control-long 96, seed 0: step 120 of 4000, test 25.0% (0:00:00)"
    ended: StageResult = result("control-long", 0.5, steps=4000)
    told.finish(ended)
    told.doing("writing the report")
    assert told.state() == "writing the report (0:00:00)"
    told.found(ended)
    assert lines() == [
        "control-long 96, seed 0: starts, 4000 steps",
        "control-long 96, seed 0: ends, 4000 steps, test 50.0% (0:00:00)",
        "control-long 96, seed 0: already complete, 4000 steps, test 50.0%",
    ]


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
    monkeypatch.setattr(ProgressLines, "testing", lambda lines: tests.append(lines._step))
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

    # Progress of evaluate goes where it does not disturb what it prints.
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


# --- the table of tests/helpers/failures.py -----------------------------------------------------------------------


def _trained(folder: Path, out: io.TextIOBase, pattern: str) -> Outcome:
    """Trains with that standard output, and shows the first line of it, without colours, that matches."""
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
