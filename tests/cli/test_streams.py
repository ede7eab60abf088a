"""Standard output and error in every encoding, full, closed, or without a reader."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")


from learned_resizer_cuda.cli.main import COMMANDS
from learned_resizer_cuda.cli.streams import forgiving_streams
from learned_resizer_cuda.substitutes import printable
from tests.helpers.terminals import Broken, command, stream

ENCODINGS = ("ascii", "latin-1", "cp1252", "utf-8")


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
    with pytest.raises(SystemExit) as end, forgiving_streams():
        print("something")
        raise SystemExit(143)
    assert end.value.code == 143
    with pytest.raises(KeyError), forgiving_streams():
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
    assert capsys.readouterr() == ("", "")  # standard error's output does not go elsewhere


def test_a_closed_descriptor_and_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """In the C locale; the first file that the command opens must not become its standard output."""
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
        with forgiving_streams():
            print("x" * 300_000)
        monkeypatch.undo()
    thread.join()
    os.close(source)
    assert len(read) == 300_001
