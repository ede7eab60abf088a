"""The process of `benchmarks.gpu_day` that measures: one JSON line a row, written as soon as there is one.

Run by path, not as a module: an installed package must win over the source tree.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.cold import Clock
from benchmarks.gpu_sections import SECTIONS, Plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="file that rows are appended to")
    parser.add_argument("device", type=torch.device)
    parser.add_argument("seconds", type=float, help="time of the section, after which no row is begun")
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    plan = Plan(options.device, options.quick, time.monotonic() + options.seconds)
    torch.manual_seed(0)
    with options.rows.open("a", encoding="utf-8") as file:
        for row in SECTIONS[options.section](plan, Clock(plan.device)):
            file.write(json.dumps({"section": options.section, **row}) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
