"""The kernels of csrc/core compiled for the host: built once with CMake, beside the tests that do not run them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Kept between runs (and ignored by git), so that only the first one pays for the build.
BUILD = ROOT / "build" / "host-tests"


def _cmake(*arguments: str | Path) -> None:
    # After the tests that run meanwhile.
    command = [*(["nice"] if shutil.which("nice") else []), "cmake", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"


def build() -> Path:
    """Build the host tests and the host library; return the build folder. Skips where there is no compiler."""
    return start().result()


@cache
def start() -> Future[Path]:
    """Begin to build in the background. The tests before the kernels' run on one core, which leaves it the others."""
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
    # --fresh: a folder configured by another checkout or compiler is configured anew; objects are kept.
    _cmake("--fresh", "-S", ROOT, "-B", BUILD, "-G", "Ninja", *options)
    _cmake("--build", BUILD)
    return BUILD
