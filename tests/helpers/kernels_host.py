"""One build of the kernels of csrc/core for the host, in the background while other tests run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
# Kept between runs (and ignored by git), so that only the first one pays for the build.
BUILD = ROOT / "build" / "host-tests"


def _cmake(*arguments: str | Path) -> None:
    # The tests that run meanwhile come first.
    command = [*(["nice"] if shutil.which("nice") else []), "cmake", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"


def build() -> Path:
    """Wait for the host tests and the host library; return the build folder. Skips where there is no compiler."""
    return start().result()


@cache
def start() -> Future[Path]:
    """Begin to build in the background."""
    return ThreadPoolExecutor(1).submit(_build)


def _build() -> Path:
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} to compile the kernels for the host")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        pytest.skip("needs a C++ compiler to compile the kernels for the host")
    options = ["-DLEARNED_RESIZER_NATIVE=OFF", "-DLEARNED_RESIZER_TESTS=ON", f"-DPython_EXECUTABLE={sys.executable}"]
    if importlib.util.find_spec("pybind11") is not None:
        import pybind11

        options.append(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    BUILD.mkdir(parents=True, exist_ok=True)
    # The first of xdist's workers builds; the others find their test run's name and leave the folder alone.
    stamp, run = BUILD / "test-run.txt", os.environ.get("PYTEST_XDIST_TESTRUNUID")
    with FileLock(BUILD / ".lock"):
        if run is None or not stamp.exists() or stamp.read_text() != run:
            # --fresh: a folder configured by another checkout or compiler is configured anew; objects are kept.
            _cmake("--fresh", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *options)
            _cmake("--build", BUILD)
            stamp.write_text(run or "")
    return BUILD
