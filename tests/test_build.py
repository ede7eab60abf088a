"""Requirements, contents and failures of the package's build. Each build runs on a copy of the sources."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
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
    """A copy of the sources, for builds that leave it clean."""
    return copy_sources(tmp_path_factory.mktemp("source"))


def copy_sources(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
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
    """Variables that hide nvcc from setup.py: a PATH of links to all other programs."""
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


# --- promises of the sources ------------------------------------------------------------------------------


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
                assert not re.match(r"Python\.h", name), f"{path} includes {name}"


def test_formatters_are_pinned_alike_for_ci_and_pre_commit():
    pins = [
        set(re.findall(r'"((?:ruff|clang-format)==[^"]+)"', (ROOT / name).read_text(encoding="utf-8")))
        for name in ("pyproject.toml", ".pre-commit-config.yaml")
    ]
    assert len(pins[0]) == 2
    assert pins[0] == pins[1]


# --- requirements of the build -------------------------------------------------------------------------------


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
        ("CUDACXX", "/nowhere/nvcc", "CUDACXX='/nowhere/nvcc' is not an executable file"),
    ],
)
def test_bad_variables_are_named(source, variable, value, said):
    result = hook(source, "get_requires_for_build_wheel()", environment(**{variable: value}))
    assert result.returncode != 0
    assert said in result.stderr


# --- contents of wheel and sdist ---------------------------------------------------------------------------


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
    assert files(source, "learned_resizer_cuda") <= set(names)


def files(root: Path, *folders: str) -> set[str]:
    """The files of a source tree in these folders that a commit would hold."""
    found = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(root).as_posix()
        for path in found
        if "__pycache__" not in path.parts and not path.parent.name.endswith(".egg-info")
    }


def unpacked_sdist(source: Path, folder: Path) -> Path:
    (name,) = returned(hook(source, f"build_sdist({str(folder)!r})", environment(LEARNED_RESIZER_CUDA="0")))
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory) -> Path:
    """The unpacked sdist."""
    return unpacked_sdist(source, tmp_path_factory.mktemp("sdist"))


def test_the_sdist_holds_every_source_file_and_builds(source, sdist, tmp_path):
    named = {"CMakeLists.txt", "MANIFEST.in", "setup.py", "pyproject.toml", "README.md", "LICENSE"}
    assert sorted((files(source, *SOURCES) | named) - files(sdist, "")) == []
    (wheel,) = returned(hook(sdist, f"build_wheel({str(tmp_path)!r})", environment(LEARNED_RESIZER_CUDA="0")))
    assert (tmp_path / wheel).exists()


@needs_compiler
def test_the_sdist_registers_the_ctests_of_the_checkout(source, sdist, tmp_path):
    def ctests(root: Path, build: Path) -> set[str]:
        result = configure(root, build, LEARNED_RESIZER_NATIVE="OFF", LEARNED_RESIZER_TESTS="ON")
        assert result.returncode == 0, result.stderr
        listed = subprocess.run(["ctest", "--test-dir", build, "-N"], capture_output=True, text=True, check=True)
        return set(re.findall(r"Test +#\d+: (\S+)", listed.stdout))

    expected = ctests(source, tmp_path / "checkout")
    assert len(expected) >= 29
    assert ctests(sdist, tmp_path / "sdist") == expected


@needs_compiler
@pytest.mark.parametrize("file", ["csrc/tests/test_trunk.cpp", "csrc/core/stem/stem_plan.cpp"])
def test_a_missing_source_stops_the_configuration_of_the_host_tests(tmp_path, file):
    changed = copy_sources(tmp_path / "source")
    (changed / file).unlink()
    result = configure(changed, tmp_path / "build", LEARNED_RESIZER_NATIVE="OFF", LEARNED_RESIZER_TESTS="ON")
    assert result.returncode != 0
    assert Path(file).name in result.stderr


# --- failures ------------------------------------------------------------------------------------------


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


def configure(source: Path, build: Path, *, path: Path | None = None, **options: str | Path):
    """Configure with CMake, with `path` first on PATH."""
    options = {"Python_EXECUTABLE": sys.executable} | options
    command = ["cmake", "-S", source, "-B", build, "-G", "Ninja", *(f"-D{k}={v}" for k, v in options.items())]
    env = environment(PATH=os.pathsep.join([*([str(path)] if path else []), os.environ["PATH"]]))
    return subprocess.run(command, env=env, capture_output=True, text=True)


def nvcc_that_knows(folder: Path, *codes: str) -> Path:
    """A stand-in for an older nvcc: the real one, with a shorter list of architectures."""
    path = folder / "nvcc"
    listed = "\\n".join(codes)
    path.write_text(f'#!/bin/sh\n[ "$1" = --list-gpu-code ] && printf "{listed}\\n" && exit\nexec {NVCC} "$@"\n')
    path.chmod(0o755)
    return path


@needs_compiler
@needs_nvcc
@pytest.mark.parametrize(
    ("compute_caps", "codes", "missing"),
    [
        ("9.0", {"90": "sm_90 compute_90"}, ""),
        ("7.5 8.6 12.0 8.6", {"86": "sm_86", "120": "sm_120 compute_120"}, ""),
        # No GPU that the kernels run on, one newer than this nvcc, none at all: the default list.
        ("7.5", {"80": "sm_80 sm_90", "120": "sm_120 compute_120"}, "100"),
        ("8.0 13.0", {"80": "sm_80 sm_90", "120": "sm_120 compute_120"}, "100"),
        ("No devices were found", {"80": "sm_80 sm_90", "120": "sm_120 compute_120"}, "100"),
    ],
)
def test_architectures_are_those_of_the_gpus_else_the_default_list(source, tmp_path, compute_caps, codes, missing):
    smi = tmp_path / "smi" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(f'#!/bin/sh\n[ "$*" = "--query-gpu=compute_cap --format=csv,noheader" ] && echo "{compute_caps}"\n')
    smi.chmod(0o755)
    nvcc = nvcc_that_knows(tmp_path, "sm_75", "sm_80", "sm_86", "sm_90", "sm_120")
    result = configure(source, tmp_path / "build", path=smi.parent, CMAKE_CUDA_COMPILER=nvcc)
    assert result.returncode == 0, result.stderr
    built: dict[str, set[str]] = {}
    ninja = (tmp_path / "build" / "build.ninja").read_text()
    for ptx, listed in re.findall(r"--generate-code=arch=compute_(\d+),code=\[?([\w,]+)", ninja):
        built.setdefault(ptx, set()).update(listed.split(","))
    assert built == {ptx: set(listed.split()) for ptx, listed in codes.items()}
    notices = re.findall(r"^learned-resizer-cuda: .*", result.stdout + result.stderr, re.MULTILINE)
    assert notices == [
        f"learned-resizer-cuda: this nvcc does not know sm_{arch}, so it is left out" for arch in missing.split()
    ]


@needs_compiler
@needs_nvcc
def test_an_architecture_that_was_asked_for_and_is_unknown_stops_the_build(source, tmp_path):
    nvcc = nvcc_that_knows(tmp_path, "sm_80", "sm_90")
    options = {"CMAKE_CUDA_COMPILER": nvcc, "LEARNED_RESIZER_CUDA_ARCHS": "80,100"}
    result = configure(source, tmp_path / "build", **options)
    assert result.returncode != 0
    assert re.search(r"LEARNED_RESIZER_CUDA_ARCHS:\s+'100'\s+is\s+not\s+among", result.stderr)


@needs_compiler
@pytest.mark.parametrize("stable", [True, False])
def test_the_modules_file_says_which_pythons_load_it(source, tmp_path, stable):
    options = {"LEARNED_RESIZER_NATIVE": "OFF", "LEARNED_RESIZER_TESTS": "ON"}
    result = configure(source, tmp_path, LEARNED_RESIZER_STABLE_ABI="ON" if stable else "OFF", **options)
    assert result.returncode == 0, result.stderr
    ninja = (tmp_path / "build.ninja").read_text()
    assert ("-DPy_LIMITED_API=0x030a0000" in ninja) == stable
    suffix = ".abi3.so" if stable else sysconfig.get_config_var("EXT_SUFFIX")
    assert f"csrc/tests/_C{suffix}:" in ninja


@pytest.mark.parametrize("free_threaded", [0, 1])
def test_a_free_threaded_python_gets_a_module_of_its_own(source, free_threaded):
    script = f"""
        import sysconfig
        asked = sysconfig.get_config_var
        sysconfig.get_config_var = lambda name: {free_threaded} if name == "Py_GIL_DISABLED" else asked(name)
        import setuptools  # first: it brings its own distutils
        from distutils.core import run_setup
        made = run_setup("setup.py", stop_after="init")
        print([one.py_limited_api for one in made.ext_modules], made.command_options.get("bdist_wheel", {{}}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    env = environment(LEARNED_RESIZER_CUDA="1")
    said = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=True).stdout
    assert ("[False] {}" if free_threaded else "[True] {'py_limited_api': ") in said


@pytest.mark.slow
@needs_compiler
@needs_nvcc
def test_a_native_wheel_loads(source, tmp_path):
    env = environment(LEARNED_RESIZER_CUDA="1", LEARNED_RESIZER_CUDA_ARCHS="90")
    (name,) = returned(hook(source, f"build_wheel({str(tmp_path)!r})", env))
    assert "-cp310-abi3-linux_" in name
    with zipfile.ZipFile(tmp_path / name) as wheel:
        wheel.extractall(tmp_path / "site")
    script = "from learned_resizer_cuda.kernels import native; print(native.load().build_record())"
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path / "site", capture_output=True, text=True, check=True)
    assert "'architectures': ['90'], 'ptx': ['90']" in result.stdout
