"""Summary, page and plots of a GPU day, from its rows."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cases import Case
from benchmarks.gpu import gpu_ncu
from benchmarks.report import table

HOW = """\
Each call is timed alone between two events of the device, with the L2 flushed before it and the host ahead of the
device. A case runs ours and its peers in alternation, in one process, after comparing their results: the *difference*
is the largest one seen, relative to the peer's largest value. Times are medians; a *ratio* is the median over the
rounds of the peer's time over ours, with the middle half of the rounds behind it: above 1, ours is faster. The *device
copy* reads and writes as many bytes as the case; it and a computed floor give no results to compare."""


def parse(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Rows of a file's lines, without one cut off by a kill."""
    for line in lines:
        with suppress(ValueError):
            yield json.loads(line)


def rows(file: Path, start: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of a file from a byte on."""
    return parse(file.read_bytes()[start:].splitlines())


def runs(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """All runs in some folders, oldest first, each with its rows."""
    found: list[dict[str, Any]] = []
    for file in sorted({file.resolve() for folder in folders for file in folder.glob("*.rows.jsonl")}):
        for row in rows(file):
            if row["kind"] == "run":
                found.append({**row, "rows": []})
            elif row["kind"] == "environment":
                found[-1]["environment"].update({k: v for k, v in row.items() if k != "kind"})
            else:
                found[-1]["rows"].append(row)
    return sorted(found, key=lambda run: run["time"])


def write(out: Path, folders: Iterable[Path], plots: bool = False) -> list[Path]:
    """Write JSON, page and plots for every device; return the pages' paths."""
    devices: dict[str, list[dict[str, Any]]] = {}
    for run in runs(folders):
        devices.setdefault(run["environment"]["device"], []).append(run)
    pages = []
    for device, its_runs in devices.items():
        stem = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        summary, drawn = summarise(its_runs), {}
        if plots:
            with suppress(ImportError):
                from benchmarks.plot import draw

                if summary["time"]:
                    draw(summary, out / f"{stem}.png")
                    drawn["ratios"] = f"{stem}.png"
                if draw_roofline(summary, out / f"{stem}-roofline.png"):
                    drawn["roofline"] = f"{stem}-roofline.png"
        text = {".json": json.dumps(summary, indent=1, ensure_ascii=False) + "\n", ".md": markdown(summary, drawn)}
        for ending, page in text.items():
            # A reader never sees half a file.
            new = out / f"{stem}{ending}.new"
            new.write_text(page, encoding="utf-8")
            new.replace(out / f"{stem}{ending}")
        pages.append(out / f"{stem}.md")
    return pages


def counts(all_rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """Outcomes of the tests among the rows."""
    last = {row["name"]: row["state"] for row in all_rows if row["kind"] == "test"}
    return Counter(last.values())


def why(reason: str) -> str:
    """The telling line: pytest's first of the error, else the last."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()] or ["no output"]
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])[:300]


def summarise(its_runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summary of one device's runs, in the form of `benchmarks.report.summarise` and more.

    Of each section the last run that measured something counts; of each call's parts, its last run.
    """
    named = [(row, run) for run in its_runs for row in run["rows"] if "section" in row]
    origin = {row["section"]: run for row, run in named}
    origin |= {row["section"]: run for row, run in named if row["kind"] not in ("cut", "failure")}
    last = {run["call"]: run for run in its_runs}
    all_rows = [row for name, run in origin.items() for row in run["rows"] if row.get("section") == name]
    counting: list[dict[str, Any]] = []
    peers: dict[str, str | None] = {}
    for run in its_runs:
        peers.update({name: version or peers.get(name) for name, version in run["environment"]["peers"].items()})
        sections = [name for name, source in origin.items() if source is run]
        if sections or last[run["call"]] is run:
            counting.append({**{key: run[key] for key in ("call", "time", "environment")}, "sections": sections})
    records = [row for row in all_rows if row["kind"] == "record"]
    skipped: dict[str, set[str]] = {}
    for record in records:
        case = Case(**record["case"])
        for peer, reason in record["skipped"].items():
            skipped.setdefault(f"{peer}: {reason}", set()).add(f"{case.filter}, {case.dtype}")
    for row in all_rows:
        if row["kind"] in ("cut", "failure"):
            skipped.setdefault(f"{row['kind']}: {row['reason']}", set()).add(row["name"])
    return {
        "environment": its_runs[-1]["environment"],
        "runs": counting,
        "peers": peers,
        "time": [{**found, "section": r["section"]} for r in records for found in report.rows_of(r)],
        "memory": [found for record in records if record["memory"] for found in report.memory_rows_of(record)],
        "skipped": {reason: sorted(names) for reason, names in sorted(skipped.items())},
        "unequal": [f"{Case(**r['case']).label}: {line}" for r in records for line in r["unequal"]],
        "parts": [{"call": c, **row} for c, run in last.items() for row in run["rows"] if row["kind"] == "part"],
        "tests": dict(counts(all_rows)),
        "skipped tests": dict(
            Counter(r["reason"] for r in all_rows if r["kind"] == "test" and r["state"] == "skipped")
        ),
        "failed tests": [row for row in all_rows if row["kind"] == "test" and row["state"] == "failed"],
        "predicted, not measured": gpu_ncu.predictions(),
        **{
            name: [row for row in all_rows if row["kind"] == kind]
            for name, kind in (
                ("roofs", "roof"),
                ("kernels", "kernel"),
                ("profiles", "profile"),
                ("launches", "launches"),
                ("ncu", "ncu"),
            )
        },
    }


def markdown(summary: dict[str, Any], plots: dict[str, str]) -> str:
    """The whole page: that of `benchmarks.report` with the additions of a GPU day."""
    head, *rest = report.markdown(summary, plots.get("ratios")).split("\n## ", 1)
    head = head.replace(report.HOW, HOW)
    rest = [text.replace(report.MEMORY_HOW, MEMORY_HOW) for text in rest]
    e = summary["environment"]
    parts = [head.rstrip(), f"Driver {e.get('driver') or 'none'}; {e.get('state') or 'state of the device unknown'}."]
    absent = [name for name, version in summary["peers"].items() if version is None]
    if absent:
        parts.append(f"Not installed: {', '.join(absent)}.")
    if summary["unequal"]:
        parts += ["## Results that differ", "\n".join(f"- **{line}**" for line in summary["unequal"])]
    header: tuple[str, ...] = ("call", "sections", "when", "GPU", "native module", "commit", "versions")
    parts += ["## What was measured where", table(header, map(_run, summary["runs"]), text_columns=len(header))]
    keys = ("call", "name", "state", "reason", "seconds")
    lines = ([f"{p[k]:.0f}" if k == "seconds" else p[k].replace("|", "/") for k in keys] for p in summary["parts"])
    parts += ["## Parts", table(("call", "part", "state", "what it said", "s"), lines, text_columns=4)]
    if summary["tests"]:
        words = ", ".join(f"{count} {state}" for state, count in summary["tests"].items())
        failed = [f"- `{row['name']}`: {why(row['reason'])}" for row in summary["failed tests"]]
        skipped = [f"- {count} skipped: {reason}" for reason, count in summary["skipped tests"].items()]
        parts += ["## Tests", "\n".join([f"{words}.", "", *failed, *skipped])]
    if summary["launches"]:
        launches = ([r["name"], str(r["launches"]), str(r["most"]), str(r["copies"])] for r in summary["launches"])
        header = ("call", "kernels", "at most", "copies and fills")
        parts += ["## Launches of a call", table(header, launches, text_columns=1)]
    if summary["ncu"]:
        parts += gpu_ncu.counters(summary["ncu"])
    if us := _modelled(summary):
        parts += gpu_ncu.model(us, MODELLED[0])
    if rest:
        parts.append("## " + rest[0].rstrip())
    copy = next((r["bytes_per_s"] for r in summary["roofs"] if r["name"] == "copy"), None)
    if summary["roofs"]:
        roofs = ([r["name"], _rate(r)] for r in summary["roofs"])
        parts += ["## What the device can do", table(("measured", "rate"), roofs, text_columns=1)]
    if summary["kernels"]:
        header = ("kernel", "case", "ms", "middle half", "MB", "GB/s", "of the copy", "TFLOP/s")
        kernels = (_kernel(k, copy) for k in summary["kernels"])
        parts += ["## Kernels alone", KERNELS_HOW, table(header, kernels)]
    if plots.get("roofline"):
        parts.append(f"![Roofline]({plots['roofline']})")
    for profile in summary["profiles"]:
        listed = ([f"`{k['name'].replace('|', ' ')}`", f"{k['us']:.0f}", str(k["calls"])] for k in profile["kernels"])
        parts += [
            f"## Where the time goes: {profile['name']}",
            table(("kernel", "µs", "calls"), listed, text_columns=1),
        ]
    return "\n\n".join(parts) + "\n"


# Batch, size in and out, dtype that the model's predictions are for.
MODELLED = (64, 448, 224, "bfloat16")


def _modelled(summary: dict[str, Any]) -> dict[str, float]:
    """µs of each op, from ncu or else from timed kernels."""
    us: dict[str, float] = {}
    for row in summary["ncu"]:
        us[row["target"]] = us.get(row["target"], 0.0) + (row["us"] or 0.0)
    batch, big, small, dtype = MODELLED
    timed = [k for k in summary["kernels"] if (k["sizes"], k["dtype"]) == (f"{batch} × {big}² → {small}²", dtype)]
    return us or {kernel["name"]: kernel["ms"] * 1e3 for kernel in timed}


def _run(run: dict[str, Any]) -> list[str]:
    e = run["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items() if version)
    where = f"{e['device']}, {e['state'] or 'state unknown'}"
    return [run["call"], ", ".join(run["sections"]), run["time"], where, e["native"], e["commit"], versions]


MEMORY_HOW = """\
Peak of torch's allocator in one training step, above what is allocated before it. Here the ratio is ours over the
peer's: lower is better."""

KERNELS_HOW = """\
*MB* is the least that the op must move: every argument read once, every result written once. The rates are that over
the time."""


def _rate(roof: dict[str, Any]) -> str:
    return (
        f"{roof['bytes_per_s'] / 1e9:.0f} GB/s" if "bytes_per_s" in roof else f"{roof['flop_per_s'] / 1e12:.1f} TFLOP/s"
    )


def _kernel(k: dict[str, Any], copy: float | None) -> list[str]:
    return [
        k["name"],
        f"{k['dtype']}, {k['sizes']}",
        f"{k['ms']:.3g}",
        f"{k['low_ms']:.3g}–{k['high_ms']:.3g}",
        f"{k['bytes'] / 1e6:.1f}",
        f"{k['bytes_per_s'] / 1e9:.0f}",
        f"{k['bytes_per_s'] / copy:.2f}" if copy else "",
        f"{k['flop_per_s'] / 1e12:.2f}",
    ]


def draw_roofline(summary: dict[str, Any], path: Path) -> bool:
    """Draw every kernel's arithmetic rate over intensity, under the measured roofs; False if data is missing."""
    roofs = {roof["name"]: roof for roof in summary["roofs"]}
    if "copy" not in roofs or len(roofs) < 2 or not summary["kernels"]:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from benchmarks.plot import COLOURS, GRID, INK, MARKERS

    bandwidth = roofs["copy"]["bytes_per_s"]
    points = [(k["flop"] / k["bytes"], k["flop_per_s"], k["name"]) for k in summary["kernels"]]
    peaks = {name: roof["flop_per_s"] for name, roof in roofs.items() if "flop_per_s" in roof}
    low = min(x for x, *_ in points) / 2
    high = max(*(x for x, *_ in points), *(peak / bandwidth for peak in peaks.values())) * 3
    figure, axis = plt.subplots(figsize=(8, 5.2), layout="constrained")
    for name, peak in peaks.items():
        knee = peak / bandwidth
        axis.plot([low, knee, high], [low * bandwidth, peak, peak], color="#888888", linewidth=1)
        axis.text(high, peak, f"{name} ", ha="right", va="bottom", fontsize=8, color="#666666")
    for k, (x, y, name) in enumerate(points):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[(k // 2) % len(MARKERS)]
        axis.plot(x, y, marker, color=colour, markersize=7, label=name, zorder=3)
    axis.set(xscale="log", yscale="log", xlabel="FLOP a byte that has to move", ylabel="FLOP/s")
    axis.set_title(f"{summary['environment']['device']}: copy {bandwidth / 1e9:.0f} GB/s", loc="left", color=INK)
    axis.grid(color=GRID, linewidth=0.6)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True
