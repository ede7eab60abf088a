"""The kernels of csrc/core compiled for the host: built once with CMake, for the tests that run them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Kept between runs (and ignored by git), so that only the first one pays for the build.
BUILD = ROOT / "build" / "host-tests"


def _cmake(*arguments: str | Path) -> str:
    done = subprocess.run(["cmake", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"cmake {' '.join(map(str, arguments))}:\n{done.stdout}"
    return done.stdout


@cache
def build() -> Path:
    """Build the host tests and the host library; return the build folder. Skips where there is no compiler."""
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
