"""Build of the native module with CMakeLists.txt, or installation without it. Metadata is in pyproject.toml.

Environment variables:
    LEARNED_RESIZER_CUDA        unset: build where nvcc or an NVIDIA driver is found; 0: never; 1: always;
                                pypi: always, with the PyPI wheels' compiler even where nvcc is found.
                                If a build is tried and fails, the installation fails.
    LEARNED_RESIZER_CUDA_ARCHS  GPU architectures, as "80;90". Default: those of this machine's GPUs, as nvidia-smi
                                lists them; without a GPU, those of 80 90 100 120 that nvcc knows (8.6 and 8.9 run
                                the code for 8.0). Name them when building a wheel for other machines.
    CUDACXX                     nvcc to use; default: that of CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda.
    CMAKE_BUILD_PARALLEL_LEVEL  number of parallel compile jobs; default: one per core.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
PACKAGE = "learned_resizer_cuda"
NOTE = "_build_note.txt"
OLDEST = "cp310"  # that loads the module, whose functions of CPython are those of this version's limited API
# The free-threaded CPython has no stable ABI yet: there the module is built for that one version.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

# One minor version for all, since nvcc, its headers and its libraries must match. The first of CUDA 13,
# since a driver refuses PTX newer than itself.
PYPI_COMPILER = [
    "nvidia-cuda-nvcc==13.0.*",
    "nvidia-nvvm==13.0.*",
    "nvidia-cuda-crt==13.0.*",
    "nvidia-cuda-runtime==13.0.*",
    "nvidia-cuda-cccl==13.0.*",
]


@dataclass(frozen=True)
class Plan:
    """Whether to build the native module, with which nvcc, and why."""

    build: bool
    why: str
    nvcc: Path | None = None
    requires: tuple[str, ...] = ()


def say(line: str) -> None:
    # stderr is what pip shows first when a build fails, and it is not reordered against CMake's output.
    print(f"{PACKAGE.replace('_', '-')}: {line}", file=sys.stderr, flush=True)


def find_nvcc() -> Path | None:
    """The nvcc of a CUDA toolkit, or None. An empty CUDA_HOME excludes /usr/local/cuda."""
    if asked := os.environ.get("CUDACXX"):
        found = shutil.which(asked)
        if found is None:
            raise CompileError(f"CUDACXX={asked!r} is not an executable file")
        return Path(found).resolve()
    home = os.environ.get("CUDA_HOME", os.environ.get("CUDA_PATH"))
    inside = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None
    found = inside or shutil.which("nvcc")
    if found is None and home is None:
        found = shutil.which("nvcc", path="/usr/local/cuda/bin")
    return Path(found) if found else None


def find_pypi_nvcc() -> Path | None:
    """The nvcc of the PyPI wheels, or None if the running environment lacks one of them."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        root = Path(folder) / "cu13"
        # All five wheels unpack into this folder, and nvcc needs every one of them.
        parts = (
            "bin/nvcc",
            "nvvm/bin/cicc",
            "include/crt/host_config.h",
            "lib/libcudart_static.a",
            "include/cccl/nv/target",
        )
        if all((root / part).exists() for part in parts):
            return root / "bin" / "nvcc"
    return None


def driver_sign() -> str | None:
    """Evidence of an installed NVIDIA driver, or None."""
    if Path("/proc/driver/nvidia").exists():
        return "/proc/driver/nvidia"
    if shutil.which("nvidia-smi"):
        return "nvidia-smi"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return "libcuda.so.1"


def make_plan() -> Plan:
    """Decide from LEARNED_RESIZER_CUDA, nvcc and the driver, as the module's docstring says."""
    asked = os.environ.get("LEARNED_RESIZER_CUDA", "")
    if asked not in ("", "0", "1", "pypi"):
        raise CompileError(f"LEARNED_RESIZER_CUDA must be unset, 0, 1 or pypi, got {asked!r}")
    if asked == "0":
        return Plan(False, "LEARNED_RESIZER_CUDA=0 was set")
    nvcc = None if asked == "pypi" else find_nvcc()
    if nvcc:
        return Plan(True, f"nvcc is {nvcc}", nvcc)
    sign = f"LEARNED_RESIZER_CUDA={asked} was set" if asked else driver_sign()
    if sign is None:
        return Plan(False, "neither nvcc nor an NVIDIA driver was found")
    if not asked:
        sign = f"an NVIDIA driver was found ({sign})"
    why = f"{sign}; the compiler comes from the PyPI wheels"
    return Plan(True, why, find_pypi_nvcc(), tuple(PYPI_COMPILER))


