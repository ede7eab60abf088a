"""Filters other than 16 and 32 on a GPU: eager torch, Triton, and the CUDA kernels with zero-padded channels.

    python -m benchmarks.floor.filters [--filters N ...] [--native | --tune KERNEL]

Nothing here ran on a GPU. Batch 64, 448→224, bilinear with antialias, bfloat16, channels_last, 3 channels, one block.

- eager: the bytes of every library call of `reference.Resizer`, a map read or written once a call, and a convolution's
  products at the peak rate. Nothing else has a cost, not even the 16 atomic additions a pixel and channel of the
  interpolation's backward: a lower bound.
- Triton: the prototypes of triton_kernels.py, compiled for sm_90 and counted as tensor.py does: the largest of issued
  instructions, matrix products, wavefronts of shared memory and L1, and DRAM. Tiles are the best of those tried.
- native: tensor.py's count of the instance of 16 or 32 filters, with the bytes of n. Needs nvcc, and minutes.

All three are given DRAM_SHARE of the DRAM's peak. Latency is in none of them, but eager's calls have little of it.

The whole is 2.3 to 3.6 times as fast in Triton as in eager torch for 8, 24 and 64 filters, and 2.0 to 3.4 times with
the padded CUDA kernels for 8 and 24. By kernel, Triton's stem gains 4 to 7 times forward and 2.3 to 5.4 backward, the
3×3 1.9 to 2.5 and 1.1 to 1.7, the head 1.0 to 1.3 and 1.3 to 2.4. Backward, nearly all spill registers.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.floor import tensor, tensor_kernels
from benchmarks.floor.disassembly import (
    CLOCK_HZ,
    DRAM_BYTES_PER_S,
    ISSUE_PER_CLOCK,
    SMS,
    Kernel,
    disassembler,
    loops,
    parse,
    reachable,
)
from benchmarks.floor.tensor import MMA_PER_CLOCK, wavefronts
from benchmarks.floor.tensor_kernels import BATCH, CHANNELS, IN_PIXELS, OUT_PIXELS, SIDE_IN, SIDE_OUT, Case

DRAM_SHARE = 0.87  # of the peak that a kernel bound by it reaches
FLOPS = 989.4e12  # bfloat16, dense: what cuDNN's convolutions are granted
PADDED_CHANNELS = 4  # of an image as the Triton kernels read it
SIZE = 2  # bytes of an element

# A call of the resizer with one block: how often each kernel runs.
INFERENCE = {"stem": 1, "conv": 2, "conv skip": 1, "head": 1}
TRAINING = {
    "stem statistics": 1,
    "conv": 2,
    "conv skip": 1,
    "head": 1,
    "head backward": 1,
    "conv backward": 2,
    "conv backward skip": 1,
    "stem backward": 1,
    "sums": 1,
}


class Times(NamedTuple):
    """Microseconds by what could bind."""

    issue: float
    tensor: float
    shared: float
    dram: float

    @property
    def bound(self) -> float:
        return max(self)


def dram(moved: float) -> float:
    """Microseconds for so many bytes."""
    return moved / (DRAM_BYTES_PER_S * DRAM_SHARE) * 1e6


def _times(issued: float, products: float, waves: float, moved: float) -> Times:
    clocks = SMS * CLOCK_HZ / 1e6
    return Times(issued / ISSUE_PER_CLOCK / clocks, products / MMA_PER_CLOCK / clocks, waves / clocks, dram(moved))


def eager(n: int, training: bool) -> dict[str, float]:
    """Microseconds of eager torch for each kernel's part, the image's resize and autograd's sums of gradients.

    A convolution with a bias is `cudnn_convolution` and `add_`. A batch normalisation of bfloat16 is torch's own: one
    read for the statistics in training, then one read and one write. Antialiased interpolation has no channels_last
    kernel: input and output are copied (`upsample_gen2d_aa_out_cuda_template`); its backward adds atomically.
    """
    image_in, image_out = IN_PIXELS * CHANNELS * SIZE, OUT_PIXELS * CHANNELS * SIZE
    inside, outside = IN_PIXELS * n * SIZE, OUT_PIXELS * n * SIZE
    statistics = 1 if training else 0

    def conv(pixels: int, terms: int, results: int, moved: float) -> float:
        return max(dram(moved), 2 * pixels * terms * results / FLOPS * 1e6)

    seven = 49 * 8  # cuDNN pads the channels of an image to 8
    three = conv(OUT_PIXELS, 9 * n, n, 2 * outside)
    # As in the kernels, a normalisation is part of what reads it, its statistics of what makes them.
    parts = {
        # 7×7; its bias, LeakyReLU; 1×1; its bias, LeakyReLU, normalisation; interpolation.
        "stem": conv(IN_PIXELS, seven, n, image_in + inside)
        + dram(4 * inside)
        + conv(IN_PIXELS, n, n, 2 * inside)
        + dram((4 + 2 + statistics + 3) * inside + 3 * outside),
        # Twice, of which one follows a normalisation and LeakyReLU.
        "conv": three + dram((2 + statistics) * outside),
        # A normalisation and the sum with the skip; 3×3.
        "conv skip": three + dram((2 + 3 + statistics) * outside),
        # The same; 7×7; its bias; the image's sum.
        "head": dram((2 + 3) * outside) + conv(OUT_PIXELS, 49 * n, 8, outside + image_out) + dram(5 * image_out),
        "resize": dram(3 * (image_in + image_out)),
    }
    if not training:
        return parts
    parts["stem statistics"] = parts.pop("stem")
    norm = 5 * outside  # sums of (dy, x), then (dy, x) to dx
    return parts | {
        # Data, weights, bias.
        "head backward": conv(OUT_PIXELS, 49 * 8, n, outside + image_out)
        + conv(OUT_PIXELS, 49 * n, 8, outside + image_out)
        + dram(image_out + norm),
        "conv backward": 2 * three + dram((norm + 3 * outside) / 2),  # one normalisation and LeakyReLU for two
        "conv backward skip": 2 * three + dram(norm),
        # Interpolation: zeros, then atomic additions (a read and a write); normalisation, LeakyReLU; bias, data,
        # weights; LeakyReLU; bias, weights.
        "stem backward": dram(3 * inside + 3 * outside + (5 + 3 + 1) * inside)
        + 2 * conv(IN_PIXELS, n, n, 2 * inside)
        + dram((3 + 1) * inside)
        + conv(IN_PIXELS, seven, n, image_in + inside),
        "sums": dram(2 * 3 * outside),  # the first map has three uses
    }


@dataclass(frozen=True)
class Launch:
    """A Triton kernel with its constants, and how often its loop runs."""

    kernel: str
    constants: dict[str, Any]
    warps: int
    stages: int
    programs: int
    trips: int
    moved: int


def _power(n: int, least: int) -> int:
    return max(least, 1 << (n - 1).bit_length())


# Tiles: columns of a program (the head: pairs of them), warps, terms of a product where there is a choice, stages. The
# best by what binds of those that `--tune` tries, as far as they were tried: an instance that spills much compiles for
# minutes.
TILES: dict[tuple[str, int], tuple[int, int, int, int]] = {
    ("stem", 8): (32, 1, 32, 3),
    ("conv", 8): (32, 1, 32, 1),
    ("head", 8): (32, 1, 64, 3),
    ("stem backward", 8): (16, 1, 32, 1),
    ("conv backward", 8): (32, 1, 32, 1),
    ("head backward", 8): (16, 1, 32, 1),
    ("stem", 24): (64, 4, 32, 3),
    ("conv", 24): (32, 1, 16, 1),
    ("head", 24): (32, 1, 64, 3),
    ("stem backward", 24): (16, 1, 32, 1),
    ("conv backward", 24): (16, 1, 16, 1),
    ("head backward", 24): (16, 1, 32, 1),
    ("stem", 64): (32, 4, 32, 1),
    ("conv", 64): (64, 4, 64, 1),
    ("head", 64): (32, 1, 64, 3),
    ("stem backward", 64): (64, 4, 32, 1),
    ("conv backward", 64): (32, 4, 32, 1),
    ("head backward", 64): (32, 8, 32, 1),
}


def launch(name: str, n: int, tile: tuple[int, int, int, int] | None = None) -> Launch:
    """The launch of one kernel for n filters."""
    cols, warps, terms, stages = (
        TILES[name.split()[0] + (" backward" if "backward" in name else ""), n] if tile is None else tile
    )
    narrow, wide = _power(n, 8), _power(n, 16)
    inside = IN_PIXELS * PADDED_CHANNELS * SIZE
    outside = OUT_PIXELS * n * SIZE
    common: dict[str, Any] = {"n": n, "COLS": cols}
    image = common | {"C": PADDED_CHANNELS, "KP": 8 * PADDED_CHANNELS, "NK": wide}
    across = -(-SIDE_OUT // cols)
    skip = "skip" in name

    def made(
        kernel: str, constants: dict[str, Any], tiles: int, side: int, rows: int, trips: int, moved: int
    ) -> Launch:
        strips = -(-side // rows)
        row = {"STRIP" if kernel == "stem_forward" else "ROWS": rows}
        every = constants | row | {"TILES": tiles, "STRIPS": strips}
        return Launch(kernel, every, warps, stages, BATCH * tiles * strips, trips, moved)

    if name in ("stem", "stem statistics"):
        constants = image | {"NP": narrow, "OUTS": max(cols // 2, 16), "STATISTICS": "statistics" in name}
        return made("stem_forward", constants, -(-SIDE_OUT // (cols // 2 - 1)), SIDE_OUT, 56, 120, inside + outside)
    if name == "stem backward":
        constants = image | {"OUTS": _power(cols // 2 + 2, 16)}
        return made("stem_backward", constants, -(-SIDE_IN // cols), SIDE_IN, 64, 76, inside + outside)
    if name == "head":
        constants = {"n": n, "C": CHANNELS, "CHUNKS": -(-8 * n // terms), "KP": terms, "NP": 8, "PAIRS": cols}
        moved = outside + 2 * OUT_PIXELS * CHANNELS * SIZE
        return made("head_forward", constants, -(-SIDE_OUT // (2 * cols)), SIDE_OUT, 28, 34, moved)
    if name == "head backward":
        return made("head_backward", image, across, SIDE_OUT, 56, 62, 4 * outside + inside // 4)
    common |= {"CHUNKS": -(-3 * n // terms), "KP": terms, "SKIP": skip}
    if name.startswith("conv backward"):
        return made("conv_backward", common | {"NK": wide}, across, SIDE_OUT, 28, 30, (4 + 2 * skip) * outside)
    constants = common | {"NP": narrow, "STATISTICS": True}
    return made("conv_forward", constants, across, SIDE_OUT, 28, 30, (2 + skip) * outside)


_FLOATS = "b0 b1 bias weights vectors terms moments dweight sums dw0 dw1 db"
_INTEGERS = "H W h w"


def compiled(what: Launch, capability: int = 90) -> Any:
    """The kernel, compiled ahead of time."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from benchmarks.floor import triton_kernels

    kernel = getattr(triton_kernels, what.kernel)
    signature: dict[str, str] = {}
    for name in kernel.arg_names:
        signature[name] = (
            "constexpr" if name in what.constants
            else "i32" if name in _INTEGERS.split()
            else "fp32" if name == "slope"
            else "*i32" if name == "first"
            else "*fp32" if name in _FLOATS.split() or (name, what.kernel) == ("rows", "stem_forward")
            else "*bf16"
        )  # fmt: skip
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if signature[name][0] == "*" or signature[name] == "i32"
    }
    options = {"num_warps": what.warps, "num_stages": what.stages}
    source = ASTSource(kernel, signature, what.constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


class Count(NamedTuple):
    """Warp instructions, 16x8x16 products and wavefronts of a launch, and what its programs occupy."""

    issued: float
    products: float
    waves: float
    registers: int  # a thread
    stack: int  # bytes a thread: spilled
    resident: int  # warps an SM


def _disassembled(cubin: bytes) -> tuple[Kernel, int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        # It warns that it knows no flow of registers in such a file, which nothing here asks for.
        text, usage = (
            subprocess.run([*command, path], check=True, capture_output=True, text=True).stdout
            for command in ([disassembler(), "-gi", "-c"], [cuobjdump(), "-res-usage"])
        )
    (kernel,) = parse(text).values()
    registers, stack = (int(re.findall(rf"{what}:(\d+)", usage)[0]) for what in ("REG", "STACK"))
    return kernel, registers, stack


def cuobjdump() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def _products(opcode: str, operands: str) -> tuple[float, float]:
    """16x8x16 products of an instruction, and a warp's share of the wavefronts of its operands in shared memory."""
    if opcode.startswith("HMMA"):
        return 1.0, 0.0
    if not opcode.startswith("HGMMA"):
        return 0.0, 0.0
    # wgmma: 64 rows by a warp's sixteen; B is in shared memory, A there or in registers. It reaches the peak.
    shape = re.match(r"x(\d+)x(\d+)\S* R\d+, (\w)", operands)
    assert shape is not None, operands
    columns = int(shape[1])
    return columns / 8 * MMA_PER_CLOCK, (16 * columns * 2 / 128) / 4 + 4 * (shape[3] != "R")


def _wavefronts(opcode: str) -> float:
    parts = opcode.split(".")
    if parts[0] in ("LDG", "STG", "LDGSTS"):
        return 4.0 if "128" in parts else 2.0 if "64" in parts else 1.0
    return wavefronts(opcode)


@cache
def _lines() -> list[str]:
    return (Path(__file__).parent / "triton_kernels.py").read_text().splitlines()


def count(what: Launch, capability: int = 90) -> Count:
    """Count a launch. Its kernel has one loop; lines marked "# every second row" run in half of its rounds."""
    built = compiled(what, capability)
    kernel, registers, stack = _disassembled(built.asm["cubin"])
    (loop,) = loops(kernel)
    live = reachable(kernel)
    issued = products = waves = 0.0
    for item in kernel.instructions:
        if item.block not in live or item.opcode.startswith("NOP"):
            continue
        times = float(what.programs * what.warps * (what.trips if item.block in loop.blocks else 1))
        file, line = item.chain[-1] if item.chain else ("", 0)
        if file == "triton_kernels.py" and "# every second row" in _lines()[line - 1]:
            times /= 2
        more, operands = _products(item.opcode, item.operands)
        issued += times
        products += times * more
        waves += times * (_wavefronts(item.opcode) + operands)
    threads = 32 * what.warps
    # 64 K registers, given to a warp in units of 256; 227 KB of shared memory, of which a program costs 1 more.
    programs = min(65536 // (threads * -(-registers // 8) * 8), 227 * 1024 // (built.metadata.shared + 1024), 32)
    return Count(issued, products, waves, registers, stack, what.warps * programs)


def tune(name: str, n: int) -> Iterator[tuple[tuple[int, int, int, int], Times, Count]]:
    """Tiles of a kernel and what they count: 16 to 64 columns, 1 to 8 warps, 16 to 128 terms, loads ahead or not."""
    choice = name.startswith(("conv", "head")) and name != "head backward"
    for terms in (16, 32, 64, 128) if choice else (32,):
        for tile in itertools.product((16, 32, 64), (1, 2, 4, 8), (terms,), (1, 3)):
            what = launch(name, n, tile)
            counted = count(what)
            yield tile, _times(counted.issued, counted.products, counted.waves, what.moved), counted


def passes(name: str, n: int) -> float:
    """Microseconds of what a Triton kernel needs done first: each is bound by DRAM."""
    padded = (CHANNELS + PADDED_CHANNELS) * SIZE
    if name in ("stem", "stem statistics"):  # the image with padded channels; the backward reads the same
        return dram(IN_PIXELS * padded)
    if name == "head":  # v, from t and u
        return dram(3 * OUT_PIXELS * n * SIZE)
    return dram(OUT_PIXELS * padded) if name == "head backward" else 0.0


@cache
def triton_times(name: str, n: int) -> tuple[Times, Count]:
    """Times of one kernel, without `passes`, and its count."""
    what = launch(name, n)
    counted = count(what)
    return _times(counted.issued, counted.products, counted.waves, what.moved), counted


# The native kernels by the names of tensor_kernels.py.
NATIVE = {
    "stem": "stem without statistics",
    "stem statistics": "stem with statistics",
    "conv": "conv forward",
    "conv skip": "conv forward with skip",
    "head": "head forward",
    "head backward": "head backward",
    "conv backward": "conv backward",
    "conv backward skip": "conv backward with skip",
    "stem backward": "stem_backward weights",
    "trunk block": "trunk block",
    "trunk tail": "trunk tail",
}
NATIVE_INFERENCE = {"stem": 1, "trunk block": 1, "trunk tail": 1}  # 16 filters; of 32 as INFERENCE


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _with_trips(case: Case, **trips: float) -> Case:
    """The case with other trip counts, by a part of the rules' patterns."""
    rules = list(case.loops)
    for part, value in trips.items():
        (at,) = [i for i, rule in enumerate(rules) if _LOOPS[part] == rule.pattern]
        rules[at] = replace(rules[at], trips=value)
    return replace(case, loops=tuple(rules))


_LOOPS = {
    "begin": r"^begin:",
    "strip": r"^run_strip:",
    "emit": r"^filter_rows:",
    "steps": r"^convolve:.*s < kSteps",
    "weights": r"^backward_weights:",
    "items": r"^:for \(int64_t item",
    "head": r"^:for \(int64_t i =",
    "pixels": r"^load:.*kPixels",
    "products": r"^weight_products:",
    "rows": r"^run_item:.*row (=|<)",
    "requests": r"^request:.*end <",
    "dz": r"^add:.*o < read",
}


def _of_32(case: Case) -> Case:
    """A case of 32 filters: tensor_kernels.py has the loops of 16. The products of the shapes check it."""
    outputs = OUT_PIXELS // 16
    if case.name.startswith("stem w"):
        plan = tensor_kernels.stem_plan()
        steps = sum(-(-rows // 2) for rows in plan.rows) / plan.strips  # two rows a step, not three
        case = _with_trips(case, begin=4, strip=steps, emit=SIDE_OUT / plan.strips / (steps * 2))
        return replace(case, mma=plan.items * plan.warps * steps * 2 * 64)
    if case.name.startswith("stem_backward"):  # a row at a time, two before the block meets, and two blocks
        items = BATCH * 7 * 7
        # a and c, da, dW0, dW1, db0 and db1; two rows of dz of four column tiles.
        products = 64 + 8 + 56 + 8 + 4 + 2 * 4 * (1 + 2 / 28)
        # All rows of dz that are read together are read by the one image row; db0 is of two warps' pixels.
        shares = {"weight|": 1.0, "db\\": 1 / 2}
        case = _with_trips(case, begin=7, rows=SIDE_IN / 7 / 2, items=items / (2 * SMS), requests=1 / 2, dz=2)
        return replace(
            case,
            warps=2 * SMS * 4,
            mma=items * 4 * SIDE_IN / 7 * products,
            shares=tuple(
                next((replace(rule, trips=share) for part, share in shares.items() if part in rule.pattern), rule)
                for rule in case.shares
            ),
        )
    if case.name == "head forward":  # tiles of 8 rows
        tiles = tensor_kernels._across(8)
        return replace(_with_trips(case, head=tiles / (2 * SMS), pixels=38 * 14 * 4 / 256, steps=2), mma=outputs * 56)
    if case.name == "head backward":
        (trips,) = (rule.trips for rule in case.loops if rule.pattern == _LOOPS["products"])
        return replace(_with_trips(case, products=2 * trips), mma=outputs * 112)
    case = _with_trips(case, steps=2)
    if "backward" not in case.name:
        return replace(case, mma=outputs * 72)
    (trips,) = (rule.trips for rule in case.loops if rule.pattern == _LOOPS["weights"])
    return replace(_with_trips(case, weights=4 * trips), mma=outputs * 144)


def native_case(name: str, n: int) -> Case:
    """The native kernel that would take n filters: 16 or 32, with the bytes of n."""
    width = 16 if n <= 16 else 32

    def find() -> Case:
        (case,) = (case for case in tensor_kernels.cases(["bfloat16"]) if case.name == NATIVE[name])
        return case

    with _replaced(tensor_kernels, "FILTERS", n):
        moved = find().bytes
    with _replaced(tensor_kernels, "FILTERS", width):
        case = find()
    if width == 32:
        case = _of_32(replace(case, mangled=case.mangled.replace("Li16E", "Li32E")))
    return replace(case, bytes=moved)


@cache
def native_times(name: str, n: int) -> Times:
    """Times of one native kernel for n filters, padded. Wavefronts are counted as Triton's."""
    with _replaced(tensor, "wavefronts", _wavefronts):
        row = tensor.measure(native_case(name, n), "90")
    return _times(sum(row.issued.values()), row.mma, row.shared, row.case.bytes)


def total(times: dict[str, float], calls: dict[str, int]) -> float:
    """Microseconds of a call, with the image's resize: by the resample kernel, if `times` does not say."""
    resize = times.get("resize", dram((IN_PIXELS + OUT_PIXELS) * CHANNELS * SIZE))
    return resize + sum(many * times[name] for name, many in calls.items())


def summary(n: int, training: bool, ours: dict[str, float], cuda: dict[str, float]) -> str:
    """A row: microseconds an image of each, and how many times faster than eager torch."""
    calls = TRAINING if training else INFERENCE
    eagerly = eager(n, training)
    stem = {name: ours[name] if name.startswith("stem") else time for name, time in eagerly.items()}
    slow = total(eagerly, calls)
    totals = [total(stem, calls), total(ours, calls)]
    if cuda:
        totals.append(total(cuda, NATIVE_INFERENCE if n <= 16 and not training else calls))
    cells = [f"{time / BATCH:.1f} ({slow / time:.2f}×)" for time in totals] + ["–"] * (3 - len(totals))
    return f"| {'training step' if training else 'inference'} | {n} | {slow / BATCH:.1f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, nargs="+", default=[8, 24, 64], choices=sorted({n for _, n in TILES}))
    parser.add_argument("--native", action="store_true", help="count the padded CUDA kernels as well; minutes")
    parser.add_argument("--tune", choices=[*INFERENCE, *TRAINING], help="try tiles of this kernel instead")
    arguments = parser.parse_args()
    if arguments.tune:
        for n in arguments.filters:
            for tile, times, counted in tune(arguments.tune, n):
                _print([n, *tile, *times, times.bound, counted.registers, counted.stack, counted.resident])
        return
    names = [name for name in dict.fromkeys([*INFERENCE, *TRAINING]) if name != "sums"]
    print("µs of a batch; x: times faster than eager; registers and bytes of stack a thread, warps an SM")
    print("| kernel | n | eager | by | issue | tensor | L1 | DRAM | passes | sum | x | registers | stack | warps |")
    print("|---" * 14 + "|")
    rows = []
    for n in arguments.filters:
        eagerly = eager(n, False) | eager(n, True)
        ours, cuda = {"sums": eagerly["sums"]}, {"sums": eagerly["sums"]}
        for name in names:
            times, counted = triton_times(name, n)
            ours[name] = times.bound + passes(name, n)
            faster = f"{eagerly[name] / ours[name]:.1f}"
            used = [counted.registers, counted.stack, counted.resident]
            _print([name, n, eagerly[name], "Triton", *times, passes(name, n), ours[name], faster, *used])
        for name in names + ["trunk block", "trunk tail"][: 2 * (n <= 16)] if arguments.native and n <= 32 else []:
            native = native_times(name, n)
            cuda[name] = native.bound
            part = eagerly.get(name)  # the trunk kernels have no part of their own
            faster = f"{part / native.bound:.1f}" if part else ""
            _print([name, n, part or "", "native", *native, 0, native.bound, faster, "", "", ""])
        rows += [summary(n, training, ours, cuda if len(cuda) > 1 else {}) for training in (False, True)]
    print("\nµs an image")
    print("| | n | eager | stem in Triton, the rest eager | all in Triton | native, padded |")
    print("|---" * 6 + "|", *rows, sep="\n")


def _print(cells: list[Any]) -> None:
    print(f"| {' | '.join(f'{cell:.0f}' if isinstance(cell, float) else str(cell) for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
