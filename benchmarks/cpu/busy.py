"""Slowdown of training on a busy CPU, by how OpenMP's threads wait.

    python -m benchmarks.cpu.busy    # eight minutes on two cores; writes benchmarks/results/busy.json
    python -m benchmarks.cpu.busy --steps 10 --rounds 1 --settings command    # a short run

For each way of waiting, runs two stages of `learned-resizer train` in fresh processes, alternately on an idle machine
and with one core kept busy. The factor is the stage's wall time on the busy machine over that on the idle one. Measure
on a machine without other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import cpu_name
from learned_resizer_cuda.waiting import SETTINGS

RESULTS = Path(__file__).resolve().parents[1] / "results"
ARMS = ("bilinear", "learned")
WAITING: dict[str, dict[str, str]] = {
    # libgomp's default, spelled out because the command would set its own.
    "default": {"GOMP_SPINCOUNT": "300000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "command": {},
}


@contextmanager
def busy_core() -> Iterator[None]:
    """One core kept busy by another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def train(run: Path, arguments: Sequence[str], environment: dict[str, str]) -> None:
    """`learned-resizer train` in a process and a folder of its own, with no other settings of waiting than these.

    Raises:
        RuntimeError: it failed.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    command = [sys.executable, "-m", "learned_resizer_cuda", "train", *arguments, "--output", str(run)]
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def save(path: Path, **found: Any) -> None:
    """Results with the date and the machine."""
    environment = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": str(torch.__version__)}
    found = {"date": date.today().isoformat(), **environment, **found}
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def stages(environment: dict[str, str], steps: int) -> dict[str, float]:
    """Wall seconds of each arm's stage in a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        train(run, ["--steps", str(steps), "--seeds", "1", "--arms", ",".join(ARMS)], environment)
        results = {arm: next(run.glob(f"stages/{arm}-*/result.json")) for arm in ARMS}
        return {arm: json.loads(path.read_text(encoding="utf-8"))["wall_seconds"] for arm, path in results.items()}


def measure(settings: Sequence[str], steps: int, rounds: int) -> list[dict[str, Any]]:
    """One row per way of waiting and arm: median seconds idle and busy, and their ratio."""
    seconds: dict[tuple[str, str], dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name in settings:
            idle = stages(WAITING[name], steps)
            with busy_core():
                busy = stages(WAITING[name], steps)
            for arm in ARMS:
                kept = seconds.setdefault((name, arm), {"idle": [], "busy": []})
                kept["idle"].append(idle[arm])
                kept["busy"].append(busy[arm])
                print(f"{name:8} {arm:9} idle {idle[arm]:6.2f} s  busy {busy[arm]:6.2f} s", flush=True)
    rows = []
    for (name, arm), kept in seconds.items():
        idle, busy = statistics.median(kept["idle"]), statistics.median(kept["busy"])
        rows.append({"waiting": name, "arm": arm, "idle_s": idle, "busy_s": busy, "factor": busy / idle, "all_s": kept})
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each stage (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: %(default)s)")
    parser.add_argument("--settings", default=",".join(WAITING), help="ways of waiting (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULTS / "busy.json", help="file (default: %(default)s)")
    options = parser.parse_args(argv)
    names = options.settings.split(",")
    if unknown := set(names) - set(WAITING):
        parser.error(f"--settings: got {', '.join(sorted(unknown))}; expected some of {', '.join(WAITING)}")
    rows = measure(names, options.steps, options.rounds)
    save(options.output, steps=options.steps, busy=rows)
    for row in rows:
        print(f"{row['waiting']:8} {row['arm']:9} {row['idle_s']:6.2f} → {row['busy_s']:6.2f} s: {row['factor']:.2f}×")
    return 0


if __name__ == "__main__":
    sys.exit(main())
