"""The gpu tests in several processes, every outcome on disk at once.

As a pytest plugin (`-p benchmarks.gpu.gpu_tests`) this module keeps every n-th test, the most telling first, and leaves
out what an earlier process of the run has begun: a process that dies loses one test, and a fresh one runs the rest.
"""

from __future__ import annotations

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu import gpu_report
from benchmarks.gpu.day import Day, append

# A file with gpu tests.
HAS = re.compile(r"^(@pytest\.mark\.gpu|pytestmark = pytest\.mark\.gpu|from tests\.helpers\.gpu_cases)", re.MULTILINE)
# Later in the list, later in the run. The last of them fill the GPU's memory: one process runs them all.
ORDER = (
    ("stream", "graph", "waits", "same_bits", "device"),
    ("compile", "overhead"),
    ("memory", "feature_map", "beyond_int32"),
)
FULL = len(ORDER)
LIMIT = 150.0  # seconds of a test; compiling takes longest
LOST = 70  # exit code: the CUDA context is lost, and every later test of the process would fail too


def files(folder: Path) -> list[Path]:
    """Files with gpu tests."""
    return [file for file in sorted(folder.rglob("test_*.py")) if HAS.search(file.read_text(encoding="utf-8"))]


def run(day: Day, folder: Path, workers: int) -> None:
    """Run all gpu tests of a folder until the call's end."""
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu.gpu_tests", "-m", "gpu", "-q", "--no-header"]
    command += ["-p", "no:cacheprovider", "--tb=short", "--continue-on-collection-errors", *map(str, files(folder))]
    # The oracles compute in float64 on the CPU, one process for each core.
    env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    env |= {"GPU_DAY_ROWS": str(day.rows), "GPU_DAY_FROM": str(day.rows.stat().st_size)}

    def of(index: int) -> list[dict[str, Any]]:
        return [row for row in day.mine() if row["kind"] == "test" and row["share"] == index]

    def ends(index: int) -> float:
        rows = of(index)
        return rows[-1]["time"] + LIMIT if rows and rows[-1]["state"] == "begun" else float("inf")

    def share(index: int) -> None:
        mine = {**env, "GPU_DAY_SHARE": f"{index}/{workers}"}
        name, fine = f"tests {index + 1} of {workers}", (0, 1, 5, LOST)
        while day.left > 1:
            state, _ = day.run(name, command, day.left, mine, lambda: ends(index), fine)
            rows = of(index)
            if not rows or (rows[-1]["state"] != "begun" and not rows[-1].get("lost")):
                return
            if rows[-1]["state"] == "begun":
                why = "its process died" if state != "cut" else f"it had not ended after {LIMIT:.0f} s"
                over = day.left <= 1
                day.add(_row(rows[-1]["name"], "cut" if over else "failed", "the call's end" if over else why, index))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(share, range(workers)))
    counts = gpu_report.counts(day.mine())
    words = ", ".join(f"{count} {state}" for state, count in counts.items())
    state = "done" if counts["passed"] or day.device == "cpu" else "failed"
    day.part("tests", state, words or "no test ran")


def _row(name: str, state: str, reason: str, share: int) -> dict[str, Any]:
    row = {"kind": "test", "section": "tests", "name": name, "state": state, "reason": reason}
    return {**row, "share": share, "time": time.time()}


class Plugin:
    """Chooses this process's tests and appends their outcomes."""

    def __init__(self) -> None:
        self.rows, self.start = Path(os.environ["GPU_DAY_ROWS"]), int(os.environ["GPU_DAY_FROM"])
        self.index, self.count = map(int, os.environ["GPU_DAY_SHARE"].split("/"))
        self.reports: list[Any] = []

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Keep the gpu tests of this share that have not begun."""
        begun = {row["name"] for row in gpu_report.rows(self.rows, self.start) if row["kind"] == "test"}
        ordered = sorted((item for item in items if item.get_closest_marker("gpu")), key=lambda item: rank(item.nodeid))
        full = [item for item in ordered if rank(item.nodeid) == FULL]
        spread = [item for item in ordered if rank(item.nodeid) < FULL]
        share = [*spread[self.index :: self.count], *(full if self.index == self.count - 1 else [])]
        items[:] = [item for item in share if item.nodeid not in begun]

    def append(self, name: str, state: str, reason: str = "", **more: Any) -> None:
        append(self.rows, {**_row(name, state, reason, self.index), **more})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.reports = []
        self.append(nodeid, "begun")

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        bad = [report for report in self.reports if report.failed]
        skipped = [report for report in self.reports if report.skipped]
        if not bad:
            reason = skipped[0].longrepr[2].removeprefix("Skipped: ") if skipped else ""  # of file, line and reason
            self.append(nodeid, "skipped" if skipped else "passed", reason)
            return
        reason = bad[0].longreprtext[-8000:]
        # Out-of-memory has a message of its own and leaves the context whole.
        lost = "CUDA error" in reason
        self.append(nodeid, "failed", reason, lost=lost)
        if lost:
            os._exit(LOST)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.index == 0:
            self.append(report.nodeid, "failed", report.longreprtext)


def rank(name: str) -> int:
    """Place in the order: values first."""
    test = name.partition("::")[2]
    return max((place for place, words in enumerate(ORDER, 1) if any(word in test for word in words)), default=0)


def pytest_configure(config: Any) -> None:
    import pytest

    from tests.helpers import kernels_host

    config.pluginmanager.register(Plugin(), "gpu-day")
    # It takes minutes: a comparison with the kernels on the host belongs on a machine without a GPU, the rest here.
    kernels_host.start = lambda: None  # type: ignore[assignment]
    kernels_host.build = lambda: pytest.skip("compiles the kernels for the host")
