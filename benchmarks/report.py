"""Turn the JSON of the benchmarks into tables and a plot.

    pytest benchmarks --benchmark-only --benchmark-json results.json
    python -m benchmarks.report results.json -o benchmarks/results

This writes `<device>.json`, from which `benchmarks.readme` fills the README, `<device>.md` and `<device>.png` into the
folder.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import bars
from benchmarks.cases import OURS, Case

MIB = 2**20

HOW = """\
Each case runs ours and its peers in alternation, in one process, after checking that their results agree: the
*difference* is the largest one seen, relative to the peer's largest value (in levels for uint8). Times are
medians. A *ratio* is the median over the rounds of the peer's time over ours, with the middle half of the
rounds behind it: above 1, ours is faster. `F.interpolate` is `torch.nn.functional.interpolate`; *reference*
is the same network as `FusedResizer` composed from `torch.nn`, in either memory format. Pillow runs on one
thread, the others on all. In bfloat16 PyTorch has no antialiased CPU kernel, so the peer converts to
float32 and back. For uint8, PyTorch and Pillow round between the two passes as well and may use narrower
integers for it: a less exact function, which has no bar. `resample_fixed` is `resize(…, parity="pillow")`, whose bytes
are Pillow's."""

MEMORY_HOW = """\
Peak of one training step above inputs, parameters and the gradient it receives, the least of three processes each
(`benchmarks/memory.py` tells how). Here the ratio is ours over the peer's: lower is better."""


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each peer of a race, from a benchmark's `extra_info`."""
    case, device = record["case"], record["device"]
    ours = record["seconds"][OURS]
    rows = []
    for peer, seconds in record["seconds"].items():
        if peer == OURS:
            continue
        ratios = [theirs / mine for theirs, mine in zip(seconds, ours, strict=True)]
        ratio, low, high = _quartiles(ratios)
        bar = bars.time_bar(case, peer, device)
        rows.append(
            {
                "case": case,
                "peer": peer,
                "ours_ms": statistics.median(ours) * 1e3,
                "peer_ms": statistics.median(seconds) * 1e3,
                "ratio": ratio,
                "low": low,
                "high": high,
                "rounds": len(ratios),
                "difference": record["difference"][peer],
                "bar": bar,
                "met": None if bar is None else ratio >= bar,
            }
        )
    return rows


def memory_rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each peer whose peak memory was measured beside ours."""
    case, peaks = record["case"], record["memory"]
    rows = []
    for peer, peak in peaks.items():
        if peer == OURS:
            continue
        ratio = peaks[OURS] / peak
        bar = bars.memory_bar(case, peer, record["device"])
        rows.append(
            {
                "case": case,
                "peer": peer,
                "ours_mib": peaks[OURS] / MIB,
                "peer_mib": peak / MIB,
                "ratio": ratio,
                "bar": bar,
                "met": None if bar is None else ratio <= bar,
            }
        )
    return rows


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def summarise(results: dict[str, Any]) -> dict[str, Any]:
    """Reduce pytest-benchmark's JSON to the environment, the rows and the skipped cases.

    Raises:
        ValueError: the JSON has no benchmark of this package.
    """
    records = [b["extra_info"] for b in results["benchmarks"] if "seconds" in b.get("extra_info", {})]
    if not records:
        raise ValueError("results: no benchmark with recorded times; expected the JSON of `pytest benchmarks`")
    machine, commit = results["machine_info"], results.get("commit_info") or {}
    skipped: dict[str, set[str]] = {}
    for record in records:
        for peer, reason in record["skipped"].items():
            case = Case(**record["case"])
            skipped.setdefault(f"{peer}: {reason}", set()).add(f"{case.filter}, {case.dtype}")
    return {
        "environment": {
            "date": results["datetime"][:10],
            "commit": (commit.get("id") or "unknown")[:10] + (" with changes" if commit.get("dirty") else ""),
            "device_type": machine["device_type"],
            "device": machine["device_name"],
            "threads": machine["threads"],
            "system": f"{machine['system']} {machine['machine']}, Python {machine['python_version']}",
            "versions": machine["versions"],
        },
        "time": [row for record in records for row in rows_of(record)],
        "memory": [row for record in records for row in memory_rows_of(record)],
        "skipped": {reason: sorted(cases) for reason, cases in sorted(skipped.items())},
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 2) -> str:
    """A Markdown table; the columns after the first `text_columns` are right-aligned."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join("---" if i < text_columns else "---:" for i in range(len(header))) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _met(row: dict[str, Any]) -> str:
    return "" if row["met"] is None else "yes" if row["met"] else "**no**"


