"""Fill the tables of README.md and three pages of docs/ from the committed results.

    python -m benchmarks.readme            # rewrites the pages
    python -m benchmarks.readme --check    # exit code 1 if a page differs from the results

Tables stand between `<!-- table:NAME -->` and `<!-- /table -->`. NAME is a file of benchmarks/results without its
ending: the summary.json of a run of `learned-resizer` (`benchmarks.experiments.paper`), or written by
`benchmarks.report`, `benchmarks.cpu.busy`, `benchmarks.cpu.main_job`, or a module of `benchmarks.experiments`.
NAME/PART is one of the tables that `benchmark_tables` makes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.report import environment_line, table
from learned_resizer_cuda.report.summary import MeanStd

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in ("results.md", "experiments.md", "beyond.md")))
MARK = re.compile(r"(<!-- table:([a-z0-9-]+)(?:/(\w+))? -->\n).*?(<!-- /table -->)", re.DOTALL)

# The cases on the pages; the report has all of them.
SHOWN = {"antialias": True, "dtype": "float32", "layout": "NCHW", "in_size": 448, "out_size": 224}
RESIZE_PEERS = ("F.interpolate", "torchvision v2", "Pillow")
RESIZER_PEERS = ("reference, channels_last", "reference, NCHW")
FIXED_PEERS = ("Pillow", "torchvision v2")
BATCH_PEERS = ("torchvision v2, one by one", "torchvision v2, by shape")


def fill(text: str, results: Path) -> str:
    """Replace the tables between the marks; one without results says that nothing was measured.

    Args:
        text: of a page.
        results: folder of the results.

    Raises:
        ValueError: the text has no marks, or a file in the folder is not a results file.
    """
    if not MARK.search(text):
        raise ValueError("text: expected <!-- table:NAME --> … <!-- /table -->, got none")

    def replace(match: re.Match[str]) -> str:
        start, name, part, end = match.groups()
        path = results / f"{name}.json"
        if not path.exists():
            return f"{start}Not measured yet.\n{end}"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            body = tables_of(data, part)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a results file: {error!r}") from error
        return f"{start}{body}\n{end}"

    return MARK.sub(replace, text)


def tables_of(data: dict[str, Any], part: str | None = None) -> str:
    """The tables of a results file of any kind, or a part of those of benchmarks."""
    if "busy" in data:
        return busy_table(data)
    if "main_job" in data:
        return main_job_table(data)
    if "statistics" in data:
        return statistics_table(data)
    if "recipes" in data:
        return recipe_table(data)
    if "pairs" in data:
        return pair_table(data)
    return run_tables(data) if "tables" in data else benchmark_tables(data, part)


def busy_table(found: dict[str, Any]) -> str:
    """Seconds of two stages idle and with a busy core, for each way of waiting, from `benchmarks.cpu.busy`."""
    names = {"default": "libgomp's own", "passive": "`OMP_WAIT_POLICY=passive`", "command": "`learned-resizer`'s own"}
    rows = [
        (names[row["waiting"]], row["arm"], f"{row['idle_s']:.2f}", f"{row['busy_s']:.2f}", f"{row['factor']:.2f}×")
        for row in found["busy"]
    ]
    where = f"{found['cpu']}, torch {found['torch']}, {found['steps']} steps a stage, {found['date']}."
    return f"{table(('waiting', 'arm', 'idle, s', 'busy, s', 'factor'), rows)}\n\n{where}"


def main_job_table(found: dict[str, Any]) -> str:
    """Seconds of the README's main job, idle and with a busy core, from `benchmarks.cpu.main_job`."""
    rows = [(row["jobs"], f"{row['idle_s']:.0f}", f"{row['busy_s']:.0f}") for row in found["main_job"]]
    where = f"{found['cpu']}, torch {found['torch']}, {found['date']}."
    return f"{table(('`--jobs`', 'idle, s', 'busy, s'), rows, text_columns=1)}\n\n{where}"


def statistics_table(found: dict[str, Any]) -> str:
    """A network behind resizers it never saw, from `benchmarks.experiments.unseen`."""
    columns = ("as they came", "recomputed")
    rows = [(row["arm"], *(MeanStd.of(row[name]).text(1, 100) for name in columns)) for row in found["statistics"]]
    header = ("resizer", "statistics as they came, %", "recomputed, %")
    seeds = len(found["statistics"][0]["recomputed"])
    return f"{table(header, rows, text_columns=1)}\n\nTest {found['metric']}, {seeds} seeds; torch {found['torch']}."


def recipe_table(found: dict[str, Any]) -> str:
    """Means over the seeds by recipe, from `benchmarks.experiments.frozen`."""
    rows = []
    columns = (
        ("agreement of the average", 100, 1),
        ("divergence of the average", 1, 2),
        ("divergence of the last", 1, 2),
    )
    for name in dict.fromkeys(record["recipe"] for record in found["recipes"]):
        mine = [record for record in found["recipes"] if record["recipe"] == name]
        values = [[record[key] for record in mine if key in record] for key, _, _ in columns]
        cells = (
            MeanStd.of(some).text(digits, factor) if some else ""
            for some, (_, factor, digits) in zip(values, columns, strict=True)
        )
        rows.append((name, *cells))
    header = ("recipe", "agreement, %", "divergence", "divergence without average")
    seeds = 1 + max(record["seed"] for record in found["recipes"])
    steps = max(record.get("steps", 0) for record in found["recipes"])
    where = f"{seeds} seeds of {steps} steps, {found['photographs']} photographs; torch {found['torch']}."
    return f"{table(header, rows)}\n\n{where}"


