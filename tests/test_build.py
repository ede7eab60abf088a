"""The package's build: what it asks for, what it holds, and how it fails. Each build runs on a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("csrc", "learned_resizer_cuda", "tests", "benchmarks", "docs", ".ci")
IGNORED = shutil.ignore_patterns("__pycache__", "_C.*", "*.egg-info", "_build_note.txt", ".hypothesis")
PYPI_NAMES = {
    "nvidia-cuda-nvcc",
    "nvidia-nvvm",
    "nvidia-cuda-crt",
    "nvidia-cuda-runtime",
    "nvidia-cuda-cccl",
}
DRIVER = Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the sources, for builds that leave nothing behind in it."""
    return copy_sources(tmp_path_factory.mktemp("source"))


def copy_sources(folder: Path) -> Path:
    for name in SOURCES:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy2(path, folder)
    return folder


def environment(**changes: str | None) -> dict[str, str]:
    """This process's variables without those that steer the build, then `changes` (None: unset)."""
    steering = ("LEARNED_RESIZER_", "CUDA_HOME", "CUDA_PATH", "CUDACXX")
    result = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
    for name, value in changes.items():
        if value is not None:
            result[name] = value
    return result


def without_nvcc(folder: Path, **changes: str | None) -> dict[str, str]:
    """Variables under which setup.py finds no nvcc: a PATH of links to the folders' other programs."""
    hidden = folder / "bin"
    hidden.mkdir()
    for entry in os.environ["PATH"].split(os.pathsep):
        for program in Path(entry).glob("*") if entry else ():
            if program.name not in ("nvcc", "nvidia-smi") and not (hidden / program.name).is_symlink():
                (hidden / program.name).symlink_to(program)
    return environment(PATH=str(hidden), CUDA_HOME="", **changes)


def hook(source: Path, call: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a PEP 517 hook of the build backend in `source`, as pip does, and print what it returns."""
    script = f"""
        from setuptools import build_meta
        result = build_meta.{call}
        print("RESULT", *(result if isinstance(result, list) else [result]), sep="\\n")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.run(command, cwd=source, env=env, capture_output=True, text=True)


def returned(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.rpartition("RESULT\n")[2].split()


# --- what the sources promise ------------------------------------------------------------------------------


def test_native_code_includes_no_torch_and_the_core_no_python():
    included = {
        path.relative_to(ROOT): set(re.findall(r'#include\s*[<"]([^>"]+)', path.read_text(encoding="utf-8")))
        for path in (ROOT / "csrc").rglob("*")
        if path.suffix in (".h", ".hpp", ".cuh", ".cu", ".cpp")
    }
    assert included
    for path, names in included.items():
        for name in names:
            assert not re.match(r"(torch|ATen|c10)/", name), f"{path} includes {name}"
            if path.parts[1] == "core":
                assert not re.match(r"(pybind11/|Python\.h)", name), f"{path} includes {name}"


def test_formatters_are_pinned_alike_for_ci_and_pre_commit():
    pins = [
        set(re.findall(r'"((?:ruff|clang-format)==[^"]+)"', (ROOT / name).read_text(encoding="utf-8")))
        for name in ("pyproject.toml", ".pre-commit-config.yaml")
    ]
    assert len(pins[0]) == 2
    assert pins[0] == pins[1]


# --- what the build asks for -------------------------------------------------------------------------------


def requirements(source: Path, env: dict[str, str]) -> list[str]:
    return returned(hook(source, "get_requires_for_build_wheel()", env))


def check_compiler_wheels(asked: list[str]) -> None:
    names, versions = zip(*(requirement.split("==") for requirement in asked), strict=True)
    assert set(names) == PYPI_NAMES
    # One minor version of CUDA 13 for all of them.
    assert len(set(versions)) == 1
    assert re.fullmatch(r"13\.\d+\.\*", versions[0])


def test_no_compiler_is_asked_for_with_cuda_0(source):
    assert requirements(source, environment(LEARNED_RESIZER_CUDA="0")) == []


def test_the_pypi_compiler_is_asked_for_with_pypi(source):
    check_compiler_wheels(requirements(source, environment(LEARNED_RESIZER_CUDA="pypi")))


def test_the_pypi_compiler_is_asked_for_with_cuda_1_where_there_is_no_nvcc(source, tmp_path):
    check_compiler_wheels(requirements(source, without_nvcc(tmp_path, LEARNED_RESIZER_CUDA="1")))


def test_the_pypi_compiler_is_asked_for_where_a_driver_is_found(source, tmp_path):
    env = without_nvcc(tmp_path)
    (tmp_path / "bin" / "nvidia-smi").symlink_to("/bin/true")
    check_compiler_wheels(requirements(source, env))


@pytest.mark.skipif(DRIVER, reason="there is an NVIDIA driver here")
def test_nothing_is_asked_for_without_nvcc_and_driver(source, tmp_path):
    assert requirements(source, without_nvcc(tmp_path)) == []


@pytest.mark.parametrize("variable", ["CUDACXX", "CUDA_HOME", "CUDA_PATH"])
def test_an_nvcc_that_is_named_is_taken(source, tmp_path, variable):
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.symlink_to("/bin/true")
    env = without_nvcc(tmp_path, LEARNED_RESIZER_CUDA="1")
    if variable == "CUDA_PATH":
        del env["CUDA_HOME"]
    env[variable] = str(nvcc if variable == "CUDACXX" else tmp_path / "toolkit")
    assert requirements(source, env) == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("LEARNED_RESIZER_CUDA", "yes", "LEARNED_RESIZER_CUDA must be unset, 0, 1 or pypi, got 'yes'"),
        ("CUDACXX", "/nowhere/nvcc", "CUDACXX='/nowhere/nvcc' names no executable file"),
    ],
)
def test_bad_variables_are_named(source, variable, value, said):
    result = hook(source, "get_requires_for_build_wheel()", environment(**{variable: value}))
    assert result.returncode != 0
    assert said in result.stderr


