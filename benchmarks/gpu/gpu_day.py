"""Build, tests, counters, bars and sanitizers on a machine with a GPU.

    python benchmarks/gpu/gpu_day.py plan                             # the commands of a whole day, to paste
    python benchmarks/gpu/gpu_day.py right --out results              # one call
    python benchmarks/gpu/gpu_day.py report --out results day1 day2   # one page of several folders
    python benchmarks/gpu/gpu_day.py bars --device cpu --quick        # the same code at tiny sizes, without a GPU

Every call builds the native module for this GPU first, unless an earlier call has, and stops if it does not load. It
writes what it finds as it goes: `<call>.rows.jsonl` (every row as measured), `<call>.log`, and from all calls in the
folder together `<device>.json`, `.md` and plots. Calls run in any order, and again: a section's last run counts.

Exits with 1 if a part or a test failed or a result differs, 0 otherwise; parts that are cut or skipped do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu import gpu_build, gpu_ncu, gpu_report, gpu_tests
from benchmarks.gpu.day import ROOT, Day

# Share of the time by section, in order; time left over goes to the later ones.
BARS = {"roofs": 5, "resizer": 15, "resample": 22, "resize": 20, "kernels": 20, "resnet": 18}
SECTIONS = {**BARS, "launches": 1, "compiled": 1}


def right(day: Day, options: argparse.Namespace) -> None:
    """Launches of a call, then the gpu tests."""
    gpu_build.keep(day)
    bench(day, ["launches"], day.left / 4)
    for row in day.mine():
        if row["kind"] == "launches" and day.device != "cpu" and not 0 < row["launches"] <= row["most"]:
            day.part(row["name"], "failed", f"{row['launches']} launches, expected 1 to {row['most']}")
    workers = 2 if day.quick else max(2, min(14, (os.cpu_count() or 4) - 2))
    gpu_tests.run(day, options.tests, workers)


def profile(day: Day, options: argparse.Namespace) -> None:
    """Counters of every kernel, or times where ncu cannot read counters."""
    if not gpu_ncu.profile(day, options.targets):
        bench(day, ["kernels"], day.left)


def bars(day: Day, options: argparse.Namespace) -> None:
    """Roofs, resizer, resample, resize, kernels and ResNet beside their peers."""
    bench(day, options.sections, day.left)


def compiled(day: Day, _: argparse.Namespace) -> None:
    """The resizer beside torch.compile with max-autotune, forward and backward."""
    bench(day, ["compiled"], day.left)


def sanitize(day: Day, _: argparse.Namespace) -> None:
    """Three of compute-sanitizer's tools at once, then racecheck, the slow one, alone."""
    tool = shutil.which("compute-sanitizer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/cuda/bin"]))
    if tool is None:
        day.part("sanitize", "skipped", "compute-sanitizer is not installed")
        return
    # Without torch's cache every tensor is its own allocation, so that the tools see its end and its first write.
    env = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    script = [sys.executable, "-u", str(ROOT / "benchmarks" / "gpu" / "sanitize.py"), "--device", day.device]

    def check(name: str, budget: float) -> None:
        day.run(f"sanitize {name}", [tool, "--error-exitcode", "99", "--tool", name, *script], budget, env)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(check, ("memcheck", "synccheck", "initcheck"), [day.left * 0.45] * 3))
    check("racecheck", day.left)


def bench(day: Day, sections: list[str], seconds: float) -> None:
    """Measure in one process; if it breaks, another one does the rest."""
    end = time.time() + min(seconds, day.left)
    script = str(ROOT / "benchmarks" / "gpu" / "gpu_worker.py")
    # So that a second call of `compiled` begins where the first one was cut.
    env = {"TORCHINDUCTOR_CACHE_DIR": str(ROOT / "build" / "gpu-day-inductor")}
    left = [name for name in SECTIONS if name in sections]
    while left and time.time() < end:
        shares = [f"{name}={SECTIONS[name]}" for name in left]
        worker = [sys.executable, script, str(day.rows), day.device, str(end), *shares]
        before = len(day.mine())

        def begun(before: int = before) -> list[dict[str, Any]]:
            return [row for row in day.mine()[before:] if row["kind"] == "begun"]

        def ends(begun: Callable[[], list[dict[str, Any]]] = begun) -> float:
            rows = begun()
            return rows[-1]["kill_at"] if rows else end

        command = [*worker, *(["--quick"] if day.quick else [])]
        state, _ = day.run(f"measure {', '.join(left)}", command, end - time.time(), env, ends)
        if state == "done":
            return
        rows = begun()
        if not rows:
            return  # it did not start, and the next one would not either
        last = rows[-1]["name"]
        day.part(f"section {last}", state, "it failed or overran here; the later sections run in another process")
        left = left[left.index(last) + 1 :]
    if left:
        day.part(f"measure {', '.join(left)}", "cut", "the time was up")


