"""Runs of `benchmarks.gpu.gpu_day` in this process, and stubs of the programs that it starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks" / "gpu" / "gpu_day.py").exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

from benchmarks.gpu import gpu_build, gpu_day  # noqa: E402
from benchmarks.gpu.day import Day  # noqa: E402

QUICK = ("--device", "cpu", "--quick")


def call(out: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and summary of a call at tiny sizes on the CPU."""
    code = gpu_day.main([*arguments, *QUICK, "--out", str(out)])
    return code, summary_in(out)


def summary_in(out: Path) -> dict[str, Any]:
    return json.loads((out / "gpu-day-quick.json").read_text())


def page_in(out: Path) -> str:
    return (out / "gpu-day-quick.md").read_text()


def states(summary: dict[str, Any]) -> dict[str, str]:
    """Outcome of each part."""
    return {part["name"]: part["state"] for part in summary["parts"]}


def new_day(out: Path, name: str = "bars", budget: float = 60.0) -> Day:
    return Day(name, out, gpu_build.environment("cpu", True), budget, "cpu", True)


def put_tool(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of that name, written in Python, first on the path."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{sys.executable}\n{code}")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])
