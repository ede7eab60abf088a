"""Time of the resample_fixed kernel from its instructions, bytes and latency, without a GPU.

    python -m benchmarks.floor.resample_fixed [--machine h100]

As `benchmarks.floor.resample`, but by loops instead of source lines: one over the groups of rows, in it one over the
taps and one over the outputs, and two over a strip's rows. The launcher's own tables say how often each turns. The
longest of four times counts: instructions at 4 a clock; accesses to L1 and shared memory at one a clock, of at most 128
bytes; DRAM at a copy's bandwidth; and waves of resident blocks, in which each block alone waits once a group for DRAM,
and for L1 at each other tap and pair of outputs.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from dataclasses import dataclass
from functools import cache

from benchmarks.floor.disassembly import Kernel, disassemble, loops, reachable
from benchmarks.floor.machine import MACHINES, Machine
from learned_resizer_cuda.kernels import resample_fixed
from learned_resizer_cuda.ops.bands import get_fixed_bands

BATCHES, CHANNELS = (64, 1), 3
SIZES = ((448, 224), (224, 448))
FILTERS = ("bilinear", "bicubic", "lanczos")
LAYOUTS = {"NCHW": 1, "NHWC": CHANNELS}  # elements between columns
_WARPS = resample_fixed._THREADS // 32

# What marks a loop, the innermost first, and how often in one turn: a byte of each row, an output row's store, the sum
# that an output has before, the one that it begins with.
_MARKS = {"tap": ("LDG.E.U8", 4), "store": ("STG", 1), "output": ("LDS", 1), "begin": ("STS", 1)}


@cache
def compiled(step: int) -> Kernel:
    """The instance for a kStep."""
    kernels = disassemble("resample_fixed.cu", "90")
    (name,) = (name for name in kernels if f"kernelILi{step}E" in name)
    return kernels[name]


def turns(kernel: Kernel) -> dict[str, Counter[str]]:
    """Opcodes of one turn of each loop of `_MARKS`, of a "group" and of a "block", without the loops inside."""
    left, found = reachable(kernel), dict[str, Counter[str]]()
    for loop in loops(kernel):
        own = Counter(item.opcode for item in kernel.instructions if item.block in loop.blocks & left)
        left -= loop.blocks
        for part, (mark, each) in _MARKS.items():
            marked = sum(count for opcode, count in own.items() if opcode.startswith(mark))
            if marked:
                found[part] = Counter({opcode: count * each / marked for opcode, count in own.items()})
                break
        else:
            found["block" if "group" in found else "group"] = own
    return found


@dataclass(frozen=True)
class Prediction:
    """What one call should take; times in microseconds."""

    strip_rows: int
    blocks: int
    resident: int  # blocks of a multiprocessor
    instructions: float  # lane instructions per pixel of the larger image
    issue: float
    l1: float
    dram: float
    latency: float
    total: float
    copy: float  # a copy of as many bytes


def predict(
    machine: Machine,
    batch: int,
    size_in: int,
    size_out: int,
    interpolation: str,
    layout: str,
    rows_first: bool = True,
) -> Prediction:
    """Time of one call on square images of `CHANNELS` channels."""
    kernel = compiled(LAYOUTS[layout] if rows_first else 0)
    bands = get_fixed_bands(size_in, size_out, interpolation, True)
    columns = batch * CHANNELS * size_out
    strip_rows = resample_fixed._strip_rows(size_out, columns, machine.multiprocessors)
    begins, groups, weights = resample_fixed._row_tables(bands, strip_rows)
    strips, of_strip = len(begins) - 1, -(-columns // resample_fixed._THREADS)
    taps = bands.max_count
    executions = {"block": strips, "group": len(groups), "tap": taps * len(groups), "output": len(weights)}
    executions |= {"begin": size_out, "store": size_out}
    one = turns(kernel)
    issued = sum(executions[part] * sum(one[part].values()) for part in executions)  # of a warp of each strip
    # Four taps' weights of 32 lanes: 16 bytes for each column that they have. Columns first, these are image rows, each
    # with lines of its own.
    lanes = 32 / LAYOUTS[layout]
    accesses = (16 * lanes / 128 - 1) * len(groups) * -(-taps // 4) + sum(
        executions[part] * count * (lanes if not rows_first and ".U8" in opcode else 1)
        for part, opcodes in one.items()
        for opcode, count in opcodes.items()
        if opcode.startswith(("LDG", "LDS", "STS", "STG"))
    )
    blocks, warps = strips * of_strip, of_strip * _WARPS
    shared = strip_rows * resample_fixed._THREADS * 4 + 1024
    resident = min(machine.registers // (-(-kernel.registers // 8) * 8 * 32 * _WARPS), machine.shared_bytes // shared)
    waits = machine.l1_clocks + machine.dram_clocks + (taps - 1) * machine.l1_clocks
    alone = (issued + len(groups) * waits + len(weights) / 2 * machine.l1_clocks) / strips
    moved = batch * CHANNELS * (size_in**2 + size_out**2)
    device_bytes = machine.dram_bytes_per_clock * machine.multiprocessors
    clocks = {
        "issue": issued * warps / machine.multiprocessors / machine.issue_per_clock,
        "l1": accesses * warps / machine.multiprocessors / machine.wavefronts_per_clock,
        "dram": moved / device_bytes,
        "latency": alone * -(-blocks // (machine.multiprocessors * resident)),
    }
    us = {name: machine.microseconds(count) for name, count in clocks.items()}
    return Prediction(
        strip_rows,
        blocks,
        resident,
        issued * warps * 32 / (batch * CHANNELS * max(size_in, size_out) ** 2),
        **us,
        total=max(us.values()) + machine.ramp_us,
        copy=us["dram"] + machine.ramp_us,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="h100", choices=MACHINES, help="GPU to predict for (default h100)")
    machine = MACHINES[parser.parse_args().machine]
    print(f"{machine.name}, {CHANNELS} channels, antialias, times in µs for the batch")
    print("| case | batch | first | filter | layout | strip | blocks | resident | instr/px ", end="")
    print("| issue | L1 | DRAM | latency | total | copy |\n" + "|---" * 15 + "|")
    try:
        for (size_in, size_out), batch, first in itertools.product(SIZES, BATCHES, ("rows", "columns")):
            if first == "columns" and size_out > size_in:
                continue  # never in Pillow
            for interpolation, layout in itertools.product(FILTERS, LAYOUTS):
                p = predict(machine, batch, size_in, size_out, interpolation, layout, first == "rows")
                print(
                    f"| {size_in}→{size_out} | {batch} | {first} | {interpolation} | {layout} | {p.strip_rows} "
                    f"| {p.blocks} | {p.resident} | {p.instructions:.1f} | {p.issue:.1f} | {p.l1:.1f} | {p.dram:.1f} "
                    f"| {p.latency:.1f} | {p.total:.1f} | {p.copy:.1f} |"
                )
    except FileNotFoundError as missing:
        raise SystemExit(f"benchmarks.floor.resample_fixed: {missing}") from missing


if __name__ == "__main__":
    main()
