"""Registers of the compiled kernels: none may spill, or use a stack in local memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import learned_resizer_cuda

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "csrc" / "core"
SOURCES = sorted(CORE.glob("*/*.cu"))
# CMakeLists.txt's default list.
ARCHITECTURES = ("80", "90", "100", "120")
CASES = [pytest.param(source, arch, id=f"{source.stem}-sm_{arch}") for source in SOURCES for arch in ARCHITECTURES]


def _compile(nvcc: str, source: Path, arch: str, folder: Path) -> tuple[int, str]:
    out = folder / f"{source.stem}_{arch}.cubin"
    ptx = min((other for other in ARCHITECTURES if len(other) == len(arch)), key=int)  # as CMakeLists.txt has it
    target = f"-gencode=arch=compute_{ptx},code=sm_{arch}"
    done = subprocess.run(
        [nvcc, "-std=c++17", "-O3", "-Xptxas=-v", target, f"-I{CORE}", "-cubin", source, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Iterator[Callable[[Path, str], tuple[int, str]]]:
    """Nvcc's outcome for a source and an architecture; this run's cases are compiled in parallel."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    wanted = [
        (item.callspec.params["source"], item.callspec.params["arch"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_no_kernel_spills"
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs: dict[tuple[Path, str], Future[tuple[int, str]]] = {
            (source, arch): pool.submit(_compile, nvcc, source, arch, Path(folder)) for source, arch in wanted
        }
        yield lambda source, arch: jobs[source, arch].result()
        pool.shutdown(cancel_futures=True)


def _cuobjdump() -> str:
    found = shutil.which("cuobjdump")
    if found is None:
        triton = pytest.importorskip("triton", reason="needs cuobjdump, on PATH or from triton")
        found = str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    return found


def test_no_kernel_of_the_installed_module_spills() -> None:
    """Quick: what was built is read, not compiled again. A kernel that spills has a stack."""
    modules = sorted(Path(learned_resizer_cuda.__file__).parent.glob("_C.*.so"))
    if not modules:
        pytest.skip("the package was built without its native module")
    if modules[0].stat().st_mtime < max(path.stat().st_mtime for path in CORE.rglob("*.*")):
        pytest.skip("the native module is older than csrc/core: build it again")
    said = subprocess.run([_cuobjdump(), "--dump-resource-usage", modules[0]], capture_output=True, text=True).stdout
    kernels = re.findall(r"Function (\w+):\s+REG:\d+ STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    assert len(kernels) == said.count("REG:") > 0, said
    assert [kernel for kernel in kernels if kernel[1:] != ("0", "0")] == []


@pytest.mark.slow
@pytest.mark.parametrize("source, arch", CASES)
def test_no_kernel_spills(compiled: Callable[[Path, str], tuple[int, str]], source: Path, arch: str) -> None:
    status, said = compiled(source, arch)
    assert status == 0, said
    found = re.findall(
        rf"Compiling entry function '(\w+)' for 'sm_{arch}'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        said,
        re.DOTALL,
    )
    # A kernel that the pattern misses would not be checked.
    assert len(found) == said.count("Compiling entry function") > 0, said
    bad = [kernel for kernel in found if kernel[1:4] != ("0", "0", "0")]
    assert not bad, "\n".join(f"{name}: stack, spill stores, spill loads, registers {rest}" for name, *rest in bad)


def test_every_architecture_and_source_of_the_build_is_compiled_here() -> None:
    build = (ROOT / "CMakeLists.txt").read_text()
    (listed,) = re.findall(r"foreach\(arch IN ITEMS ([\d ]+)\)", build)
    assert tuple(listed.split()) == ARCHITECTURES
    (launchers,) = re.findall(r"set\(launchers ([^)]+)\)", build)
    assert sorted(launchers.split()) == [source.relative_to(CORE).as_posix() for source in SOURCES]
