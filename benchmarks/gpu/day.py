"""A call of the GPU day: its budget, commands and rows.

`<call>.rows.jsonl` is the record: a "run" row opens each run of the call, an "environment" row adds to it, every later
row belongs to it. Whoever measures appends a line and flushes it, so that a kill loses nothing. The page and the plots
are made from these files alone (`gpu_report`).
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import gpu_report

ROOT = Path(__file__).resolve().parents[2]
# Wheels of peers are installed here (`--wheels`).
PEERS = ROOT / "build" / "gpu-day-peers"


class Day:
    """A run of one call.

    Args:
        call: its name, which its files carry.
        out: the folder.
        environment: of the run, see `gpu_build.environment`.
        budget: seconds of the whole run.
        device, quick: torch device; tiny sizes.
    """

    def __init__(
        self, call: str, out: Path, environment: dict[str, Any], budget: float, device: str, quick: bool
    ) -> None:
        self.call, self.out, self.device, self.quick = call, out, device, quick
        self.end = time.monotonic() + budget
        self.failed: list[str] = []
        self._lock = threading.RLock()
        self._seen: list[dict[str, Any]] = []
        self._written = 0.0
        out.mkdir(parents=True, exist_ok=True)
        self.rows, self.log, self.failures = (out / f"{call}.{end}" for end in ("rows.jsonl", "log", "failures.txt"))
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        self.failures.unlink(missing_ok=True)
        self._read = self.rows.stat().st_size if self.rows.exists() else 0
        self.add({"kind": "run", "call": call, "time": now, "environment": environment})

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return self.end - time.monotonic()

    def add(self, row: dict[str, Any]) -> None:
        append(self.rows, row)

    def part(self, name: str, state: str, reason: str = "", seconds: float = 0.0) -> None:
        """Record the outcome of a part: "done", "failed", "cut" or "skipped"."""
        with self._lock:
            self.add({"kind": "part", "name": name, "state": state, "reason": reason, "seconds": seconds})
            if state == "failed":
                self.failed.append(name)
            print(f"{name}: {state} after {seconds:.0f} s{': ' if reason else ''}{reason}", flush=True)
        self.write()

    def run(
        self,
        name: str,
        command: Sequence[str],
        budget: float,
        env: dict[str, str] | None = None,
        ends: Callable[[], float] | None = None,
        fine: Sequence[int] = (0,),
    ) -> tuple[str, str]:
        """Run a command under a budget and record its outcome.

        Args:
            name: name of the part.
            command, env: the command, and variables added to its environment.
            budget: seconds.
            ends: if given, returns the latest end, as `time.time` counts, of the command's current section.
            fine: exit codes of a command that did its work.

        Returns:
            The part's state, and the command's output.
        """
        budget = min(budget, self.left)
        if budget < 1:
            self.part(name, "cut", "the call's time was up")
            return "cut", ""
        start = time.monotonic()
        paths = [str(ROOT), str(PEERS), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), **(env or {})}
        # A file, not a pipe: nothing has to read it while the command runs.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            # Its own session, so that its child processes end with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
            )
            state = ""
            while process.poll() is None:
                if time.monotonic() - start > budget or (ends is not None and time.time() > ends()):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    state = "cut"
                    break
                time.sleep(0.1)
                self.poll()
            output.seek(0)
            said = output.read()
        if not self.rows.read_bytes().endswith(b"\n"):
            with self.rows.open("a", encoding="utf-8") as file:
                file.write("\n")  # the process was killed while it wrote a line
        self.poll()
        reason = ""
        if state == "cut":
            reason = f"its time was up after {time.monotonic() - start:.0f} s; it said last: {gpu_report.why(said)}"
        elif process.returncode in fine:
            state = "done"
        else:
            state, reason = "failed", f"exit code {process.returncode}: {gpu_report.why(said)}"
        with self._lock:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"=== {name}: {' '.join(command)}\n{said}\n")
            self.part(name, state, reason, time.monotonic() - start)
        return state, said

    def mine(self) -> list[dict[str, Any]]:
        """Rows of this run."""
        with self._lock:
            self.poll()
            return list(self._seen)

    def poll(self) -> None:
        """Print new failures, and write the page now and then."""
        with self._lock:
            with self.rows.open("rb") as file:
                file.seek(self._read)
                lines = file.read().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):
                lines.pop()  # still being written
            self._read += sum(map(len, lines))
            new = list(gpu_report.parse(lines))
            self._seen += new
            for row in new:
                if row["kind"] == "failure" or (row["kind"] == "test" and row["state"] == "failed"):
                    self.failed.append(row["name"])
                    print(f"FAILED {row['name']}: {gpu_report.why(row['reason'])}", flush=True)
                    with self.failures.open("a", encoding="utf-8") as failures:
                        failures.write(f"=== {row['name']}\n{row['reason']}\n\n")
            if lines and time.monotonic() - self._written > 10:
                self.write()

    def write(self) -> None:
        """Write the page from all rows in the folder."""
        with self._lock:
            gpu_report.write(self.out, [self.out])
            self._written = time.monotonic()

    def finish(self) -> int:
        """Write everything and return the exit code."""
        self.poll()
        pages = gpu_report.write(self.out, [self.out], plots=True)
        failed = ", ".join(dict.fromkeys(self.failed)) or "nothing"
        unequal = [line for row in self.mine() for line in row.get("unequal", ())]
        print(f"{', '.join(map(str, pages))}; failed: {failed}; results that differ: {len(unequal)}", flush=True)
        return int(bool(self.failed or unequal))


def append(file: Path, row: dict[str, Any]) -> None:
    """Append a row in one write: processes share the file."""
    with file.open("ab", buffering=0) as out:
        out.write(json.dumps(row).encode() + b"\n")
