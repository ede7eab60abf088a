"""Predicted times of the kernels with latency and real residency, from their disassembly, without a GPU.

    python -m benchmarks.floor.model [--json | --verbose] [--batch N] [--arithmetic A] [--kernel NAME] [--machine M]
    python -m benchmarks.floor.model --hopper

448→224, bilinear with antialias, 16 filters, 3 channels, one block; the constants are in machine.py.

1. tensor.py counts: loops of the disassembly with the trips of tensor_kernels.py, shares of branches.
2. program.py makes the instructions of a warp from the same loops: fractional trips and shares by error diffusion, a
   tile loop with the block's own number of tiles.
3. simulation.py issues them for the warps that are resident on the busiest multiprocessor: registers from ptxas, shared
   memory from csrc/core's own expressions. Where the whole would take long, two runs with fewer trips of one loop are
   extrapolated linearly.
4. An access of global memory has the latency and bandwidth that the case's table gives it (DRAM, L2, L1). All bytes of
   the DRAM together are those of the shapes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.floor import resample, tensor, tensor_kernels
from benchmarks.floor.disassembly import CORE, core_file
from benchmarks.floor.machine import MACHINES, Machine
from benchmarks.floor.program import Nested, Program
from benchmarks.floor.simulation import REASONS, Run, simulate
from benchmarks.floor.tensor_kernels import ARITHMETICS, SHARED, Case
from learned_resizer_cuda.kernels import native

LIMIT = 600_000  # instructions of a multiprocessor that are simulated one by one
REDUCTIONS = 10  # launches of csrc/core/reduce in a training step


@dataclass
class Prediction:
    """One call of a kernel."""

    us: float  # of the call
    bound_us: dict[str, float]  # issue, tensor, shared and DRAM without latency
    registers: int
    shared_bytes: int
    threads: int
    blocks: int  # launched
    resident: int  # blocks a multiprocessor
    waves: float  # launched blocks in units of what is resident
    units: float  # tiles or steps of a block
    unit: str  # what closes the loop of one
    unit_clocks: float
    setup_clocks: float
    round_trips: float  # waits of a warp for the L2 or DRAM, a unit
    loads_in_flight: float  # of a warp, mean
    most_in_flight: int
    issue_rate: float  # instructions a clock and multiprocessor
    stalls: dict[str, float]  # shares of the warps' clocks
    first_touch: float  # part of the requested bytes that the DRAM serves: the others are halos


def resident_blocks(machine: Machine, threads: int, registers: int, shared: int) -> int:
    """Blocks that a multiprocessor holds: registers go to warps in units of 256, the system takes 1 KiB a block."""
    warps = -(-threads // 32)
    of_registers = machine.registers // (-(-registers * 32 // 256) * 256) // warps
    return min(of_registers, machine.shared_bytes // (shared + 1024), machine.warps // warps, machine.blocks)


def shared_bytes(cases: list[Case]) -> dict[tuple[str, str], int]:
    """Dynamic shared memory of each case's blocks, by csrc/core's own expressions.

    Raises:
        FileNotFoundError: without nvcc.
        LookupError: for a kernel that SHARED does not have.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise FileNotFoundError("nvcc: not on PATH")
    enums = {"bfloat16": "kBFloat16", "tf32": "kTF32", "float32": "kFloat32"}
    result = {}
    for source in {case.source for case in cases}:
        own = [case for case in cases if case.source == source]
        lines = []
        for case in own:
            texts = [text for start, text in SHARED.items() if case.name.startswith(start)]
            if not texts:
                raise LookupError(f"{case.name}: no expression for its shared memory")
            value = texts[0].format(
                M=f"Arithmetic::{enums[case.arithmetic]}",
                warps=case.threads // 32,
                fragments=tensor_kernels.stem_plan(case.arithmetic).fragments,
            )
            lines.append(f'    std::printf("%d\\n", static_cast<int>({value}));')
        headers = re.findall(r"#include .*\.cuh.*", core_file(source).read_text())
        program = ["#include <cstdio>", *headers, "using namespace learned_resizer;", "int main() {", *lines, "}"]
        with tempfile.TemporaryDirectory() as folder:
            text, binary = Path(folder) / "shared.cu", Path(folder) / "shared"
            text.write_text("\n".join(program))
            subprocess.run([nvcc, "-std=c++17", "-O0", f"-I{CORE}", text, "-o", binary], check=True)
            printed = subprocess.run([binary], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        result |= {(case.name, case.arithmetic): int(n) for case, n in zip(own, printed, strict=True)}
    return result


def _between(a: Run, b: Run, t: float) -> Run:
    """Linear in the trips: `a` at 0, `b` at 1."""

    def line(x: float, y: float) -> float:
        return x + (y - x) * t

    stalls = Counter({name: line(a.stalls[name], b.stalls[name]) for name in REASONS})
    values = {name: line(getattr(a, name), getattr(b, name)) for name in ("clocks", "issued", "round_trips")}
    values |= {name: line(getattr(a, name), getattr(b, name)) for name in ("load_clocks", "warp_clocks")}
    return Run(stalls=stalls, most_in_flight=max(a.most_in_flight, b.most_in_flight), **values)


class Model:
    """A kernel's program on a machine."""

    def __init__(self, case: Case, machine: Machine, shared: int, arch: str = "90") -> None:
        self.case, self.machine = case, machine
        self.row = tensor.measure(case, arch)
        self.kernel = tensor.kernel_of(case, arch)
        self.program = Program(case, self.kernel)
        self.shared = shared + self.kernel.shared
        self.resident = resident_blocks(machine, case.threads, self.kernel.registers, self.shared)
        self.operations = self.program.operations(machine)
        # Blocks b, b + 132, ...: those of the multiprocessor that has the first block.
        self.own = list(range(0, case.blocks, machine.multiprocessors))
        self.main = max(self.program.outer, key=self._weight)
        self.unit, inner = self.main, [self.main]
        while inner and self.program.trips[self.unit.loop.header] < 6:  # tiles, or the steps of few large items
            self.unit = max(inner, key=self._weight)
            inner = [n for n in self.unit.order if isinstance(n, Nested) and n.barrier]

    def _weight(self, node: Nested) -> float:
        return sum(self.program.times[i] for b in node.loop.blocks for i in self.program.by_block.get(b, ()))

    def units(self, block: int) -> int:
        """Trips of the main loop, which the blocks share out one by one."""
        items = round(self.program.trips[self.main.loop.header] * self.case.blocks)
        return -(-(items - block) // self.case.blocks)

    def run(self, trips: float | None = None) -> Run:
        """The busiest multiprocessor, with so many trips of the unit's loop instead of all."""
        blocks = []
        for block in self.own:
            each = dict(self.program.trips)
            each[self.main.loop.header] = self.units(block)
            if trips is not None:
                each[self.unit.loop.header] = trips
            warps = self.case.threads // 32
            blocks.append([self.program.path(self.operations, each, w / warps) for w in range(warps)])
        return simulate(self.machine, blocks, self.resident)

    def predict(self) -> Prediction:
        machine, case = self.machine, self.case
        total = sum(self.row.issued.values()) / machine.multiprocessors
        full = self.program.trips[self.unit.loop.header]
        if self.unit is self.main:
            full = self.units(0)
        # Few trips, and twice as many or all: the difference is the units' time, the rest the block's setup and end.
        first = max(1, math.floor(min(full / 2, full * LIMIT / 3 / total)))
        low = self.run(first)
        high, second = (self.run(), full) if total <= LIMIT else (self.run(2 * first), 2 * first)
        t = (full - first) / max(second - first, 1)
        run = _between(low, high, t)
        clocks_a_unit = (high.clocks - low.clocks) / max(second - first, 1e-9)
        warps = case.threads // 32 * len(self.own)
        units = full * (self.units(0) if self.unit is not self.main else 1)
        waits = (high.round_trips - low.round_trips) / max(second - first, 1e-9) / warps
        if self.unit is not self.main:
            waits /= self.units(0)
            clocks_a_unit /= self.units(0)
        spent = sum(run.stalls.values())
        return Prediction(
            us=machine.microseconds(run.clocks) + machine.ramp_us,
            bound_us=self.row.microseconds(machine),
            registers=self.kernel.registers,
            shared_bytes=self.shared,
            threads=case.threads,
            blocks=case.blocks,
            resident=self.resident,
            waves=case.blocks / (self.resident * machine.multiprocessors),
            units=units,
            unit=tensor.describe(self.unit.loop.back[0].chain)[0],
            unit_clocks=clocks_a_unit,
            setup_clocks=run.clocks - clocks_a_unit * units,
            round_trips=waits,
            loads_in_flight=run.load_clocks / run.warp_clocks,
            most_in_flight=run.most_in_flight,
            issue_rate=run.issued / run.clocks,
            stalls={name: round(run.stalls[name] / spent, 3) for name in REASONS},
            first_touch=self.program.first_touch,
        )


def resample_us(machine: Machine, arithmetic: str, batch: int) -> float:
    """The resize of the image; without the native module, whose plan it needs, its bytes at a copy's bandwidth."""
    dtype = "bfloat16" if arithmetic == "bfloat16" else "float32"
    sizes = tensor_kernels.CHANNELS, tensor_kernels.SIDE_IN, tensor_kernels.SIDE_OUT
    try:
        return resample.predict(machine, batch, *sizes, "bilinear", dtype, "NCHW", "forward").total
    except native.NativeUnavailable:
        moved = (tensor_kernels.IN_PIXELS + tensor_kernels.OUT_PIXELS) * sizes[0] * resample.DTYPES[dtype]
        return moved / (machine.dram_bytes_per_s * machine.dram_share) * 1e6 + machine.ramp_us


def totals(machine: Machine, arithmetic: str, us: dict[str, float]) -> dict[str, float]:
    """Microseconds of an inference and of a training step, for the batch, where all their kernels are known."""
    inference = tensor_kernels.INFERENCE if arithmetic == "bfloat16" else tensor_kernels.INFERENCE_32_BIT
    result = {}
    for name, calls, small in (
        ("inference", inference, 0),
        ("train", tensor_kernels.TRAINING, REDUCTIONS),
    ):
        if calls.keys() <= us.keys():
            result[name] = us["resample"] + small * machine.small_kernel_us
            result[name] += sum(count * us[kernel] for kernel, count in calls.items())
    return result


def by_round_trips(machine: Machine, kernel: dict[str, Any]) -> float:
    """Microseconds of a kernel by a simpler estimate: its largest bound, and its round trips, one after the other.

    A round trip takes the DRAM's latency under load, 700 clocks (an assumption), which the resident blocks share.
    """
    turns = math.ceil(kernel["blocks"] / (machine.multiprocessors * kernel["resident"]))
    trips: float = turns * kernel["units"] * kernel["round_trips"] / kernel["resident"]
    return max(kernel["bound_us"].values()) + machine.microseconds(700 * trips)


def predict(machines: list[str], arithmetic: str, batch: int, kernel: str | None = None) -> dict[str, dict[str, Any]]:
    """Predictions by machine: kernels, and per image what their calls add up to."""
    with tensor_kernels.batch_of(batch):
        cases = [c for c in tensor_kernels.cases([arithmetic]) if kernel is None or kernel in c.name]
        shared = shared_bytes(cases)
        result: dict[str, dict[str, Any]] = {}
        for name in machines:
            machine = MACHINES[name]
            kernels = {}
            for case in cases:
                prediction = Model(case, machine, shared[case.name, case.arithmetic]).predict()
                kernels[case.name] = asdict(prediction) | {"us_per_image": prediction.us / batch}
            # Its 68 instances take a minute to compile: not for one other kernel.
            resize = {} if kernel else {"resample": resample_us(machine, arithmetic, batch)}
            us = {key: value["us"] for key, value in kernels.items()} | resize
            calls = totals(machine, arithmetic, us)
            result[name] = {f"{key}_us": value / batch for key, value in calls.items()}
            simple = {key: by_round_trips(machine, value) for key, value in kernels.items()} | resize
            for key, value in totals(machine, arithmetic, simple).items():
                result[name][f"{key}_by_round_trips_us"] = value / batch
            result[name] |= {"batch": batch, "arithmetic": arithmetic}
            result[name] |= {f"{key}_us": value / batch for key, value in resize.items()}
            result[name]["kernels"] = kernels
    return result


def table(prediction: dict[str, Any]) -> str:
    """A machine's predictions as Markdown; times in µs an image."""
    batch = prediction["batch"]
    head = (
        "kernel | registers | shared | resident | waves | setup, clocks | units | round trips | in flight | issue/clk "
        "| issue | tensor | shared µs | DRAM | µs an image | waits for"
    )
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for name, k in prediction["kernels"].items():
        bounds = " | ".join(f"{k['bound_us'][b] / batch:.2f}" for b in ("issue", "tensor", "shared", "DRAM"))
        waits = sorted(((v, n) for n, v in k["stalls"].items() if n != "issued"), reverse=True)[:3]
        lines.append(
            f"| {name} | {k['registers']} | {k['shared_bytes']} | {k['resident']} | {k['waves']:.2f} "
            f"| {k['setup_clocks']:.0f} | {k['units']:.0f} "
            f"| {k['round_trips']:.1f} | {k['loads_in_flight']:.1f} ({k['most_in_flight']}) "
            f"| {k['issue_rate']:.2f} "
            f"| {bounds} | **{k['us_per_image']:.2f}** | {', '.join(f'{n} {v:.0%}' for v, n in waits)} |"
        )
    if "resample_us" in prediction:
        lines.append(f"| resample |{' |' * 13} **{prediction['resample_us']:.2f}** | |")
    for key, label in (("inference", "inference"), ("train", "training step")):
        if f"{key}_us" in prediction:
            simple = f"by round trips {prediction[f'{key}_by_round_trips_us']:.2f}"
            lines.append(f"| **{label}** |{' |' * 13} **{prediction[f'{key}_us']:.2f}** | {simple} |")
    return "\n".join(lines)


def hopper(machine: Machine, arithmetic: str, batch: int) -> str:
    """Upper bounds of what Hopper's own instructions gain, as Markdown."""
    from benchmarks.floor.hopper import apply, features

    with tensor_kernels.batch_of(batch):
        calls = {"inference": tensor_kernels.INFERENCE, "train": tensor_kernels.TRAINING}
        cases = [c for c in tensor_kernels.cases([arithmetic]) if any(c.name in names for names in calls.values())]
        shared = shared_bytes(cases)
        before = {c.name: Model(c, machine, shared[c.name, arithmetic]).predict().us for c in cases}
        sums = totals(machine, arithmetic, before | {"resample": resample_us(machine, arithmetic, batch)})
        lines = [
            "| feature | kernel | removed / 16 px | replaced | µs an image | after | of inference | of training |",
            "|---" * 8 + "|",
        ]
        for feature in features(machine):
            gains = dict.fromkeys(calls, 0.0)
            for case in cases:
                if not re.search(feature.kernels, case.name):
                    continue
                model = Model(case, machine, shared[case.name, arithmetic])
                removed, changed = apply(model, feature.edit)
                after = model.predict().us
                gain = {call: (before[case.name] - after) * names.get(case.name, 0) for call, names in calls.items()}
                gains = {call: gains[call] + gain[call] for call in calls}
                parts = " | ".join(f"{gain[call] / sums[call]:.1%}" for call in calls)
                lines.append(
                    f"| {feature.name} | {case.name} | {removed:.0f} | {changed:.0f} | {before[case.name] / batch:.2f} "
                    f"| {after / batch:.2f} | {parts} |"
                )
            parts = " | ".join(f"**{gains[call] / sums[call]:.1%}**" for call in calls)
            verdict = "above" if max(gains[call] / sums[call] for call in calls) > 0.15 else "below"
            lines.append(f"| **{feature.name}** | {verdict} 15 %; assumes: {feature.assumption} | | | | | {parts} |")
    return "\n".join(lines)


def by_loop(arithmetic: str, kernel: str | None) -> str:
    """Instructions for 16 pixels of each kernel, by class and by the line that closes their loop."""
    lines = []
    for case in tensor_kernels.cases([arithmetic]):
        if kernel is None or kernel in case.name:
            row = tensor.measure(case, "90")
            classes = ", ".join(f"{name} {row.per_sixteen(row.issued.get(name, 0.0)):.1f}" for name in tensor.CLASSES)
            lines.append(f"{case.name}: {row.per_sixteen(sum(row.issued.values())):.1f} for 16 pixels: {classes}")
            for name, count in sorted(row.by_loop.items(), key=lambda pair: -pair[1]):
                lines.append(f"    {row.per_sixteen(count):8.2f}  {name[:100]}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--batch", type=int, default=64, help="images (default 64)")
    parser.add_argument("--arithmetic", choices=ARITHMETICS, default="bfloat16")
    parser.add_argument("--kernel", help="only kernels whose name contains this")
    parser.add_argument("--machine", choices=MACHINES, action="append", help="only this one (repeatable)")
    parser.add_argument("--verbose", action="store_true", help="print the instructions of every loop instead")
    parser.add_argument("--hopper", action="store_true", help="what wgmma, TMA and clusters could gain (bfloat16)")
    arguments = parser.parse_args()
    machines = arguments.machine or list(MACHINES)
    try:
        if arguments.verbose:
            print(by_loop(arguments.arithmetic, arguments.kernel))
            return
        if arguments.hopper:
            print(hopper(MACHINES[machines[0]], "bfloat16", arguments.batch))
            return
        result = predict(machines, arguments.arithmetic, arguments.batch, arguments.kernel)
    except FileNotFoundError as missing:
        raise SystemExit(f"benchmarks.floor.model: {missing}") from missing
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    for name, prediction in result.items():
        print(f"{MACHINES[name].name}, batch {arguments.batch}, {arguments.arithmetic}; µs an image\n")
        print(table(prediction) + "\n")


if __name__ == "__main__":
    main()