# --- what it builds ----------------------------------------------------------------------------------------


def test_a_pure_wheel_holds_no_native_module_and_says_why(source, tmp_path):
    # As an earlier native build of the same tree leaves it; setuptools would pack it again.
    stale = source / "build" / "lib" / "learned_resizer_cuda" / "_C.cpython-311-x86_64-linux-gnu.so"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"stale")
    result = hook(source, f"build_wheel({str(tmp_path)!r})", environment(LEARNED_RESIZER_CUDA="0"))
    (name,) = returned(result)
    assert name.endswith("-py3-none-any.whl")
    said = re.findall(r"^learned-resizer-cuda: .*", result.stdout + result.stderr, re.MULTILINE)
    assert said == ["learned-resizer-cuda: installing without native code: LEARNED_RESIZER_CUDA=0 was set"]
    with zipfile.ZipFile(tmp_path / name) as wheel:
        names = wheel.namelist()
        assert wheel.read("learned_resizer_cuda/_build_note.txt") == b"LEARNED_RESIZER_CUDA=0 was set\n"
    assert not [name for name in names if "/_C." in name]
    packaged = {
        f"learned_resizer_cuda/{path.relative_to(ROOT / 'learned_resizer_cuda').as_posix()}"
        for path in (ROOT / "learned_resizer_cuda").rglob("*")
        if path.suffix in (".py", ".j2")
    }
    assert packaged | {"learned_resizer_cuda/py.typed"} <= set(names)


def test_the_sdist_holds_all_that_a_build_and_the_tests_need(source, tmp_path):
    (name,) = returned(hook(source, f"build_sdist({str(tmp_path)!r})", environment(LEARNED_RESIZER_CUDA="0")))
    with tarfile.open(tmp_path / name) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / name.removesuffix(".tar.gz")
    tracked = [
        path.relative_to(source)
        for folder in SOURCES
        for path in (source / folder).rglob("*")
        if path.suffix in (".py", ".j2", ".cu", ".cuh", ".h", ".hpp", ".cpp", ".md") or path.name == "CMakeLists.txt"
    ]
    tracked += [Path(name) for name in ("CMakeLists.txt", "setup.py", "pyproject.toml", "README.md", "LICENSE")]
    missing = [str(path) for path in tracked if not (unpacked / path).exists()]
    assert not missing
    (wheel,) = returned(hook(unpacked, f"build_wheel({str(tmp_path)!r})", environment(LEARNED_RESIZER_CUDA="0")))
    assert (tmp_path / wheel).exists()


# --- how it fails ------------------------------------------------------------------------------------------


