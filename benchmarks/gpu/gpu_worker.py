"""Measuring process of `benchmarks.gpu.gpu_day`: one JSON line per row, written at once."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.cold import Clock
from benchmarks.gpu.day import append
from benchmarks.gpu.gpu_sections import SECTIONS, Plan
from learned_resizer_cuda import use_backend


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path, help="file that rows are appended to")
    parser.add_argument("device", type=torch.device)
    parser.add_argument("end", type=float, help="latest end, as time.time counts")
    parser.add_argument("sections", nargs="+", help="NAME=SHARE of the time; time left over goes to the later ones")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    shares = {name: float(share) for name, share in (word.split("=") for word in options.sections)}
    clock = Clock(options.device)
    with use_backend("torch" if options.device.type == "cpu" else "native"):
        while shares:
            left = options.end - time.time()
            name = next(iter(shares))
            seconds = left * shares[name] / sum(shares.values())
            del shares[name]
            # No row begins after its section's share; one that hangs is killed after half of the remaining time.
            kill_at = time.time() + seconds + max(0.5 * (left - seconds), 1.0)
            append(options.rows, {"kind": "begun", "name": name, "kill_at": kill_at})
            torch.manual_seed(0)
            for row in SECTIONS[name](Plan(options.device, options.quick, time.monotonic() + seconds), clock):
                append(options.rows, {"section": name, **row})
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