def pair_table(found: dict[str, Any]) -> str:
    """The learned arm against the others on the same photographs, from `benchmarks.experiments.frozen`."""
    columns = (("agreement", 100, 1), ("cosine", 1, 3), ("divergence", 1, 2))
    rows = []
    for row in found["pairs"]:
        cells = []
        for name, factor, digits in columns:
            gap, margin = (f"{factor * row[f'{name} {what}']:+.{digits}f}" for what in ("gap", "margin"))
            cells += [f"{factor * row[name]:.{digits}f}", "" if row["arm"] == "learned" else f"{gap} ± {margin[1:]}"]
        rows.append((row["arm"], f"{row['steps']}", *cells, f"{row['cpu_s']:.0f}"))
    it = "learned − it"
    header = ("resizer", "steps", "agreement, %", it, "cosine", it, "divergence", it, "CPU s")
    sizes, seeds = found["photographs"], f"{found['seeds']} seed{'s' if found['seeds'] > 1 else ''}"
    where = (
        f"Trained on {sizes['train']} photographs with {seeds}, tested on {sizes['test']} others; torch "
        f"{found['torch']}."
    )
    return f"{table(header, rows)}\n\n{where}"


def benchmark_tables(summary: dict[str, Any], part: str | None = None) -> str:
    """Ratios at the default size, the resizer's with its memory, and where they were measured.

    Args:
        summary: of `benchmarks.report`.
        part: a key of the tables below; None: all of them that were measured.

    Raises:
        KeyError: there is no such table.
    """
    rows = [row for row in summary["time"] if all(row["case"][k] == v for k, v in SHOWN.items())]
    resize = _ratios([row for row in rows if row["case"]["op"] == "resize"], RESIZE_PEERS)
    fixed = _ratios([row for row in summary["time"] if row["case"]["op"] == "resample_fixed"], FIXED_PEERS)
    batch = _ratios([row for row in summary["time"] if row["case"]["op"] == "resize_batch"], BATCH_PEERS)
    resizer = _ratios([row for row in rows if row["case"]["op"] == "FusedResizer"], RESIZER_PEERS)
    memory = {
        row["peer"]: f"{row['ratio']:.2f} ({row['ours_mib']:.0f} of {row['peer_mib']:.0f} MiB)"
        for row in summary["memory"]
        if all(row["case"][k] == v for k, v in SHOWN.items())
    }
    if memory:
        resizer.append(["peak memory of a train step", *(memory.get(peer, "") for peer in RESIZER_PEERS)])
    found = {
        "FusedResizer": ("`FusedResizer`, 8 × 448² → 224²", tuple(f"`{p}`" for p in RESIZER_PEERS), resizer),
        "resize": ("`resize`, 8 × 448² → 224², float32", RESIZE_PEERS, resize),
        "pillow": ('`resize(…, parity="pillow")`, uint8', FIXED_PEERS, fixed),
        "resize_batch": ("`resize_batch`, 64 photographs of 300…900 pixels a side → 224²", BATCH_PEERS, batch),
    }
    tables = [
        table((heading, *(f"to {peer}" for peer in peers)), lines, text_columns=1)
        for heading, peers, lines in (found.values() if part is None else [found[part]])
        if lines
    ]
    return "\n\n".join((*tables, environment_line(summary)))


def _ratios(rows: list[dict[str, Any]], peers: Sequence[str]) -> list[list[str]]:
    """A line for each direction and filter, with a ratio for each peer that was measured."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        case = row["case"]
        name = case["direction"] if case["op"] == "FusedResizer" else f"{case['interpolation']}, {case['direction']}"
        if case["op"] == "resample_fixed":
            name = f"{case['interpolation']}, {Case(**case).sides}"
        if case["op"] == "resize_batch" and case["dtype"] == "uint8":
            name = f"{name}, bytes to normalised float32"
        lines.setdefault(name, {})[row["peer"]] = f"{row['ratio']:.2f}×"
    return [[name, *(cells.get(peer, "") for peer in peers)] for name, cells in lines.items()]


def run_tables(summary: dict[str, Any]) -> str:
    """The tables of a run, the gaps between its arms and where they were measured, from its summary.json."""
    parts = []
    for found in summary["tables"]:
        best = found.get("bold", [])
        rows = [[_bold(cell, number in best) for cell in row] for number, row in enumerate(found["rows"])]
        parts.append(table(found["header"], rows, text_columns=1))
    parts.append("\n".join(f"- {gap['sentence']}" for gap in summary["gaps"]))
    e, config = summary["environment"], summary["config"]
    seeds = "1 seed" if config["seeds"] == 1 else f"{config['seeds']} seeds, mean ± standard deviation"
    models = ", ".join(f"`{model}`" for model in config.get("models") or [config["model"]])
    model = f"{models}, batch {config['batch_size']}"
    threads = "1 thread" if e["threads"] == 1 else f"{e['threads']} threads"
    parts.append(
        f"{seeds}; {model}. Measured on {e['device']} ({e['machine']}), {threads}, torch {e['torch']}, {e['date']}."
    )
    return "\n\n".join(part for part in parts if part)


def _bold(cell: str, bold: bool) -> str:
    return f"**{cell}**" if bold and cell else cell


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite or compare the pages; 1 if one differs under --check, 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, help="files to fill")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if it would")
    options = parser.parse_args(arguments)
    differ = False
    for page in options.pages:
        try:
            before = page.read_text(encoding="utf-8")
            after = fill(before, options.results)
        except (OSError, ValueError) as error:
            print(f"{parser.prog}: {error}", file=sys.stderr)
            return 2
        if options.check and after != before:
            print(f"{parser.prog}: {page} differs from the results; run this without --check")
            differ = True
        if not options.check:
            page.write_text(after, encoding="utf-8")
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
