"""Build, tests, sanitizer and benchmarks on a machine with a GPU, in under nine minutes.

    python benchmarks/gpu/gpu_day.py                      # build, test, sanitize, bench
    python benchmarks/gpu/gpu_day.py --parts bench --out results
    python benchmarks/gpu/gpu_day.py --device cpu --quick --parts bench    # the same code at tiny sizes, without a GPU

Each part runs in its own processes, under a budget: a part that overruns is cut and reported as cut, and the results
keep its rows so far. They are written again with every new row. Writes into the folder `--out`:
`<device>.json`, `.md`, `.png`, `-roofline.png`, `.rows.jsonl` (every row as measured) and `.log`.

Exits with 1 if a part failed or a result differs, 0 otherwise; parts that are cut or skipped do not count.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# Last on the path: an installed package must win over the source tree.
sys.path.append(str(ROOT))

from benchmarks.gpu import gpu_report  # noqa: E402

# Seconds of each part; together eight and a half minutes.
BUDGETS = {"build": 120.0, "test": 130.0, "sanitize": 80.0, "bench": 180.0}
# Share of the bench's time by section, in order; time left over goes to the later ones.
SECTIONS = {"roofs": 5, "resizer": 12, "resample": 18, "resize": 15, "kernels": 15, "resnet": 12, "compiled": 23}
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
PEERS = ("torchvision", "kornia", "lanczos-triton", "resize-right", "pillow")


class Day:
    """One run: its options, the outcome of each part, and the files."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.lock = threading.RLock()
        self.parts: list[dict[str, Any]] = []
        self.environment = environment(options.device, options.quick)
        self.end = time.monotonic() + options.budget
        options.out.mkdir(parents=True, exist_ok=True)
        name = "gpu-day-quick" if options.quick else self.environment["device"]
        self.stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.rows, self.log = self.path(".rows.jsonl"), self.path(".log")
        for file in (self.rows, self.log):
            file.write_text("", encoding="utf-8")

    def path(self, ending: str) -> Path:
        return self.options.out / f"{self.stem}{ending}"

    def part(self, name: str, state: str, reason: str = "", seconds: float = 0.0) -> None:
        self.parts.append({"name": name, "state": state, "reason": reason, "seconds": seconds})
        print(f"{name}: {state} after {seconds:.0f} s{': ' if reason else ''}{reason}", flush=True)
        self.write()

    def run(
        self,
        name: str,
        command: Sequence[str],
        budget: float,
        env: dict[str, str] | None = None,
        ends: Callable[[], float] | None = None,
    ) -> tuple[str, str]:
        """Run a command under a budget and record its outcome.

        Args:
            name: name of the part.
            command, env: the command, and variables added to its environment.
            budget: seconds.
            ends: if given, returns the latest end, as `time.time` counts, of the command's current section.

        Returns:
            The part's state, and the command's output.
        """
        budget = min(budget, self.end - time.monotonic())
        if budget < 1:
            self.part(name, "cut", "the whole run's time was up")
            return "cut", ""
        start = time.monotonic()
        # A file, not a pipe: nothing has to read it while the command runs.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            # Its own session, so that its child processes end with it.
            process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            state, reason, written = "", "", 0
            while process.poll() is None:
                if time.monotonic() - start > budget or (ends is not None and time.time() > ends()):
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    state, reason = "cut", f"its time was up after {time.monotonic() - start:.0f} s"
                    break
                time.sleep(0.2)
                if self.rows.stat().st_size != written:
                    written = self.rows.stat().st_size
                    self.write()
            output.seek(0)
            said = output.read()
        if not state:
            state = "done" if process.returncode == 0 else "failed"
            if state == "failed":
                reason = f"exit code {process.returncode}: {last_line(said)}"
        with self.lock:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"=== {name}: {' '.join(command)}\n{said}\n")
            self.part(name, state, reason, time.monotonic() - start)
        return state, said

    def lines(self) -> list[dict[str, Any]]:
        """All rows so far."""
        rows = []
        for line in self.rows.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # a process was cut while it wrote the line
                continue
        return rows

    def summary(self) -> dict[str, Any]:
        return gpu_report.summarise(self.environment, self.lines(), self.parts)

    def write(self, plots: dict[str, str] | None = None) -> dict[str, Any]:
        """Write the results so far; a reader never sees half a file."""
        with self.lock:
            return self._write(plots)

    def _write(self, plots: dict[str, str] | None) -> dict[str, Any]:
        summary = self.summary()
        pages = {".json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n"}
        pages[".md"] = gpu_report.markdown(summary, plots or {})
        for ending, text in pages.items():
            whole, new = self.path(ending), self.path(f"{ending}.new")
            new.write_text(text, encoding="utf-8")
            new.replace(whole)
        return summary

    def finish(self) -> int:
        summary, plots = self.summary(), {}
        try:
            from benchmarks.plot import draw

            if summary["time"]:
                draw(summary, self.path(".png"))
                plots["ratios"] = self.path(".png").name
            if gpu_report.draw_roofline(summary, self.path("-roofline.png")):
                plots["roofline"] = self.path("-roofline.png").name
        except ImportError as error:
            self.part("plots", "skipped", str(error))
        self.write(plots)
        failed = [part["name"] for part in self.parts if part["state"] == "failed"]
        failed += [row["name"] for row in self.lines() if row["kind"] == "failure"]
        print(f"{self.path('.md')}: {len(summary['time'])} ratios; failed: {', '.join(failed) or 'nothing'}")
        return int(bool(failed or summary["unequal"]))


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def _query(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def environment(device: str, quick: bool) -> dict[str, Any]:
    """Machine and versions, in the form of `benchmarks.report` and more. Makes no CUDA context."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    fields = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    gpu = _query(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]) if device != "cpu" else None
    state = [word.strip() for word in gpu.splitlines()[0].split(",")] if gpu else []
    if device != "cpu" and not state:
        name = _query([sys.executable, "-c", "import torch; print(torch.cuda.get_device_name())"])
        state = [name, "unknown"] if name else []
    commit = _query(["git", "rev-parse", "HEAD"])
    changed = _query(["git", "status", "--porcelain", "--untracked-files=no"])
    versions = ("learned-resizer-cuda", "torch", "triton", "torchvision", "kornia", "numpy")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": (commit or "unknown")[:10] + (" with changes" if changed else ""),
        "device_type": device.split(":")[0],
        "device": state[0] if state else f"{device}{', quick' if quick else ''}",
        "threads": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in versions},
        "driver": state[1] if state else None,
        "state": f"before: {', '.join(f'{n} {v}' for n, v in zip(fields.split(',')[2:], state[2:], strict=False))}"
        if state[2:]
        else None,
        "peers": {name: version(name) for name in PEERS},
    }


def build(day: Day) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--force-reinstall", "."]
    day.run("build", pip, BUDGETS["build"])
    code = "import json, learned_resizer_cuda as lr; print(json.dumps(lr.info()))"
    # Away from the source tree, which has no native module.
    found = _query([sys.executable, *_SAFE_PATH, "-c", f"import os; os.chdir('/'); {code}"])
    try:
        day.environment["info"] = json.loads(found or "null")
    except ValueError:
        day.environment["info"] = found
    state = ((day.environment["info"] or {}).get("native") or {}).get("state")
    ready = state == "loaded" or day.options.device == "cpu"
    day.part("native module", "done" if ready else "failed", str(state))


# Keeps the working folder, the source tree, off the path.
_SAFE_PATH = ["-P"] if sys.version_info >= (3, 11) else ["-I"]


def test(day: Day) -> None:
    command = [sys.executable, *_SAFE_PATH, "-m", "pytest", "-m", "gpu", "tests", "-q", "--no-header", "--tb=short"]
    state, said = day.run("test", [*command, "--continue-on-collection-errors", "--durations=10"], BUDGETS["test"])
    if state != "cut":
        day.parts[-1]["reason"] = last_line(said)


def sanitize(day: Day) -> None:
    """All tools at once, since each occupies one core of the host. They check torch's few kernels too."""
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
    exerciser = str(ROOT / "benchmarks" / "gpu" / "sanitize.py")
    if tool is None or day.options.device == "cpu":
        reason = "compute-sanitizer is not installed" if tool is None else "compute-sanitizer watches GPUs only"
        day.part("sanitize", "skipped", reason)
        return
    # Without torch's cache every tensor is its own allocation, so that the tools see its end and its first write.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [tool, "--error-exitcode", "99", "--tool"]
    with ThreadPoolExecutor(len(TOOLS)) as pool:
        for name in TOOLS:
            whole = [*command, name, sys.executable, exerciser]
            pool.submit(day.run, f"sanitize {name}", whole, BUDGETS["sanitize"], env)


def bench(day: Day) -> None:
    """One process for all sections; if it breaks or hangs, another one for the rest."""
    left = day.options.sections
    end = time.time() + (50.0 if day.options.quick else BUDGETS["bench"])
    script = str(ROOT / "benchmarks" / "gpu" / "gpu_worker.py")
    while left and time.time() < end:
        shares = [f"{name}={SECTIONS[name]}" for name in left]
        worker = [sys.executable, script, str(day.rows), day.options.device, str(end), *shares]
        before = len(day.lines())

        def begun(before: int = before) -> list[dict[str, Any]]:
            return [row for row in day.lines()[before:] if row["kind"] == "begun"]

        def ends(begun: Callable[[], list[dict[str, Any]]] = begun) -> float:
            rows = begun()
            return rows[-1]["kill_at"] if rows else end

        options = ["--quick"] if day.options.quick else []
        state, _ = day.run(f"bench {', '.join(left)}", [*worker, *options], end + 10 - time.time(), ends=ends)
        if state == "done":
            return
        rows = begun()
        if not rows:
            return  # it did not start, and the next one would not either
        last = rows[-1]["name"]
        day.part(f"section {last}", state, "it failed or overran here; the later sections run in another process")
        left = left[left.index(last) + 1 :]
    if left:
        day.part(f"bench {', '.join(left)}", "cut", "the bench's time was up")


PARTS = {"build": build, "test": test, "sanitize": sanitize, "bench": bench}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, in this order (default: %(default)s)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="sections of the bench (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--budget", type=float, default=530.0, help="seconds of the whole run (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    for name, known in (("parts", PARTS), ("sections", SECTIONS)):
        chosen = [word for word in getattr(options, name).split(",") if word]
        unknown = [word for word in chosen if word not in known]
        if unknown or not chosen:
            parser.error(f"--{name}: got {getattr(options, name)!r}; expected some of {','.join(known)}")
        setattr(options, name, [word for word in known if word in chosen])
    if options.device != "cpu" and importlib.util.find_spec("torch") is None:
        parser.error("--device: torch is not installed")
    options.out = options.out.resolve()
    day = Day(options)
    for name in options.parts:
        PARTS[name](day)
    return day.finish()


if __name__ == "__main__":
    sys.exit(main())
