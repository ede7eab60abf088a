"""Memory of this process: how much it may use, and keeping it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_LIMIT = 32 << 20  # the largest that glibc takes
_TRIM_LIMIT = 1 << 30
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def keep_freed_memory() -> bool:
    """Lets glibc's malloc keep up to 1 GiB of freed memory.

    Otherwise it returns it at once, and a training on a CPU asks the kernel for the same pages in every step. Page
    faults took 0.06 of 0.29 CPU seconds in a training step of the learned resizer (64 images of 96×96), and 0.33 of
    0.53 in a step of its plain composition. The setting holds for the whole process until it ends, so only the command
    line calls this.

    Returns:
        Whether there is a glibc that took it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_LIMIT) and mallopt(_M_TRIM_THRESHOLD, _TRIM_LIMIT))


def usable_memory() -> float:
    """Bytes that this process may hold, including what it holds now.

    Infinite if the system does not tell. The least of what the machine and every control group above the process
    (version 1 or 2) have left.
    """
    try:
        available, held = _kilobytes("meminfo", "MemAvailable"), _kilobytes("self/status", "VmRSS")
    except (OSError, KeyError, ValueError):
        return math.inf
    return min([available, *_control_group_rooms()]) + held


def _kilobytes(table: str, field: str) -> int:
    """Bytes of a field that a table of /proc gives in kB."""
    lines = dict(line.split(":", 1) for line in (_PROC / table).read_text().splitlines())
    return int(lines[field].split()[0]) << 10


def _control_group_rooms() -> Iterator[int]:
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's, of which only the root is visible
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(root):
                yield from _room(folder, *files)


def _room(group: Path, limit: str, usage: str, inactive: str) -> Iterator[int]:
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return
        # File pages that are not in use count as usage, but are dropped when memory is short
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        left = int(most) - int((group / usage).read_text()) + int(stat.get(inactive, 0))
    except (OSError, ValueError):
        return
    yield max(left, 0)