def test_a_failed_compilation_fails_the_build_and_names_the_way_out(source, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho no compiler licence >&2\nexit 1\n")
    nvcc.chmod(0o755)
    result = hook(source, f"build_wheel({str(tmp_path)!r})", environment(CUDACXX=str(nvcc)))
    assert result.returncode != 0
    assert not list(tmp_path.glob("*.whl"))
    assert "no compiler licence" in result.stderr
    assert f"It was tried because nvcc is {nvcc}" in result.stderr
    assert "LEARNED_RESIZER_CUDA=0 installs without native code" in result.stderr


def test_a_missing_compiler_fails_the_build_where_cuda_was_asked_for(source, tmp_path):
    env = without_nvcc(tmp_path, LEARNED_RESIZER_CUDA="1")
    result = hook(source, f"build_wheel({str(tmp_path)!r})", env)
    if result.returncode == 0:
        pytest.skip("the PyPI compiler is installed in this environment")
    assert "nvidia-cuda-nvcc==13" in result.stderr
    assert "LEARNED_RESIZER_CUDA=0 installs without native code" in result.stderr


# --- CMakeLists.txt ----------------------------------------------------------------------------------------


def configure(source: Path, build: Path, **options: str | Path) -> subprocess.CompletedProcess[str]:
    import pybind11

    options = {"pybind11_DIR": pybind11.get_cmake_dir(), "Python_EXECUTABLE": sys.executable} | options
    command = ["cmake", "-S", source, "-B", build, "-G", "Ninja", *(f"-D{k}={v}" for k, v in options.items())]
    return subprocess.run(command, env=environment(), capture_output=True, text=True)


def nvcc_that_knows(folder: Path, *codes: str) -> Path:
    """A stand-in for an older nvcc: the real one, with a shorter list of architectures."""
    path = folder / "nvcc"
    listed = "\\n".join(codes)
    path.write_text(f'#!/bin/sh\n[ "$1" = --list-gpu-code ] && printf "{listed}\\n" && exit\nexec {NVCC} "$@"\n')
    path.chmod(0o755)
    return path


@needs_compiler
@needs_nvcc
def test_architectures_that_nvcc_does_not_know_are_left_out_with_a_notice(source, tmp_path):
    nvcc = nvcc_that_knows(tmp_path, "sm_75", "sm_80", "sm_86", "sm_90")
    result = configure(source, tmp_path / "build", CMAKE_CUDA_COMPILER=nvcc)
    assert result.returncode == 0, result.stderr
    notices = re.findall(r"^learned-resizer-cuda: .*", result.stdout + result.stderr, re.MULTILINE)
    assert notices == [
        f"learned-resizer-cuda: this nvcc does not know sm_{arch}, so it is left out" for arch in (89, 100, 120)
    ]
    ninja = (tmp_path / "build" / "build.ninja").read_text()
    assert set(re.findall(r"--generate-code=arch=(\S+?)[,\s]", ninja)) == {"compute_80", "compute_86", "compute_90"}
    assert "code=[compute_90]" in ninja
    assert "code=[compute_86]" not in ninja


@needs_compiler
@needs_nvcc
def test_an_architecture_that_was_asked_for_and_is_unknown_stops_the_build(source, tmp_path):
    nvcc = nvcc_that_knows(tmp_path, "sm_80", "sm_90")
    options = {"CMAKE_CUDA_COMPILER": nvcc, "LEARNED_RESIZER_CUDA_ARCHS": "80,100"}
    result = configure(source, tmp_path / "build", **options)
    assert result.returncode != 0
    assert re.search(r"LEARNED_RESIZER_CUDA_ARCHS:\s+'100'\s+is\s+not\s+among", result.stderr)


@pytest.mark.slow
@needs_compiler
@needs_nvcc
def test_a_native_wheel_loads(source, tmp_path):
    env = environment(LEARNED_RESIZER_CUDA="1", LEARNED_RESIZER_CUDA_ARCHS="90")
    (name,) = returned(hook(source, f"build_wheel({str(tmp_path)!r})", env))
    assert "none-any" not in name
    with zipfile.ZipFile(tmp_path / name) as wheel:
        wheel.extractall(tmp_path / "site")
    script = "from learned_resizer_cuda.kernels import native; print(native.load().build_record())"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path / "site", capture_output=True, text=True, check=True)
    assert "'architectures': ['90'], 'ptx': ['90']" in result.stdout
