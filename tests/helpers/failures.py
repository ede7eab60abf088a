"""Failure cases of commands: full disks, damaged files, hostile inputs.

`python -m tests.helpers.failures` runs all cases and prints them as a Markdown table, the one in docs/files.md.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from learned_resizer_cuda.shown import shorten

MODULES = (
    *(f"cli.test_resize_{subject}" for subject in ("disks", "shared", "hostile", "stopped")),
    *("test_weights_failures", "train.test_config_failures", "train.test_damaged_folders", "train.test_signals"),
    *("train.test_failures", "cli.test_output"),
)
"""Test modules with a list ``CASES``, in the order of the table."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, the relevant output, and what is on the disk."""

    code: int
    answer: str
    left: str


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        what: what was done.
        act: does it in an empty folder.
        code: the expected exit code.
        answer: text that the output must contain; ``FOLDER`` stands for the case's folder.
        left: what must be on the disk, as ``act`` describes it.
        mounts: whether the case needs its own file system (``small_disk``).
    """

    what: str
    act: Callable[[Path], Outcome]
    code: int
    answer: str
    left: str
    mounts: bool = False

    def check(self, folder: Path) -> str:
        """Runs the case, asserts its outcome, and returns the lines that contain the answer."""
        if self.mounts and (reason := cannot_mount()):
            pytest.skip(reason)
        outcome = self.act(folder)
        answer = outcome.answer.replace(str(folder), "FOLDER")
        assert outcome.code == self.code, f"exit code {outcome.code}: {answer}"
        assert self.answer in answer, answer
        assert outcome.left == self.left
        start = answer.index(self.answer)
        end = answer.find("\n", start + len(self.answer))
        return answer[answer.rfind("\n", 0, start) + 1 : end if end >= 0 else len(answer)] if self.answer else ""


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and all output of a command line, run in this process."""
    from learned_resizer_cuda.cli.main import main

    printed = StringIO()
    with redirect_stderr(printed), redirect_stdout(printed):
        try:
            code = main([*map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
    return code, printed.getvalue().strip()


def cannot_mount() -> str | None:
    """Why this process cannot mount file systems, or None."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs a file system of its own, which root on Linux alone can mount"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            return f"root cannot mount here: {done.stderr.strip()}"
        subprocess.run(["umount", folder], check=True)
    return None


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A new tmpfs at ``folder``, with mount options such as ``size=256k`` or ``nr_inodes=5``."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the mount options of a ``small_disk``: more space, or read-only."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones included, relative to it and sorted."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def main() -> None:
    """Prints the table."""
    print("| case | exit code | answer | on the disk after it |\n|---|---|---|---|")
    for name in MODULES:
        for case in importlib.import_module(f"tests.{name}").CASES:
            if case.mounts and (reason := cannot_mount()):
                print(f"| {case.what} | | not run: {reason} | |")
                continue
            with tempfile.TemporaryDirectory() as folder:
                lines = case.check(Path(folder)).splitlines()
            # Without the seconds, which differ each time
            lines = [re.sub(r", \d+\.\d s$", "", line) for line in lines]
            answer = "<br>".join(shorten(line, 240).replace("|", "\\|") for line in lines)
            print(f"| {case.what} | {case.code} | {answer} | {case.left} |")


if __name__ == "__main__":
    main()
