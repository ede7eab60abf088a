"""Time of the resample kernel from its instructions, bytes, latency and waves, without a GPU.

    python -m benchmarks.floor.resample [--arch 90] [--machine h100] [--verbose]

Method (docs/kernels.md discusses it and its limits):

1. csrc/core/resample/resample.cu is compiled for one architecture with ``-lineinfo``, which does not change the code,
   and disassembled with the chain of inlined source lines of every instruction.
2. Each instruction belongs to a region: the function of resample.cuh that it was inlined from, or the loop whose
   line it carries.
3. The plan says how often a region runs: it is the real one, of the installed native module. The device makes the
   programs, from bands; here the same bands give every step, emission and batch. Both sides of a divergent or
   predicated branch count as issued.
4. `predict` makes times of them: issue, shared memory, DRAM and latency, in waves of the resident blocks; the constants
   are in machine.py. Bank conflicts are counted from the plan's addresses.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from benchmarks.floor.disassembly import Frame, Instruction, Kernel, Source, disassemble
from benchmarks.floor.machine import MACHINES, Machine
from learned_resizer_cuda.kernels import native
from learned_resizer_cuda.ops.bands import INTERPOLATIONS, Bands, get_bands

BATCH, CHANNELS = 64, 3
_BATCH_ROWS, _GROUP_STEPS, _CHUNK_STEPS = 4, 4, 64  # of resample.h
SIZES = ((448, 224), (2048, 224), (224, 448))
FILTERS = ("bilinear", "bicubic", "lanczos")
DTYPES = {"float32": 4, "bfloat16": 2, "uint8": 1}
_MANGLED = {
    "float64": "d",
    "float32": "f",
    "float16": "NS_4HalfE",
    "bfloat16": "NS_8BFloat16E",
    "uint8": "h",
}


# The ways of filter_entries for whole batches, by its kStep.
_STEPS = {"unit": 1, "RGB": 3, "strided": 0}
_SOURCES = ("resample.cuh", "resample_source.cuh", "resample_taps.cuh", "device.cuh")


def region(chain: tuple[Frame, ...], predicated: bool, source: Source) -> str:
    """Region of an instruction; the counts of `executions` have the same names."""
    owners = [source.owner.get(frame, "") for frame in chain]
    frames = dict(zip(reversed(owners), reversed(chain), strict=True))
    if "divide" in frames and " d;" in source.line(frames["divide"]) and "uint32" not in source.line(frames["divide"]):
        return "64-bit division"  # for more than 2^32 blocks
    if "store_converted" in frames:
        return "store converted"  # of bytes to floats: no case here
    if "filter_entries" in frames:
        call = source.line(frames["filter_columns"])
        way = next(way for way, step in _STEPS.items() if f", {step}>" in call) if "true" in call else "part"
        taps = next((name for name in ("add_neighbours", "add_strided", "add_shared") if name in frames), None)
        if taps:
            # The loop handles two trips at a time; what is left follows it.
            caller = source.line((*chain, ("", 0))[owners.index(taps) + 1])
            return f"{taps} {'rest' if 'if (taps' in caller else 'loop'} {way}"
        loop = source.line(frames.get("add_taps", frames.get("add_taps_strided", ("", 0))))
        if "for (" in loop:
            kind = "add_shared" if "left" in loop else "add_strided" if "step" in loop else "add_neighbours"
            return f"{kind} loop {way}"
        for name in ("resume", "keep", "store"):
            if name in frames:
                return f"{name} {way}"
        return f"entry {way}"
    if "filter_columns" in frames:
        return "flush"
    for name in ("emit_row", "fold_row"):
        if name in frames:
            # The body of one case of with_slot's switch, unless all bodies are issued under predicates.
            in_case = "with_slot" in frames and "switch" not in source.line(frames["with_slot"])
            return f"{name} slot" if in_case and not predicated else name
    if "run_step" in frames:
        return "load" if "load" in frames else "step"
    if "copy_to_shared" in frames and "run_strip" in frames:
        return f"copy {'steps' if 'steps' in source.line(frames['run_strip']) else 'tables'}"
    if "run_strip" in frames:
        line = source.line(frames["run_strip"])
        if "const S step" in line or "flush =" in line:
            return "step"
        if "group" in line or "flush != 0" in line:
            return "group"
        if "filter_columns" in line or "done +=" in line or "batch is complete" in line or "and free" in line:
            return "flush"
    return "setup"


@dataclass(frozen=True)
class _Axis:
    """Bands of an axis: output o reads inputs ``begin[o] … end[o] - 1``, neither of which decreases."""

    begin: np.ndarray
    end: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan of square images, and what its programs are made of."""

    shape: dict[str, Any]
    axis: _Axis  # rows and columns


