"""Page and roofline plot of a GPU day, from its summary."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.cases import Case
from benchmarks.report import table

HOW = """\
Each call is timed alone between two events of the device, with the L2 flushed before it and the host ahead of the
device. A case runs ours and its peers in alternation, in one process, after comparing their results: the *difference*
is the largest one seen, relative to the peer's largest value. Times are medians; a *ratio* is the median over the
rounds of the peer's time over ours, with the middle half of the rounds behind it: above 1, ours is faster. The *device
copy* reads and writes as many bytes as the case; it and a computed floor give no results to compare."""


def summarise(
    environment: dict[str, Any], rows: Iterable[dict[str, Any]], parts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Summary of all rows, in the form of `benchmarks.report.summarise` and more.

    Args:
        environment: as in `benchmarks.report`, with the driver's version, the GPU's state, the peers found.
        rows: rows of the sections.
        parts: name, state ("done", "failed", "cut", "skipped"), reason and seconds of each part and section.
    """
    rows = list(rows)
    records = [row for row in rows if row["kind"] == "record"]
    skipped: dict[str, set[str]] = {}
    for record in records:
        case = Case(**record["case"])
        for peer, reason in record["skipped"].items():
            skipped.setdefault(f"{peer}: {reason}", set()).add(f"{case.filter}, {case.dtype}")
    for row in rows:
        if row["kind"] in ("cut", "failure"):
            skipped.setdefault(f"{row['kind']}: {row['reason']}", set()).add(row["name"])
    return {
        "environment": environment,
        "time": [found for record in records for found in report.rows_of(record)],
        "memory": [found for record in records if record["memory"] for found in report.memory_rows_of(record)],
        "skipped": {reason: sorted(names) for reason, names in sorted(skipped.items())},
        "unequal": [f"{Case(**r['case']).label}: {line}" for r in records for line in r["unequal"]],
        "parts": parts,
        **{f"{kind}s": [row for row in rows if row["kind"] == kind] for kind in ("roof", "kernel", "profile")},
    }


def markdown(summary: dict[str, Any], plots: dict[str, str]) -> str:
    """The whole page: that of `benchmarks.report` with the additions of a GPU day."""
    head, *rest = report.markdown(summary, plots.get("ratios")).split("\n## ", 1)
    head = head.replace(report.HOW, HOW)
    rest = [text.replace(report.MEMORY_HOW, MEMORY_HOW) for text in rest]
    e = summary["environment"]
    parts = [head.rstrip(), f"Driver {e.get('driver') or 'none'}; {e.get('state') or 'state of the device unknown'}."]
    absent = [name for name, version in e["peers"].items() if version is None]
    if absent:
        parts.append(f"Not installed: {', '.join(absent)}.")
    if summary["unequal"]:
        parts += ["## Results that differ", "\n".join(f"- **{line}**" for line in summary["unequal"])]
    lines = ([p["name"], p["state"], f"{p['seconds']:.0f}", p["reason"]] for p in summary["parts"])
    parts += ["## Parts", table(("part", "state", "s", "what it said"), lines)]
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
