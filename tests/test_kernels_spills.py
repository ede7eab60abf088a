"""Compiles csrc/core for every architecture: no kernel may spill a register, none may exceed its shared memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parent.parent / "csrc" / "core"
ARCHITECTURES = ("80", "86", "89", "90", "100", "120")


@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(path.name for path in CORE.glob("*.cu")))
def test_no_kernel_spills(source: str, tmp_path: Path) -> None:
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    targets = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
    command = [nvcc, "-std=c++17", "-O3", "--threads=2", "-Xptxas=-v", *targets]
    done = subprocess.run(
        [*command, "-c", CORE / source, "-o", tmp_path / "core.o"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    found = re.findall(
        r"Compiling entry function '(\w+)' for '(sm_\d+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        done.stdout,
        re.DOTALL,
    )
    assert {arch for _, arch, *_ in found} == {f"sm_{arch}" for arch in ARCHITECTURES}, done.stdout
    bad = [kernel for kernel in found if kernel[2:5] != ("0", "0", "0")]
    assert not bad, "\n".join(f"{name} for {arch}: stack, spills {rest}" for name, arch, *rest in bad)