@dataclass
class Work:
    """Executions of each region, in warps, and shared-memory wavefronts, of a whole call."""

    executions: dict[str, float]
    tap_wavefronts: float
    groups: float  # groups of four steps of a block
    chunks: float  # chunks of steps of a block
    copies: float  # turns of the loops that copy the tables and the first chunk


def _axis(bands: Bands) -> _Axis:
    """As the device makes them: without the zeros at the edges of a band."""
    start, offset, weight = (t.numpy() for t in (bands.start, bands.offset, bands.weight))
    begin, end = start.astype(np.int64), start + np.diff(offset).astype(np.int64)
    for o, (first, last) in enumerate(itertools.pairwise(offset)):
        (used,) = weight[first:last].nonzero()
        if len(used):
            begin[o], end[o] = start[o] + used[0], start[o] + used[-1] + 1
    return _Axis(np.minimum.accumulate(begin[::-1])[::-1], np.maximum.accumulate(end))


@dataclass
class _Program:
    """The vertical programs of all strips, in steps."""

    steps: int = 0
    rows: int = 0  # steps that consume an image row
    flushes: int = 0  # batches
    whole: int = 0  # batches of four rows
    strips: int = 0


def _program(axis: _Axis, strip_rows: int, unit_rows: int) -> _Program:
    """As csrc/core/resample/resample_tables.cuh makes them."""
    found = _Program()
    outputs = len(axis.begin)
    for first in range(0, outputs, strip_rows):
        found.strips += 1
        last = min(first + strip_rows, outputs)
        for batch in range(first, last, _BATCH_ROWS):
            steps = 0
            for o in range(batch, min(batch + _BATCH_ROWS, last)):
                begin = int(axis.begin[o])
                if (o - first) % unit_rows:
                    begin = max(begin, int(axis.end[o - 1]))
                rows = max(int(axis.end[o]) - begin, 0)
                found.rows += rows
                steps += max(rows, 1)
            found.steps += -(-steps // _GROUP_STEPS) * _GROUP_STEPS
            found.flushes += 1
            found.whole += batch + _BATCH_ROWS <= last
    return found


def _wavefronts(words: np.ndarray, width: int) -> int:
    """Wavefronts of a warp's load of `width` words per lane: 32 / width lanes together, one word per bank."""
    total = 0
    for lanes in np.split(words, range(32 // width, len(words), 32 // width)):
        distinct = np.unique((lanes[:, None] + np.arange(width)).ravel())
        total += int(np.bincount(distinct % 32).max()) if len(distinct) else 0
    return total


def work_of(plan: Plan) -> Work:
    """Executions of one call."""
    s, axis = plan.shape, plan.axis
    accumulator = 8 if s["dtype"] == "float64" else 4
    step_bytes = -(-(8 + accumulator * s["slots"]) // 16) * 16
    program = _program(axis, s["strip_rows"], s["unit_rows"])
    warps = s["threads"] // 32
    copies = s["tiles"] * s["channel_groups"] * s["plane_groups"]  # blocks that run one and the same strip
    steps, rows, flushes = program.steps * copies, program.rows * copies, program.flushes * copies
    emits = s["side"] * copies
    outputs, channels = s["outputs"], s["group_channels"]
    entry_warps, conflicts = 0, 0
    pairs = outputs == 1 and channels == 1
    for first in range(0, s["side"], s["tile_columns"]):
        last = min(first + s["tile_columns"], s["side"])
        window = axis.begin[first] // s["align"] * s["align"]
        taps = axis.begin[first:last:outputs] - window
        if pairs:
            taps = taps // 2 * 2
        taps = np.minimum(taps, s["slot_columns"] - s["taps"])
        plane = (taps[:, None] * channels + np.arange(channels)).ravel()
        entries = (np.arange(s["group_planes"])[:, None] * s["plane_elements"] + plane).ravel()
        entry_warps += -(-len(entries) // 32)
        for at in range(0, len(entries), 32):
            conflicts += _wavefronts(entries[at : at + 32].astype(np.int64), 2 if pairs else 1)
    passes = flushes / s["tiles"]  # batches of one tile
    entry_passes = entry_warps * passes
    full = program.whole / program.flushes
    taps = s["taps"]
    count: dict[str, float] = defaultdict(float)
    count["step"] = count["load"] = steps * warps / 4  # four copies of the code, each run once a group
    count["group"] = steps / 4 * warps
    count["flush"] = flushes * warps
    alone = channels == 1 if outputs == 1 else s["whole_store"]
    way = "unit" if alone else "RGB" if channels == s["channels"] == 3 else "strided"
    for name, share in ((way, full), ("part", 1 - full)):
        count[f"entry {name}"] = count[f"store {name}"] = entry_passes * share
        if outputs == 1:
            kind = "add_neighbours" if channels == 1 else "add_strided"
            count[f"{kind} loop {name}"] = entry_passes * share * (taps // 4)
            count[f"{kind} rest {name}"] = entry_passes * share * (taps % 4 // 2)
        else:
            count[f"add_shared loop {name}"] = entry_passes * share * (taps // 2)
            count[f"add_shared rest {name}"] = entry_passes * share * (taps % 2)
    count["fold_row"] = (rows if s["slots"] * (4 if s["dtype"] == "float32" else 8) > 16 else steps) * warps / 4
    count["emit_row"] = emits * warps / 4
    count["emit_row slot"] = emits * warps / 4 / s["slots"]
    count["emit_row tried"] = emits * warps / 4 / 2  # about, in a tree of comparisons
    if outputs == 1:
        data_loads, weight_wavefronts = taps / 2 * 4 * (1 if pairs else 2), taps / 2 * 2
    else:
        data_loads, weight_wavefronts = taps * 4, taps * 4
    threads = s["threads"]
    strip_bytes = program.steps / program.strips * step_bytes
    chunk_bytes = _CHUNK_STEPS * step_bytes
    weight_bytes = taps * s["entry_columns"] * outputs * accumulator
    table_bytes = weight_bytes + s["tile_entries"] * 8
    count["copy steps"] = s["blocks"] * warps * max(strip_bytes / 16 / threads, 1.0)
    # Two call sites, so two copies of the loop: each runs its own share.
    count["copy tables"] = s["blocks"] * warps * max(table_bytes / 16 / threads / 2, 1.0)
    count["setup"] = s["blocks"] * warps
    turns = [weight_bytes, s["tile_entries"] * 8, min(strip_bytes, chunk_bytes)]
    return Work(
        count,
        passes * (conflicts * data_loads + entry_warps * weight_wavefronts),
        steps / 4 / s["blocks"],
        -(-strip_bytes // chunk_bytes),
        sum(-(-size // (16 * threads)) for size in turns),
    )


# Wavefronts of one warp's store of a whole row buffer's part, by opcode; loads of a step are broadcasts of 16 bytes.
_SHARED = {"STS": 1, "STS.64": 2, "STS.128": 4, "LDS": 1, "LDS.64": 1, "LDS.128": 1}


def analyse(
    kernel: list[Instruction], source: Source, work: Work
) -> tuple[float, float, dict[str, float], Counter[str]]:
    """Return warp instructions, shared wavefronts, instructions by region and the code size by region."""
    sizes: Counter[str] = Counter()
    shared = work.tap_wavefronts
    names = [region(item.chain, item.predicated, source) for item in kernel]
    # Constants that a case sets carry no line of their own: they belong to the case whose block they are in.
    # Where the compiler predicates a case, other slots' emissions pass it too.
    cases = {
        item.block: "emit_row tried"
        for item, name in zip(kernel, names, strict=True)
        if name == "emit_row" and item.opcode.startswith("STS")
    }
    cases |= {item.block: name for item, name in zip(kernel, names, strict=True) if name.endswith(" slot")}
    # Likewise what a loop's line sets before the loop is part of the entry: the loop is where the products are.
    products = {item.block for item in kernel if item.opcode in ("FFMA", "DFMA")}
    for item, own in zip(kernel, names, strict=True):
        name = cases.get(item.block, own) if own in ("step", "emit_row") else own
        if " loop " in name and item.block not in products:
            name = f"entry {name.split()[-1]}"
        sizes[name] += 1
        if item.opcode.split(".E")[0] in _SHARED and not name.startswith("add_"):
            taken = name.replace("tried", "slot")
            shared += _SHARED[item.opcode] * work.executions.get(taken, 0.0)
    issued = {name: size * work.executions.get(name, 0.0) for name, size in sizes.items()}
    return sum(issued.values()), shared, issued, sizes


@dataclass(frozen=True)
class Prediction:
    """What one call should take; times in microseconds."""

    plan: dict[str, Any]
    instructions: float  # lane instructions per pixel of the larger image
    issue: float
    shared: float
    dram: float
    latency: float  # of the waves, were each block alone
    setup: float  # until the first rows are there, in the first wave
    waves: float  # of the busiest multiprocessor
    total: float
    copy: float  # a copy of as many bytes

    @property
    def binds(self) -> str:
        return max(("issue", "shared", "dram", "latency"), key=lambda name: getattr(self, name)).replace("dram", "DRAM")

    @property
    def ratio(self) -> float:
        """Speed relative to the copy."""
        return self.copy / self.total


@cache
def _compiled(arch: str) -> tuple[dict[str, Kernel], Source]:
    return disassemble("resample.cu", arch), Source(_SOURCES)


@cache
def _plan(
    machine: Machine,
    batch: int,
    channels: int,
    size_in: int,
    size_out: int,
    interpolation: str,
    dtype: str,
    layout: str,
    direction: str,
    vectors: bool = True,
) -> Plan:
    axis, forward = (size_in, size_out, 0.0, 0.0, 0.0), direction == "forward"
    whole = None if forward else (size_in, size_in, 0, 0)
    tensor = batch, channels, layout == "NHWC", vectors, axis, axis, whole, False
    options = INTERPOLATIONS.index(interpolation), True, machine.multiprocessors, machine.block_shared_bytes
    shape = native.load().plan_resample(dtype, dtype, not forward, (tensor,), *options, (), ()).shape
    (found,) = shape.pop("tensors")
    bands = get_bands(size_in, size_out, None, interpolation, True)
    bands = bands if forward else bands.transposed()
    return Plan(shape | found | {"side": bands.out_size}, _axis(bands))


def _kernel(plan: Plan, arch: str) -> tuple[Kernel, Source]:
    kernels, source = _compiled(arch)
    shape = plan.shape
    instance = f"resample_kernelI{_MANGLED[shape['dtype']]}Li{shape['slots']}ELi{shape['outputs']}ELb1"
    (name,) = (name for name in kernels if instance in name)
    return kernels[name], source


def _counts(plan: Plan, arch: str) -> tuple[Work, float, float, dict[str, float], Counter[str]]:
    """Work of a plan, and `analyse` of its kernel."""
    kernel, source = _kernel(plan, arch)
    work = work_of(plan)
    return work, *analyse(kernel.instructions, source, work)


def predict(
    machine: Machine,
    batch: int,
    channels: int,
    size_in: int,
    size_out: int,
    interpolation: str,
    dtype: str,
    layout: str,
    direction: str,
    *,
    arch: str = "90",
    vectors: bool = True,
) -> Prediction:
    """Time of one call on square images with aligned rows, with latency and waves.

    The blocks run in waves of as many as a multiprocessor holds. A wave takes the longest of four times:

    - issue and shared: of the busiest multiprocessor's blocks.
    - DRAM: of all blocks of the wave, at the bandwidth that a copy reaches.
    - latency: one block alone. Its warps issue an instruction a clock and wait for the chain of round trips: a group of
      four steps takes at least one access to DRAM, since the rows that are requested during one are used in the next;
      or its own instructions with one access to shared memory a step, one an entry and one for each turn of the loop
      over the taps, and two barriers a batch.

    Before that, once: a tile's place from L2, then the first rows from DRAM, while the tables are copied from L2.

    Args:
        layout: "NCHW" or "NHWC".
        direction: "forward", or "adjoint" of that forward: from ``size_out`` to ``size_in``.
        arch: compute capability to disassemble.
    """
    plan = _plan(machine, batch, channels, size_in, size_out, interpolation, dtype, layout, direction, vectors)
    s = plan.shape
    work, issued, shared, by_region, _ = _counts(plan, arch)
    blocks, warps, resident = s["blocks"], s["threads"] // 32, s["resident"]
    moved = batch * channels * (size_in**2 + size_out**2) * DTYPES[dtype]
    device_bytes = machine.dram_bytes_per_clock * machine.multiprocessors

    per_warp = work.executions
    entries = sum(per_warp[f"entry {way}"] for way in (*_STEPS, "part")) / blocks / warps
    turns = 1 + -(-s["taps"] // (4 if s["outputs"] == 1 else 2))
    own = (
        (issued - by_region["setup"] - by_region["copy tables"] - by_region["copy steps"]) / blocks / warps
        + (4 * work.groups + entries * turns) * machine.shared_clocks
        + 2 * per_warp["flush"] / blocks / warps * machine.barrier_clocks
        + (work.chunks - 1) * (machine.l2_clocks + 2 * machine.barrier_clocks)
    )
    # Requests of rows, one after the other; during each at least its share of the block's own time passes.
    alone = max(own, work.groups * machine.dram_clocks)
    ready = by_region["setup"] / blocks / warps + machine.l2_clocks
    ready += max(machine.dram_clocks, work.copies * machine.l2_clocks)

    busiest = -(-blocks // machine.multiprocessors)
    times = dict.fromkeys(("issue", "shared", "dram", "latency", "longest"), 0.0)
    for begun in range(0, busiest, resident):
        here = min(resident, busiest - begun)
        everywhere = min(here * machine.multiprocessors, blocks - begun * machine.multiprocessors)
        wave = {
            "issue": here * issued / blocks / machine.issue_per_clock,
            "shared": here * shared / blocks / machine.wavefronts_per_clock,
            "dram": everywhere * moved / blocks / device_bytes,
            "latency": alone,
        }
        for name, clocks in {**wave, "longest": max(wave.values())}.items():
            times[name] += clocks
    us = {name: machine.microseconds(clocks) for name, clocks in times.items()}
    setup = machine.microseconds(ready)
    return Prediction(
        s,
        issued * 32 / (batch * channels * max(size_in, size_out) ** 2),
        us["issue"],
        us["shared"],
        us["dram"],
        us["latency"],
        setup,
        busiest / resident,
        us["longest"] + setup + machine.ramp_us,
        machine.microseconds(moved / device_bytes) + machine.ramp_us,
    )


@dataclass(frozen=True)
class Mixed:
    """What images of different sizes should take; times in microseconds."""

    together: float  # one launch, and the launches that make its tables
    one_by_one: float  # a launch an image, back to back, with its tables there
    copy: float


def predict_mixed(
    sides: Sequence[int], size_out: int, interpolation: str, dtype: str, arch: str, machine: Machine
) -> Mixed:
    """Time of square images of these sides, read by the element.

    Together they fill the GPU like one image: the sums of issue, shared memory or DRAM bind. A launch alone has too few
    blocks for that. The tables take three launches, each a ramp.
    """
    issue = shared = dram = alone = 0.0
    for side in sides:
        case = (machine, 1, CHANNELS, side, size_out, interpolation, dtype, "NHWC", "forward")
        plan = _plan(*case, False)
        _, issued, wavefronts, *_ = _counts(plan, arch)
        issue += issued / machine.issue_per_clock / machine.multiprocessors
        shared += wavefronts / machine.wavefronts_per_clock / machine.multiprocessors
        moved = CHANNELS * (side**2 + size_out**2) * DTYPES[dtype]
        dram += moved / machine.dram_bytes_per_clock / machine.multiprocessors
        one = predict(*case, arch=arch, vectors=False)
        alone += one.total
    busiest = machine.microseconds(max(issue, shared, dram))
    setup = one.setup + machine.ramp_us
    return Mixed(busiest + setup + 3 * machine.ramp_us, alone, machine.microseconds(dram) + machine.ramp_us)


def cases() -> Iterator[tuple[int, int, str, str, str, str]]:
    """Sizes, direction, filter, dtype and layout of the table's rows."""
    for size_in, size_out in SIZES:
        for direction in ("forward", "adjoint"):
            for interpolation in FILTERS:
                for dtype in DTYPES:
                    if direction == "adjoint" and dtype == "uint8":
                        continue  # integers have no gradient
                    for layout in ("NCHW", "NHWC"):
                        yield size_in, size_out, direction, interpolation, dtype, layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="90", help="compute capability to disassemble (default 90)")
    parser.add_argument("--machine", default="h100", choices=MACHINES, help="GPU to predict for (default h100)")
    parser.add_argument("--mixed", action="store_true", help="64 images of mixed sizes, together and one by one")
    parser.add_argument("--verbose", action="store_true", help="print every region of every case")
    arguments = parser.parse_args()
    machine = MACHINES[arguments.machine]
    if arguments.mixed:
        sides = [300 + 600 * i // 63 for i in range(64)]
        print(f"{machine.name}, 64 images of 300² … 900² → 224², channels_last, times in µs")
        print("| filter | dtype | together | one by one | copy |\n|---|---|---|---|---|")
        for interpolation in FILTERS:
            for dtype in DTYPES:
                m = predict_mixed(sides, 224, interpolation, dtype, arguments.arch, machine)
                print(f"| {interpolation} | {dtype} | {m.together:.0f} | {m.one_by_one:.0f} | {m.copy:.0f} |")
        return
    print(f"{machine.name}, batch {BATCH}x{CHANNELS}, antialias, times in µs for the batch")
    print("| case | direction | filter | dtype | layout | instr/px | issue | shared | DRAM | latency | setup |", end="")
    print(" resident | waves | total | copy | copy/total | binds |")
    print("|" + "---|" * 17)
    try:
        for size_in, size_out, direction, interpolation, dtype, layout in cases():
            case = (machine, BATCH, CHANNELS, size_in, size_out, interpolation, dtype, layout, direction)
            p = predict(*case, arch=arguments.arch)
            print(
                f"| {size_in}→{size_out} | {direction} | {interpolation} | {dtype} | {layout} | {p.instructions:.1f} "
                f"| {p.issue:.0f} | {p.shared:.0f} | {p.dram:.0f} | {p.latency:.0f} | {p.setup:.1f} "
                f"| {p.plan['resident']}x{p.plan['threads']} | {p.waves:.2f} | {p.total:.0f} | {p.copy:.0f} "
                f"| {p.ratio:.2f} | {p.binds} |"
            )
            if arguments.verbose:
                print(p.plan)
                *_, by_region, sizes = _counts(_plan(*case), arguments.arch)
                pixels = BATCH * CHANNELS * max(size_in, size_out) ** 2
                for key, value in sorted(by_region.items(), key=lambda kv: -kv[1]):
                    print(f"    {key:26s} {value * 32 / pixels:7.2f}  code {sizes[key]}")
    except (FileNotFoundError, native.NativeUnavailable) as missing:
        raise SystemExit(f"benchmarks.floor.resample: {missing}") from missing


if __name__ == "__main__":
    main()