class CMakeBuild(build_ext):
    """Configures, builds and installs the CMake target _C."""

    def run(self) -> None:
        if not PLAN.nvcc:
            raise CompileError(
                f"the native module must be built ({PLAN.why}), but its compiler is not installed: "
                f"{', '.join(PYPI_COMPILER)}. With build isolation pip installs them; without it, install "
                "them or name an nvcc in CUDACXX. LEARNED_RESIZER_CUDA=0 installs without native code."
            )
        say(f"building the native module: {PLAN.why}")
        try:
            self._cmake(PLAN.nvcc)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(
                f"building the native module failed, see the messages above ({error}). "
                f"It was tried because {PLAN.why}. LEARNED_RESIZER_CUDA=0 installs without native code."
            ) from error

    def _cmake(self, nvcc: Path) -> None:
        build = Path(self.build_temp).resolve()
        prefix = ROOT if self.inplace else Path(self.build_lib).resolve()
        cmake, ninja = find_tool("cmake"), find_tool("ninja")
        options = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_CUDA_COMPILER": nvcc,
            "CMAKE_MAKE_PROGRAM": ninja,
            "Python_EXECUTABLE": sys.executable,
            "LEARNED_RESIZER_STABLE_ABI": "ON" if STABLE_ABI else "OFF",
            "LEARNED_RESIZER_CUDA_ARCHS": os.environ.get("LEARNED_RESIZER_CUDA_ARCHS", ""),
        }
        # --fresh: an earlier build's cache points into an isolated environment that no longer exists.
        command = [cmake, "--fresh", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        subprocess.run([*command, *(f"-D{name}={value}" for name, value in options.items())], check=True)
        subprocess.run([cmake, "--build", str(build), "--target", "_C"], check=True)
        if self.inplace:
            # One with the name of this version, as earlier releases built it, would be imported instead of the new one.
            for stale in (ROOT / PACKAGE).glob("_C.*.so"):
                stale.unlink()
        subprocess.run([cmake, "--install", str(build), "--strip", "--prefix", str(prefix)], check=True)

    def get_outputs(self) -> list[str]:
        return [] if self.inplace else [self.get_ext_fullpath(extension.name) for extension in self.extensions]


class BuildPython(build_py):
    """Copies the Python files into an empty folder, with the reason if the native module is left out."""

    def run(self) -> None:
        target = Path(self.build_lib) / PACKAGE
        if not self.editable_mode:
            # setuptools packs everything in the folder: an earlier build's _C would end up in a pure Python wheel.
            shutil.rmtree(target, ignore_errors=True)
        super().run()
        if not PLAN.build:
            say(f"installing without native code: {PLAN.why}")
            if not self.editable_mode:
                # pip hides the line above; the loader shows this note.
                (target / NOTE).write_text(PLAN.why + "\n", encoding="utf-8")


def find_tool(name: str) -> str:
    """Path of cmake or ninja, preferably in the running environment, activated or not."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=path)
    if found is None:
        raise FileNotFoundError(f"{name} was not found; pip install {name}")
    return found


PLAN = make_plan()

setup(
    # setuptools hands these to pip as further build requirements (PEP 517, get_requires_for_build_wheel).
    setup_requires=list(PLAN.requires),
    ext_modules=[Extension(f"{PACKAGE}._C", sources=[], py_limited_api=STABLE_ABI)] if PLAN.build else [],
    options={"bdist_wheel": {"py_limited_api": OLDEST}} if PLAN.build and STABLE_ABI else {},
    cmdclass={"build_ext": CMakeBuild, "build_py": BuildPython},
)
