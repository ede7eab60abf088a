"""Native module for this GPU, peers from wheels, record of the machine."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.day import PEERS, ROOT, Day

# The module with the digest of its sources. Git ignores the folder: it survives on the machine between calls, and a
# copy of it (`right` puts one into the results) spares another machine the build.
KEPT = ROOT / "build" / "gpu-day"
NAMES = ("torchvision", "kornia", "lanczos-triton", "resize-right", "resampler", "torchlanc", "pillow")


def query(command: Sequence[str]) -> str | None:
    """What a short command prints, or None if it fails."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def smi(fields: str) -> list[str]:
    """Fields of the first GPU as nvidia-smi prints them; [] without one."""
    said = query(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"])
    return [word.strip() for word in said.splitlines()[0].split(",")] if said else []


def commit() -> str:
    """The checkout's commit, and whether files differ from it."""
    changed = query(["git", "status", "--porcelain", "--untracked-files=no"])
    return (query(["git", "rev-parse", "HEAD"]) or "unknown")[:10] + (" with changes" if changed else "")


def environment(device: str, quick: bool, of_commit: str | None = None) -> dict[str, Any]:
    """Machine and versions, in the form of `benchmarks.report` and more. Makes no CUDA context."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    fields = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    state = smi(fields) if device != "cpu" else []
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": of_commit or commit(),
        "device_type": device.split(":")[0],
        "device": "gpu-day-quick" if quick else state[0] if state else device,
        "threads": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("torch", "triton", "torchvision", "numpy")},
        "driver": state[1] if state else None,
        "state": "before: " + ", ".join(f"{n} {v}" for n, v in zip(fields.split(",")[2:], state[2:], strict=False))
        if state[2:]
        else None,
        "peers": {name: version(name) for name in NAMES},
        "native": "not looked for yet",
    }


def digest(arch: str) -> str:
    """Of everything that the module's code depends on."""
    found = hashlib.sha256(f"{arch} {sys.version}".encode())
    sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
    for path in sorted([*sources, ROOT / "CMakeLists.txt", ROOT / "setup.py"]):
        found.update(path.read_bytes())
    return found.hexdigest()


def build(day: Day) -> bool:
    """Build the module into the source tree; return whether it runs.

    An earlier call's is taken if its sources and GPU are the same. On a CPU none is needed.
    """
    if day.device == "cpu":
        day.add({"kind": "environment", "native": "none: a rehearsal on the CPU, in pure torch"})
        return True
    capability = smi("compute_cap")
    arch = capability[0].replace(".", "") if capability else ""
    wanted, stamp = digest(arch), KEPT / "digest.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        _copy(KEPT, ROOT / "learned_resizer_cuda")
        day.part("build", "done", "of an earlier call")
    else:
        objects = str(ROOT / "build" / "gpu-day-objects")
        command = [sys.executable, "setup.py", "build_ext", "--inplace", "--build-temp", objects]
        env = {"LEARNED_RESIZER_CUDA": "1", "LEARNED_RESIZER_CUDA_ARCHS": arch}
        if day.run("build", command, day.left, env)[0] != "done":
            return False
        KEPT.mkdir(parents=True, exist_ok=True)
        _copy(ROOT / "learned_resizer_cuda", KEPT)
        stamp.write_text(wanted)
    native, reason, versions = found()
    day.add({"kind": "environment", "native": native or reason, "versions": versions})
    day.part("native module", "done" if native else "failed", native or f"nothing is measured: {reason}")
    return native is not None


def keep(day: Day) -> None:
    """Put the module into the results, for `carry`."""
    if day.device != "cpu":
        _copy(KEPT, day.out)
        shutil.copy(KEPT / "digest.txt", day.out)


def found() -> tuple[str | None, str, dict[str, str]]:
    """How the module was built or None, why it cannot run, versions."""
    code = "import json, learned_resizer_cuda as lr; print(json.dumps(lr.info()))"
    said = query([sys.executable, "-c", code])
    if said is None:
        return None, "learned_resizer_cuda cannot be imported", {}
    info = json.loads(said)
    if info["native"]["state"] != "loaded":
        return None, f"native module {info['native']['state']}: {info['native']['reason']}", info["versions"]
    refused = info["ops"]["resample"]["cuda"]["native_refused"]
    record = info["native"]["record"]
    architectures = ", ".join(f"sm_{arch}" for arch in record["architectures"])
    native = None if refused else f"loaded: {architectures}, CUDA {record['cuda']}"
    return native, refused or "", info["versions"]


def install(day: Day, wheels: Path) -> None:
    """Install peers into `PEERS`, without a network and without dependencies."""
    files = sorted(map(str, wheels.glob("*.whl")))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--no-compile"]
    day.run("wheels", [*pip, "--find-links", str(wheels), "--target", str(PEERS), *files], 60)
    sys.path.append(str(PEERS))
    day.add({"kind": "environment", "peers": environment("cpu", False)["peers"]})


def _copy(source: Path, target: Path) -> None:
    for file in source.glob("_C.*.so"):
        if not (target / file.name).exists() or (target / file.name).read_bytes() != file.read_bytes():
            shutil.copy(file, target)
