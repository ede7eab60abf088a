"""Nsight Compute of every op's kernels, beside a model's predictions.

    ncu … python benchmarks/gpu/gpu_ncu.py stem_backward     # one call between the profiler's start and stop

`ncu --csv --page raw` of Nsight Compute 2025 writes lines of ==PROF==, one of names, one of units, one for each
launch; older ones and the details page a line for each metric. Both are read. Sections are asked for rather than
metrics where they have what is needed: their names hold for every version, and what a GPU lacks is left out of them.
"""

from __future__ import annotations

import argparse
import csv
import glob
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.report import table

if TYPE_CHECKING:
    from benchmarks.gpu.day import Day

SECTIONS = (
    "SpeedOfLight",
    "Occupancy",
    "LaunchStats",
    "WarpStateStats",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
)
EXTRA = "dram__bytes_read.sum,dram__bytes_write.sum,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
REFUSED = ("ERR_NVGPUCTRPERM", "LibraryNotLoaded")

# The model's kernel for an op's launch.
KERNELS = {
    "stem": "stem with statistics",
    "trunk_block": "trunk block",
    "trunk_tail": "trunk tail",
    "conv": "conv forward",
    "conv_backward": "conv backward",
    "head": "head forward",
    "head_backward": "head backward",
    "stem_backward": "stem_backward weights",
}


def predictions() -> dict[str, tuple[str, str, str]]:
    """PREDICTIONS of ``python -m benchmarks.floor.model --json``, none of them measured, by op.

    µs an image on one H100 at batch 64, 448→224, 16 filters, bf16: by the largest of issue, tensor cores, shared memory
    and DRAM alone, with latency, and which of the four it is.
    """
    found = json.loads((Path(__file__).resolve().parents[1] / "results" / "model.json").read_text())["h100"]
    result = {}
    for op, name in KERNELS.items():
        kernel = found["kernels"][name]
        largest = max(kernel["bound_us"], key=lambda bound: kernel["bound_us"][bound])
        roof = kernel["bound_us"][largest] / found["batch"]
        result[op] = (f"{roof:.2f}", f"{kernel['us_per_image']:.2f}", largest)
    return result


# Key of a row -> metric; the first one that the launch has.
METRICS = {
    "us": ("gpu__time_duration.sum",),
    "dram_pct": (
        "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed",
        "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    ),
    "occupancy_pct": ("sm__warps_active.avg.pct_of_peak_sustained_active",),
    "registers": ("launch__registers_per_thread",),
    "issue_pct": (
        "sm__inst_issued.avg.pct_of_peak_sustained_active",
        "sm__instruction_throughput.avg.pct_of_peak_sustained_active",
    ),
    "tensor_pct": ("sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",),
    "waves": ("launch__waves_per_multiprocessor",),
}
_STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+?)(?<!_not_issued)_per_issue_active\.ratio$")
_TO_US = {"ns": 1e-3, "nsecond": 1e-3, "us": 1.0, "usecond": 1.0, "ms": 1e3, "msecond": 1e3, "s": 1e6, "second": 1e6}