# With the build in each, at most; together under 27 minutes, so that the machine's start fits into 30.
CALLS: dict[str, tuple[Callable[[Day, argparse.Namespace], None], float]] = {
    "right": (right, 420.0),
    "profile": (profile, 270.0),
    "bars": (bars, 360.0),
    "sanitize": (sanitize, 240.0),
    "compiled": (compiled, 300.0),
}


def plan() -> str:
    """The commands of a whole day, the most telling first."""
    commit = f'--commit "{gpu_build.commit()}"'
    lines = [
        "Wheels of peers, once, where there is a network (7 MB; put /.whl/ into .git/info/exclude):",
        f"  {WHEELS}",
        "",
        "Then one after the other, each with its time limit. Carry .whl along with `bars`. A machine that stays warm",
        "keeps the build. For a fresh one put the _C.*.so and digest.txt that `right` brought back into build/gpu-day,",
        "and carry that folder; do not name it before, or the machine's own is removed.",
    ]
    for name, (_, budget) in CALLS.items():
        wheels = "--wheels .whl " if name == "bars" else ""
        command = f"python3 -u benchmarks/gpu/gpu_day.py {name} --out $OUT --budget {budget:.0f} {wheels}{commit}"
        lines.append(f"  {budget + 15:.0f} s  {command}")
    lines.append("At last, here, from the folders that came back:")
    lines.append("  python benchmarks/gpu/gpu_day.py report --out benchmarks/results FOLDER…")
    return "\n".join(lines)


WHEELS = (
    "python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "
    "--platform manylinux_2_17_x86_64 --platform any -d .whl "
    "kornia kornia_rs resize-right lanczos-triton resampler torchlanc"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("call", choices=[*CALLS, "report", "plan"])
    parser.add_argument("folders", nargs="*", type=Path, help="for report: folders with rows (default: --out)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder (default: %(default)s)"
    )
    parser.add_argument("--budget", type=float, help="seconds of the call (default: see plan)")
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to check that it runs")
    parser.add_argument("--commit", help="what is measured, where git cannot tell (default: the checkout's)")
    parser.add_argument("--wheels", type=Path, help="folder with wheels of peers, installed without a network")
    parser.add_argument("--sections", help=f"for bars: some of {','.join(BARS)}")
    parser.add_argument("--targets", help="for profile: ops, also with _backward, joined by commas (default: all)")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="for right: folder (default: %(default)s)")
    options = parser.parse_intermixed_args(arguments)
    options.out = options.out.resolve()
    if options.call == "plan":
        print(plan())
        return 0
    if options.call == "report":
        pages = gpu_report.write(options.out, options.folders or [options.out], plots=True)
        print("\n".join(map(str, pages)) or "no rows in these folders")
        return int(not pages)
    options.sections = _some(parser, "--sections", options.sections, list(BARS))
    if options.call == "profile":
        from benchmarks.gpu.gpu_sections import targets

        options.targets = _some(parser, "--targets", options.targets, targets())
    if importlib.util.find_spec("torch") is None:
        parser.error("torch is not installed")
    call, budget = CALLS[options.call]
    environment = gpu_build.environment(options.device, options.quick, options.commit)
    day = Day(options.call, options.out, environment, options.budget or budget, options.device, options.quick)
    if gpu_build.build(day):
        if options.wheels:
            gpu_build.install(day, options.wheels)
        call(day, options)
    return day.finish()


def _some(parser: argparse.ArgumentParser, option: str, given: str | None, known: list[str]) -> list[str]:
    chosen = known if given is None else [word for word in given.split(",") if word]
    if not chosen or not set(chosen) <= set(known):
        parser.error(f"{option}: got {given!r}; expected some of {','.join(known)}")
    return [word for word in known if word in chosen]


if __name__ == "__main__":
    sys.exit(main())
