"""Lazy loader of the native module `learned_resizer_cuda._C`.

Importing this module or the package does not load `_C`; the first `load()` does. Three failures are distinguished,
since each needs another fix: the module was not built, was built for something else, or fails to load.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .._version import __version__

_PACKAGE = Path(__file__).resolve().parent.parent
_REBUILD = "reinstall with LEARNED_RESIZER_CUDA=1 to build it"

_outcome: ModuleType | NativeUnavailable | None = None


class NativeUnavailable(RuntimeError):
    """The native module cannot be used.

    Attributes:
        state: "not built", "built for something else" or "failed to load".
        reason: what was found and what to do, without a full stop.
    """

    def __init__(self, state: str, reason: str) -> None:
        super().__init__(f"native module {state}: {reason}")
        self.state = state
        self.reason = reason


def load() -> ModuleType:
    """Import `_C` once, checking that it fits this Python and package version.

    Returns:
        The module. Loading it creates no CUDA context and needs neither a GPU nor a driver.

    Raises:
        NativeUnavailable: with its state and reason. For "failed to load" the reason is the linker's own
            message, and the original exception is chained. A failure is cached: later calls raise it again
            without retrying.
    """
    global _outcome
    if _outcome is None:
        try:
            _outcome = _load()
        except NativeUnavailable as error:
            _outcome = error
    if isinstance(_outcome, NativeUnavailable):
        raise _outcome
    return _outcome


def _load() -> ModuleType:
    found = sorted(path.name for path in _PACKAGE.glob("_C.*") if path.suffix in (".so", ".pyd"))
    if not found:
        # Written by setup.py when it skips the module.
        note = _PACKAGE / "_build_note.txt"
        why = note.read_text(encoding="utf-8").strip() if note.exists() else "there is none in this source tree"
        raise NativeUnavailable("not built", f"{why}; {_REBUILD}")
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    if "t" in sys.abiflags:  # free-threaded: 3.13 and 3.14 would load a module of the stable ABI, and crash
        suffixes = [suffix for suffix in suffixes if suffix != ".abi3.so"]
    if not any(f"_C{suffix}" in found for suffix in suffixes):
        raise NativeUnavailable(
            "built for something else",
            f"found {', '.join(found)}, but this Python loads {', '.join(f'_C{suffix}' for suffix in suffixes)}; "
            f"{_REBUILD}",
        )
    try:
        module = importlib.import_module("learned_resizer_cuda._C")
    except (ImportError, OSError) as error:
        raise NativeUnavailable("failed to load", str(error)) from error
    version = module.build_record()["version"]
    if version != __version__:
        raise NativeUnavailable(
            "built for something else",
            f"it was built from version {version} of this package, which is now {__version__}; {_REBUILD}",
        )
    return module


def build_record() -> dict[str, Any] | None:
    """How `_C` was built, or None if it cannot be loaded.

    Keys: version, cuda, architectures and ptx (lists, as "90"), host_compiler, python, stable_abi (the
    oldest CPython that loads it, as "3.10"; None: only the one it was built for), ops (the dtype names of each op).
    Creates no CUDA context.
    """
    try:
        return load().build_record()
    except NativeUnavailable:
        return None


def architecture_refusal(record: dict[str, Any], capability: tuple[int, int]) -> str | None:
    """Why a build has no code for a compute capability, or None.

    Machine code for X.y runs on X.z with z >= y; PTX for X.y is compiled by the driver for every newer
    capability (CUDA C++ Programming Guide, "Binary Compatibility" and "PTX Compatibility").
    """
    for arch in record["architectures"]:
        major, minor = divmod(int(arch), 10)
        if major == capability[0] and minor <= capability[1]:
            return None
    for arch in record["ptx"]:
        if divmod(int(arch), 10) <= capability:
            return None
    built = ", ".join(f"sm_{arch}" for arch in record["architectures"])
    return (
        f"native module built for something else: it has code for {built}, this GPU is "
        f"sm_{capability[0]}{capability[1]}; reinstall with LEARNED_RESIZER_CUDA_ARCHS naming it"
    )


def driver_refusal(record: dict[str, Any], driver: int) -> str | None:
    """Why a build cannot run on this driver, or None.

    Args:
        record: `build_record()`.
        driver: newest CUDA version that the driver supports, encoded by CUDA as 13000 for 13.0; 0 for no driver.

    A driver supports every minor version of its major ("Minor Version Compatibility", CUDA Compatibility).
    """
    if driver == 0:
        return "no NVIDIA driver is loaded"
    if driver // 1000 < int(record["cuda"].split(".")[0]):
        return (
            f"native module built for something else: it needs a driver for CUDA {record['cuda']}, "
            f"this one serves up to CUDA {driver // 1000}.{driver % 1000 // 10}"
        )
    return None
