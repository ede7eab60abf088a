"""Fills the README's tables from the committed results, so that no figure in it is typed by hand.

    python -m benchmarks.readme            # rewrites README.md
    python -m benchmarks.readme --check    # exit code 1 if README.md is not what the results say

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`; NAME is a file of benchmarks/results
without its ending. `train` is the summary.json of a `learned-resizer train` run, the others come from
`benchmarks.report`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import environment_line, table

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- table:([a-z0-9-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)

# The cases of the README's table; the report has all of them.
SHOWN = {"antialias": True, "dtype": "float32", "layout": "NCHW", "in_size": 448, "out_size": 224}
RESIZE_PEERS = ("F.interpolate", "torchvision v2", "Pillow")
RESIZER_PEERS = ("reference, channels_last", "reference, NCHW")


def fill(text: str, results: Path) -> str:
    """Replace what stands between the marks; a table without results says that nothing was measured.

    Args:
        text: the README.
        results: folder of the results.

    Raises:
        ValueError: no mark in the text, or a results file that is not one.
    """
    if not MARK.search(text):
        raise ValueError("text: no <!-- table:NAME --> … <!-- /table --> in it")

    def replace(match: re.Match[str]) -> str:
        start, name, end = match.groups()
        path = results / f"{name}.json"
        if not path.exists():
            return f"{start}Not measured yet.\n{end}"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            body = train_table(data) if name == "train" else benchmark_tables(data, name)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: not a results file: {error!r}") from error
        return f"{start}{body}\n{end}"

    return MARK.sub(replace, text)


def benchmark_tables(summary: dict[str, Any], name: str) -> str:
    """Ratios at the default size: the resizer with its memory, `resize`, and where they were measured."""
    rows = [row for row in summary["time"] if all(row["case"][k] == v for k, v in SHOWN.items())]
    resize = _ratios([row for row in rows if row["case"]["op"] == "resize"], RESIZE_PEERS)
    resizer = _ratios([row for row in rows if row["case"]["op"] == "FusedResizer"], RESIZER_PEERS)
    memory = {
        row["peer"]: f"{row['ratio']:.2f} ({row['ours_mib']:.0f} of {row['peer_mib']:.0f} MiB)"
        for row in summary["memory"]
        if all(row["case"][k] == v for k, v in SHOWN.items())
    }
    if memory:
        resizer.append(["peak memory of a train step", *(memory.get(peer, "") for peer in RESIZER_PEERS)])
    source = f"[All cases](benchmarks/results/{name}.md). {environment_line(summary)}"
    return "\n\n".join(
        (
            table(("`FusedResizer`, 8 × 448² → 224²", *(f"to `{p}`" for p in RESIZER_PEERS)), resizer, text_columns=1),
            table(("`resize`, 8 × 448² → 224², float32", *(f"to {p}" for p in RESIZE_PEERS)), resize, text_columns=1),
            source,
        )
    )


def _ratios(rows: list[dict[str, Any]], peers: Sequence[str]) -> list[list[str]]:
    """One line for each direction and filter, one ratio for each peer that did it."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        case = row["case"]
        name = case["direction"] if case["op"] == "FusedResizer" else f"{case['interpolation']}, {case['direction']}"
        lines.setdefault(name, {})[row["peer"]] = f"{row['ratio']:.2f}×"
    return [[name, *(cells.get(peer, "") for peer in peers)] for name, cells in lines.items()]


def train_table(summary: dict[str, Any]) -> str:
    """The arms of a training run and the gaps between them, from its summary.json."""
    rows = [
        [
            name.replace("-", ", "),
            f"{arm['steps']:,}",
            _figure(arm["test_accuracy"], 100, 1),
            _figure(arm["train_accuracy"], 100, 1),
            _figure(arm["cpu_seconds"], 1, 0),
        ]
        for name, arm in summary["arms"].items()
    ]
    seeds = {len(arm["test_accuracy"]["values"]) for arm in summary["arms"].values()}
    e = summary["environment"]
    where = f"{e['device']} ({e['machine']}), {e['threads']} threads, torch {e['torch']}"
    count = ", ".join(str(n) for n in sorted(seeds))
    return "\n\n".join(
        (
            table(("resizer", "steps", "test accuracy, %", "train accuracy, %", "CPU s"), rows, text_columns=1),
            "\n".join(f"- {gap['sentence']}" for gap in summary["gaps"]),
            f"Seeds: {count}. Measured on {where}.",
        )
    )


def _figure(figure: dict[str, Any], factor: float, digits: int) -> str:
    """ "mean ± std", or the mean alone where there is one seed."""
    spread = "" if figure["std"] is None else f" ± {factor * figure['std']:.{digits}f}"
    return f"{factor * figure['mean']:.{digits}f}{spread}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the README, or compare it; 1 if it differs under --check, 2 if something cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file to fill")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if it would")
    options = parser.parse_args(arguments)
    try:
        before = options.readme.read_text(encoding="utf-8")
        after = fill(before, options.results)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if options.check:
        if after != before:
            print(f"{parser.prog}: {options.readme} is not what the results say; run it without --check")
        return int(after != before)
    options.readme.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
