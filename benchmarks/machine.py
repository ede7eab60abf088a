"""The machine that a benchmark ran on."""

from __future__ import annotations

from pathlib import Path


def cpu_name() -> str:
    """Model and number of cores, from /proc/cpuinfo; "unknown CPU" elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else "unknown CPU"
