"""A release's wheel, as `.ci/wheels` makes it: what is in it, what it needs, and that it runs without a compiler.

LEARNED_RESIZER_WHEEL names the wheel, LEARNED_RESIZER_CUDA_ARCHS the architectures that it was built for, if other than
a release's.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import venv
import zipfile
from email.message import Message
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # of pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = re.findall(r'__version__ = "(.+)"', (ROOT / "learned_resizer_cuda/_version.py").read_text(encoding="utf-8"))[
    0
]
MODULE = "learned_resizer_cuda/_C.abi3.so"
ARCHITECTURES = re.split("[, ]+", os.environ.get("LEARNED_RESIZER_CUDA_ARCHS") or "80 90 100 120")
# What every manylinux allows: libc, in several libraries before glibc 2.34, and the C++ compiler's own.
SYSTEM = {f"lib{name}" for name in ("c.so.6", "m.so.6", "dl.so.2", "rt.so.1", "pthread.so.0")}
SYSTEM |= {"libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


@pytest.fixture(scope="module")
def wheel() -> Path:
    path = os.environ.get("LEARNED_RESIZER_WHEEL")
    if not path:
        pytest.skip("LEARNED_RESIZER_WHEEL names no wheel; `.ci/wheels` makes one")
    return Path(path).resolve(strict=True)


@pytest.fixture(scope="module")
def module(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native module, unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MODULE, tmp_path_factory.mktemp("unpacked")))


def _message(wheel: Path, name: str) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"learned_resizer_cuda-{VERSION}.dist-info/{name}"))


def test_it_is_one_for_all_pythons_and_linuxes(wheel: Path) -> None:
    name = re.fullmatch(
        rf"learned_resizer_cuda-{re.escape(VERSION)}-cp310-abi3-((?:\.?manylinux[0-9_]+_\w+)+)\.whl", wheel.name
    )
    assert name, wheel.name
    tags = _message(wheel, "WHEEL")
    assert set(tags.get_all("Tag") or ()) == {f"cp310-abi3-{platform}" for platform in name[1].split(".")}
    assert tags["Root-Is-Purelib"] == "false"


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """No tests and no sources of kernels; the package's own files as they are in the repository."""
    listed = subprocess.run(["git", "ls-files", "learned_resizer_cuda"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout, which says what belongs to the package")
    files = set(listed.stdout.split())
    described = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        assert names == files | {MODULE} | {f"learned_resizer_cuda-{VERSION}.dist-info/{name}" for name in described}
        assert [name for name in files if archive.read(name) != (ROOT / name).read_bytes()] == []


def test_its_description_is_the_projects(wheel: Path) -> None:
    described = _message(wheel, "METADATA")
    assert (described["Name"], described["Version"]) == (PROJECT["name"], VERSION)
    assert described["Requires-Python"] == PROJECT["requires-python"]
    assert described["License-Expression"] == PROJECT["license"]
    assert described.get_all("License-File") == PROJECT["license-files"]
    assert set(described.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])
    required = [line for line in described.get_all("Requires-Dist") or () if "extra ==" not in line]
    assert sorted(required) == sorted(PROJECT["dependencies"])


def test_it_is_small(wheel: Path) -> None:
    # 6.6 MB for one architecture and its PTX, 14.3 MB for a release's four: 4 MB, and 2.6 MB an architecture. A quarter
    # more is allowed; PyPI takes 100 MB.
    assert wheel.stat().st_size < 1.25 * (4.0e6 + 2.6e6 * len(ARCHITECTURES))


def test_the_module_needs_the_system_alone_and_exports_its_entry_alone(module: Path) -> None:
    elffile = pytest.importorskip("elftools.elf.elffile", reason="needs pyelftools, which abi3audit brings")
    with module.open("rb") as file:
        elf = elffile.ELFFile(file)
        needed = {tag.needed for tag in elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")}
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
    # Neither torch, nor the CUDA runtime, nor libpython.
    assert needed <= SYSTEM, needed - SYSTEM
    assert {symbol.name for symbol in symbols if symbol["st_shndx"] != "SHN_UNDEF"} == {"PyInit__C"}


def test_the_module_keeps_to_the_stable_abi_of_3_10(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("abi3audit", reason="needs abi3audit, to know which version brought each function of CPython")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "abi3audit", "--strict", "--report", "--output", str(report), str(wheel)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (audited,) = json.loads(report.read_text())["specs"][str(wheel)]["wheel"]
    assert audited["name"] == "_C.abi3.so"
    found = audited["result"]
    assert (found["is_abi3"], found["is_abi3_baseline_compatible"]) == (True, True), found
    assert found["baseline"] == "3.10" and found["computed"] == "3.10", found
    assert found["non_abi3_symbols"] == [] and found["future_abi3_objects"] == {}, found


def _environment() -> dict[str, str]:
    """This process's variables without those that name a compiler or another copy of the package."""
    hidden = ("LEARNED_RESIZER_", "CUDA_HOME", "CUDA_PATH", "CUDACXX", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose environment has the wheel; everything else is this environment's."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    install = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", str(wheel)]
    interpreter = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter)]
    subprocess.run([*pip, *install], env=_environment(), check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others) + "\n")
    return interpreter


def _run(python: Path, *command: str) -> str:
    """What a command of the environment prints, without any other program on its path."""
    env = _environment() | {"PATH": str(python.parent)}
    assert shutil.which("nvcc", path=env["PATH"]) is None
    program = python.parent / command[0]
    result = subprocess.run([program, *command[1:]], cwd=python.parent, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_installed_it_says_what_it_is_built_for_and_why_it_does_not_run(python: Path) -> None:
    said = _run(python, "learned-resizer", "info")
    assert f"native module: version {VERSION}, for sm_{', sm_'.join(ARCHITECTURES)}, PTX " in said
    assert re.search(r"^  built with CUDA \S+, .+, for CPython 3\.10 and newer$", said, re.MULTILINE)
    if "CUDA devices: torch sees none\n" in said:
        assert "  stem on cuda: none (not native: torch sees no CUDA device)\n" in said


def test_installed_it_resizes_and_its_native_module_answers(python: Path) -> None:
    script = """
        import torch
        import learned_resizer_cuda as lr
        from learned_resizer_cuda.kernels import native

        module = native.load()
        print(lr.__file__, module.__file__)
        image = torch.rand(1, 3, 8, 8)
        print(tuple(lr.resize(image, 4).shape), tuple(lr.FusedResizer(4)(image).shape))
        plan = module.plan_stem([(1, 8, 8, None, None)], (4, 4), 2, True, [], 1, 132, "tf32", 16)
        print(plan.blocks, len(plan.stored), module.conv_needs((1, 4, 4), False, "tf32", 16, 132)[0])
        try:
            module.conv_needs((1, 4, 4), False, "tf32", 33, 132)
        except ValueError as error:
            print(error)
    """
    files, shapes, numbers, refused = _run(python, "python", "-c", textwrap.dedent(script)).splitlines()
    environment = str(python.parent.parent)
    assert all(file.startswith(environment) for file in files.split())
    assert shapes == "(1, 3, 4, 4) (1, 3, 4, 4)"
    assert all(int(number) > 0 for number in numbers.split())
    assert refused == "num_filters: got 33; expected 1 to 32"
