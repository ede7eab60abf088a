"""One build of the kernels of csrc/core for the host, in the background while other tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
# Kept between runs (and ignored by git), so that only the first one pays for the build.
BUILD = ROOT / "build" / "host-tests"


def build() -> Path:
    """Wait for the host tests and the host library; return the build folder. Skips where there is no compiler."""
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to compile the kernels for the host")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("needs a C++ compiler to compile the kernels for the host")
    process, log = start()
    code = process.wait()
    log.seek(0)
    assert code == 0, log.read()
    return BUILD


@cache
def start() -> tuple[subprocess.Popen[str], IO[str]]:
    """Begin to build, in a process of its own: tests meanwhile may change what this one can do."""
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the build may write)
    # The tests that run meanwhile come first.
    nice = ["nice"] if shutil.which("nice") else []
    return subprocess.Popen([*nice, sys.executable, __file__], stdout=log, stderr=subprocess.STDOUT, text=True), log


def _build() -> None:
    options = ["-DLEARNED_RESIZER_NATIVE=OFF", "-DLEARNED_RESIZER_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    BUILD.mkdir(parents=True, exist_ok=True)
    # The first of xdist's workers builds; the others find their test run's name and leave the folder alone.
    stamp, run = BUILD / "test-run.txt", os.environ.get("PYTEST_XDIST_TESTRUNUID")
    with FileLock(BUILD / ".lock"):
        if run is None or not stamp.exists() or stamp.read_text() != run:
            # --fresh: a folder configured by another checkout or compiler is configured anew; objects are kept.
            subprocess.run(["cmake", "--fresh", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *options], check=True)
            subprocess.run(["cmake", "--build", BUILD], check=True)
            stamp.write_text(run or "")


if __name__ == "__main__":
    _build()