def profile(day: Day, targets: list[str]) -> bool:
    """Profile each target in its own process; return whether any succeeded."""
    folders = ["/usr/local/cuda/bin", *sorted(glob.glob("/opt/nvidia/nsight-compute/*"), reverse=True)]
    ncu = shutil.which("ncu", path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if ncu is None:
        day.part("ncu", "skipped", "ncu is not installed")
        return False
    # The device's clocks stay as they are; its caches are flushed before each pass, as the timing's are.
    options = ["--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw"]
    options += ["--print-units", "base", *(word for name in SECTIONS for word in ("--section", name))]
    script = [sys.executable, __file__, "--device", day.device, *(["--quick"] if day.quick else [])]
    extra, seen = ["--metrics", EXTRA], False
    for place, target in enumerate(targets):
        share = day.left / (len(targets) - place) * 3
        _, said = day.run(f"ncu {target}", [ncu, *options, *extra, *script, target], share, fine=range(-64, 256))
        if "Failed to find metric" in said:
            day.part(f"ncu {target}", "skipped", "a metric is unknown here: again with the sections alone")
            extra = []
            _, said = day.run(f"ncu {target}", [ncu, *options, *script, target], share, fine=range(-64, 256))
        if any(word in said for word in REFUSED):
            line = next(line for line in said.splitlines() if any(word in line for word in REFUSED))
            day.part("ncu", "skipped", f"ncu may not read the counters here: {line.strip()}")
            break
        launches = parse(said)
        if not launches:
            day.part(f"ncu {target}", "failed", "no kernel in ncu's output, see the log")
        with (day.out / "profile.ncu.csv").open("a", encoding="utf-8") as file:
            file.write(f"# {target}\n{_table_of(said)}\n")
        for launch in launches:
            seen = True
            day.add({"kind": "ncu", "section": "ncu", "target": target, **launch})
    return seen


def parse(said: str) -> list[dict[str, Any]]:
    """A row for each launch in ncu's output."""
    launches = []
    for kernel, metrics in _launches(list(csv.reader(_table_of(said).splitlines()))):
        row: dict[str, Any] = {"kernel": kernel}
        for key, names in METRICS.items():
            row[key] = next((metrics[name][0] for name in names if name in metrics), None)
        if row["us"] is not None:
            row["us"] *= _TO_US[metrics[METRICS["us"][0]][1]]
        moved = [metrics[name][0] for name in EXTRA.split(",") if "bytes" in name and name in metrics]
        row["dram_bytes"] = sum(moved) if moved else None
        stalls = {found[1]: metrics[name][0] for name in metrics if (found := _STALL.search(name))}
        # A warp that issues is not stalled.
        stalls.pop("selected", None)
        row["stalls"] = sorted(stalls.items(), key=lambda item: -item[1])[:3]
        launches.append(row)
    return launches


def _launches(lines: list[list[str]]) -> list[tuple[str, dict[str, tuple[float, str]]]]:
    """Kernel, and value and unit of each metric, for every launch."""
    if len(lines) < 2:
        return []
    names, *rest = lines
    if "Metric Name" in names:
        many: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {}
        for line in rest:
            row = dict(zip(names, line, strict=False))
            launch = many.setdefault(row["ID"], (row["Kernel Name"], {}))
            launch[1][row["Metric Name"]] = row["Metric Value"], row["Metric Unit"]
        texts = list(many.values())
    else:
        units, *values = rest
        texts = [
            (line[names.index("Kernel Name")], dict(zip(names, zip(line, units, strict=False), strict=False)))
            for line in values
        ]
    return [
        (
            kernel,
            {name: (number, unit) for name, (text, unit) in metrics.items() if (number := _number(text)) is not None},
        )
        for kernel, metrics in texts
    ]


def _table_of(said: str) -> str:
    """The lines of the CSV table among all that was printed."""
    lines = said.splitlines()
    start = next((place for place, line in enumerate(lines) if line.startswith('"ID",')), len(lines))
    return "\n".join(line for line in lines[start:] if line.startswith('"'))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None  # "n/a", or nothing


def counters(rows: list[dict[str, Any]]) -> list[str]:
    """Section of the page with the counters of every launch."""
    header = ("op", "kernel", "µs", "DRAM MB", "DRAM %", "occupancy %", "registers", "issue %", "tensor %", "stalls")
    listed = []
    for row in rows:
        name = re.sub(r"[<(].*", "", row["kernel"].replace("(anonymous namespace)::", "")).split("::")[-1]
        moved = None if row["dram_bytes"] is None else row["dram_bytes"] / 1e6
        numbers = [row["us"], moved, *(row[key] for key in ("dram_pct", "occupancy_pct", "registers"))]
        stalls = ", ".join(f"{reason} {cycles:.2g}" for reason, cycles in row["stalls"])
        cells = map(_cell, (*numbers, row["issue_pct"], row["tensor_pct"]))
        listed.append([row["target"], f"`{name.removeprefix('void ')}`", *cells, stalls])
    how = "From ncu, caches flushed. *Stalls*: the three largest, in warps that wait for each instruction issued."
    return ["## Counters of every kernel", how, table(header, listed)]


def model(us: dict[str, float], batch: int) -> list[str]:
    """Section of the page with times of whole ops beside predictions."""
    listed, predicted = [], predictions()
    for op, measured in us.items():
        roofs, latency, binds = predicted.get(op, ("", "", ""))
        listed.append([op, binds, _cell(measured / batch), roofs, latency])
    header = ("op", "bound by, predicted", "measured", "predicted by the roofs alone", "with latency")
    how = "µs an image."
    return ["## Beside the model", how, table(header, listed)]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def main() -> int:
    """Run one op once between the profiler's start and stop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", help="an op of benchmarks.op_calls, or one with _backward")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    import torch

    from benchmarks.gpu.gpu_sections import Plan, kernel_call
    from learned_resizer_cuda import use_backend

    device = torch.device(options.device)
    with torch.no_grad(), use_backend("torch" if device.type == "cpu" else "native"):
        run, _ = kernel_call(Plan(device, options.quick, float("inf")), options.target)
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
