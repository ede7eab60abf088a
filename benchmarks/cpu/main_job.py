"""Wall time of `learned-resizer train` as the README has it, alone and beside a busy process.

    python -m benchmarks.cpu.main_job              # twenty minutes; writes benchmarks/results/main-job.json
    python -m benchmarks.cpu.main_job --steps 4    # a short run

With the default number of jobs, and with one stage after the other. Raises an error if the four runs differ in a figure
or in a weight of the learned resizer. Measure on a machine without other work.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.cpu.busy import RESULTS, busy_core, save, train

JOBS: dict[str, tuple[str, ...]] = {"default": (), "1": ("--jobs", "1")}
SECONDS = ("cpu_seconds", "wall_seconds")


def timed(folder: Path, arguments: Sequence[str]) -> float:
    """Wall seconds of the command, its start included."""
    start = time.perf_counter()
    train(folder, arguments, {})
    return time.perf_counter() - start


def outcome(folder: Path) -> tuple[list[dict[str, str]], bytes]:
    """A run's figures but for times, and the bytes of its learned resizer's weights."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: value for name, value in row.items() if name not in SECONDS} for row in csv.DictReader(file)]
    weights = (folder / "resizer.safetensors").read_bytes()
    # Without the header, which holds its notes in any order
    return rows, weights[8 + int.from_bytes(weights[:8], "little") :]


def measure(arguments: Sequence[str]) -> list[dict[str, Any]]:
    """One row per number of jobs: seconds idle and busy.

    Raises:
        RuntimeError: a run failed, or its figures or weights are not those of the first one.
    """
    rows: list[dict[str, Any]] = []
    first = None
    with tempfile.TemporaryDirectory() as root:
        for name, jobs in JOBS.items():
            row: dict[str, Any] = {"jobs": name}
            for state, beside in (("idle", nullcontext), ("busy", busy_core)):
                folder = Path(root) / f"{name}-{state}"
                with beside():
                    row[f"{state}_s"] = timed(folder, [*arguments, *jobs])
                print(f"{name:8} {state} {row[f'{state}_s']:6.1f} s", flush=True)
                found = outcome(folder)
                first = first or found
                if found != first:
                    raise RuntimeError(f"jobs {name}, {state}: other figures or weights than the first run's")
            rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="optimizer steps of each stage (default: the command's)")
    parser.add_argument("--output", type=Path, default=RESULTS / "main-job.json", help="file (default: %(default)s)")
    options = parser.parse_args(argv)
    rows = measure([] if options.steps is None else ["--steps", str(options.steps)])
    save(options.output, main_job=rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
