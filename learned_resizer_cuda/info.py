"""Versions, native build and backend of each op, as dict and text."""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

from . import backend
from ._version import __version__
from .kernels import native

_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def info() -> dict[str, Any]:
    """Versions, native build, its GPUs and each op's backend on this machine.

    Returns:
        A dict that ``json.dumps`` takes, with these keys.

        - ``"versions"``: of this package, python, torch, torch's CUDA, triton, numpy, the NVIDIA driver and the newest
          CUDA it supports; None if absent.
        - ``"devices"``: a dict for each CUDA device of torch: ``name``, ``capability`` (as ``"9.0"``).
        - ``"native"``: ``state`` (``"loaded"``, ``"not built"``, ``"built for something else"`` or
          ``"failed to load"``), ``reason`` (None if loaded) and ``record``, how the native module was built (None
          unless loaded): ``version``, ``cuda``, ``architectures`` and ``ptx`` (lists, as ``"90"``),
          ``host_compiler``, ``python`` that built it, ``stable_abi`` (the oldest Python that loads it, or None if
          only ``python`` does), ``ops`` (the names of each op's dtypes).
        - ``"backend"``: asked for by ``use_backend``.
        - ``"ops"``: for each op and each of ``"cpu"``, ``"cuda"`` and ``"other"`` (mps, xpu, any other device of
          torch): ``backend`` (``"torch"``, ``"native"`` or None if neither can run), ``native_refused`` (why native
          cannot run, or None); for float32 on the current GPU, for ``resample_fixed`` uint8.

    Examples:
        >>> from learned_resizer_cuda import info
        >>> found = info()
        >>> sorted(found)
        ['backend', 'devices', 'native', 'ops', 'versions']
        >>> found["ops"]["resample"]["cpu"]["native_refused"]
        'native kernels run on CUDA tensors only, not on cpu'
    """
    try:
        record = native.load().build_record()
        state, reason = "loaded", None
    except native.NativeUnavailable as error:
        record, state, reason = None, error.state, error.reason
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    driver, driver_cuda = _driver()
    return {
        "versions": {
            "learned-resizer-cuda": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "torch's CUDA": torch.version.cuda,
            "triton": _installed("triton"),
            "numpy": _installed("numpy"),
            "NVIDIA driver": driver,
            "driver's CUDA": driver_cuda,
        },
        "devices": [
            {
                "name": torch.cuda.get_device_name(device),
                "capability": "{}.{}".format(*torch.cuda.get_device_capability(device)),
            }
            for device in devices
        ],
        "native": {"state": state, "reason": reason, "record": record},
        "backend": backend.current(),
        "ops": {
            op: {"cpu": _route(op, "cpu"), "cuda": _route(op, "cuda"), "other": _route(op, "mps")} for op in _ops()
        },
    }


def format_info(found: dict[str, Any]) -> str:
    """The dict of `info` as text, without a trailing newline."""
    lines = []
    width = max(len(name) for name in found["versions"])
    for name, version in found["versions"].items():
        lines.append(f"{name:<{width}}  {version if version is not None else '-'}")
    lines.append("")
    if found["devices"]:
        for index, device in enumerate(found["devices"]):
            lines.append(f"cuda:{index}: {device['name']}, compute capability {device['capability']}")
    else:
        lines.append("CUDA devices: torch sees none")
    lines.append("")
    record = found["native"]["record"]
    if record is None:
        lines.append(f"native module: {found['native']['state']} ({found['native']['reason']})")
    else:
        codes = [f"sm_{arch}" for arch in record["architectures"]] + [f"PTX {arch}" for arch in record["ptx"]]
        lines.append(f"native module: version {record['version']}, for {', '.join(codes)}")
        pythons = f"{record['stable_abi']} and newer" if record["stable_abi"] else f"{record['python']} alone"
        lines.append(f"  built with CUDA {record['cuda']}, {record['host_compiler']}, for CPython {pythons}")
        for op, dtypes in record["ops"].items():
            lines.append(f"  {op}: {', '.join(dtypes)}")
    lines.append("")
    lines.append(f"backend of each op here, asked for {found['backend']!r}, float32 (resample_fixed: uint8):")
    for op, routes in found["ops"].items():
        lines += [f"  {op} on {kind}: {_route_text(routes[kind])}" for kind in ("cpu", "cuda")]
    lines.append(f"  every op on other devices (mps, xpu, …): {_route_text(found['ops']['resample']['other'])}")
    return "\n".join(lines)


def _ops() -> tuple[str, ...]:
    from .ops import KERNELS

    return KERNELS


def _route(op: str, kind: str) -> dict[str, str | None]:
    dtype = torch.uint8 if op == "resample_fixed" else torch.float32
    refused = backend.refusal(op, torch.device(kind), dtype)
    taken: str | None = "torch"
    if (kind == "cuda" and not torch.cuda.is_available()) or (backend.current() == "native" and refused):
        taken = None
    elif backend.current() != "torch" and not refused:
        taken = "native"
    return {"backend": taken, "native_refused": refused}


def _route_text(route: dict[str, str | None]) -> str:
    refused = f" (not native: {route['native_refused']})" if route["native_refused"] else ""
    return (route["backend"] or "none") + refused


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> tuple[str | None, str | None]:
    """Versions of NVIDIA's driver and newest supported CUDA, without a CUDA context."""
    version = None
    if _DRIVER_FILE.exists():
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER_FILE.read_text(encoding="utf-8"))
        version = found.group(1) if found else None
    if version is None:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
            version = result.stdout.splitlines()[0].strip() if result.stdout else None
        except (OSError, subprocess.SubprocessError):
            version = None
    served = ctypes.c_int(0)
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(served))
    except OSError:
        return version, None
    cuda = f"{served.value // 1000}.{served.value % 1000 // 10}" if status == 0 else None
    return version, cuda