def time_table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown table of times and ratios."""
    return table(
        ("case", "peer", "ours, ms", "peer, ms", "ratio", "middle half", "bar", "met", "difference"),
        (
            (
                Case(**row["case"]).label,
                row["peer"],
                f"{row['ours_ms']:.3g}",
                f"{row['peer_ms']:.3g}",
                f"{row['ratio']:.2f}×",
                f"{row['low']:.2f}–{row['high']:.2f}",
                "" if row["bar"] is None else f"≥ {row['bar']:g}×",
                _met(row),
                f"{row['difference']:.1e}",
            )
            for row in rows
        ),
    )


def memory_table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown table of peak memory."""
    return table(
        ("case", "peer", "ours, MiB", "peer, MiB", "ratio", "bar", "met"),
        (
            (
                Case(**row["case"]).label,
                row["peer"],
                f"{row['ours_mib']:.0f}",
                f"{row['peer_mib']:.0f}",
                f"{row['ratio']:.2f}",
                "" if row["bar"] is None else f"≤ {row['bar']:.2f}",
                _met(row),
            )
            for row in rows
        ),
    )


def environment_line(summary: dict[str, Any]) -> str:
    """Device, versions, commit and date of the measurement, in one sentence."""
    e = summary["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in e["versions"].items() if version)
    threads = f"{e['threads']} thread{'s' if e['threads'] != 1 else ''}"
    where = f"{e['device']}, {threads}, {e['system']}"
    return f"{where}; {versions}; commit {e['commit']}, {e['date']}."


def markdown(summary: dict[str, Any], plot: str | None = None) -> str:
    """The whole page."""
    time, memory = summary["time"], summary["memory"]
    barred = [row for row in (*time, *memory) if row["bar"] is not None]
    failed = [row for row in barred if not row["met"]]
    parts = [f"# Benchmarks: {summary['environment']['device']}", environment_line(summary), HOW]
    if plot:
        parts.append(f"![Ratios of every case]({plot})")
    if barred:
        verdict = f"{len(barred) - len(failed)} of {len(barred)} bars are met."
        misses = [f"- not met: {Case(**row['case']).label} against {row['peer']}: {row['ratio']:.2f}" for row in failed]
        parts += ["## Against the bar", "\n".join([verdict, *misses])]
    for op in dict.fromkeys(row["case"]["op"] for row in time):
        parts += [f"## Time: {op}", time_table(row for row in time if row["case"]["op"] == op)]
    if memory:
        parts += ["## Peak memory", MEMORY_HOW, memory_table(memory)]
    if summary["skipped"]:
        lines = [f"- {reason} ({'; '.join(cases)})" for reason, cases in summary["skipped"].items()]
        parts += ["## Not compared", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def slug(summary: dict[str, Any]) -> str:
    """Name of a device's files: "cpu", or the GPU's name in lower case."""
    e = summary["environment"]
    name = "cpu" if e["device_type"] == "cpu" else e["device"]
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; 0 unless the results cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of pytest-benchmark")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the table and the plot")
    parser.add_argument("--no-plot", action="store_true", help="tables only (needs no matplotlib)")
    options = parser.parse_args(arguments)
    try:
        summary = summarise(json.loads(options.results.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        print(f"{parser.prog}: {options.results}: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    name = slug(summary)
    plot = None
    if not options.no_plot:
        from benchmarks.plot import draw

        plot = f"{name}.png"
        draw(summary, options.output / plot)
    rows = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    (options.output / f"{name}.json").write_text(rows, encoding="utf-8")
    page = markdown(summary, plot)
    (options.output / f"{name}.md").write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
