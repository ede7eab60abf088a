"""Instructions, matrix products and bytes of the tensor kernels, counted in their disassembly.

model.py predicts times from them; batch 64, 448→224, bilinear with antialias, 16 filters, 3 channels.

1. A kernel is compiled, disassembled, and its loops are found in the flow graph. The branch that closes a loop carries
   the line of its ``for``; the tables of tensor_kernels.py say how often each runs for an average warp. A loop
   without a matching line in the table is an error.
2. An instruction runs as often as the loops around it say. Both sides of a branch count as issued, except where the
   table gives a share (the dtype of the image, the fold and gather forms). Code reached only by a call (slow paths of
   divisions) does not count.
3. Bounds without latency: issue, warp instructions at 4 per clock and SM; tensor, matrix products at the rate of
   mma.sync; shared, wavefronts at 1 per clock and SM, bank conflicts where the table names them; DRAM, each map of the
   kernel once at the bandwidth of a copy.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache

from benchmarks.floor.disassembly import (
    CORE,
    Instruction,
    Kernel,
    Loop,
    Source,
    disassemble,
    loops,
    reachable,
)
from benchmarks.floor.machine import H100, Machine
from benchmarks.floor.tensor_kernels import Case

CLASSES = ("tensor", "float", "integer", "move", "shared", "global", "other")
_INTEGER = r"IMAD|IADD|LEA|LOP|SHF|ISETP|VIADD|PRMT|PLOP|IABS|IMNMX|SEL|U[A-Z0-9]+|R2U|I2F|F2I|SGXT|BREV|POPC|FLO|LEPC"


def class_of(opcode: str) -> str:
    """Class of an instruction, one of CLASSES. Shuffles use the shared-memory pipe."""
    for pattern, name in (
        (r"HMMA", "tensor"),
        (r"LDS|STS|SHFL|LDSM|MOVM", "shared"),
        (r"LDG|STG|LDC|ULDC|ATOM|RED\b", "global"),
        (r"MOV|IMAD\.MOV|CS2R|UMOV|R2UR|S2R|S2UR", "move"),
        (r"F[A-Z]|HADD|HFMA|HMUL|MUFU", "float"),
        (_INTEGER, "integer"),
    ):
        if re.match(pattern, opcode):
            return name
    return "other"


def wavefronts(opcode: str) -> float:
    """Wavefronts, of 128 bytes each, of a warp's access without bank conflicts."""
    parts = opcode.split(".")
    if parts[0] == "LDSM":
        return {"4": 4.0, "2": 2.0}.get(parts[-1], 1.0)
    if parts[0] in ("LDS", "STS"):
        return 4.0 if "128" in parts else 2.0 if "64" in parts else 1.0
    return 1.0 if parts[0] == "SHFL" else 0.0


@cache
def _disassembled(source: str, arch: str) -> dict[str, Kernel]:
    return disassemble(source, arch)


@cache
def _source() -> Source:
    return Source(path.name for path in CORE.glob("*/*.cuh"))


def describe(chain: tuple[tuple[str, int], ...]) -> list[str]:
    """The frames of an instruction as ``function:line``, innermost first."""
    source = _source()
    return [f"{source.owner.get(frame, '')}:{source.line(frame).strip()}" for frame in chain]


@dataclass
class Row:
    """Instructions and bytes of one call of one kernel."""

    case: Case
    issued: dict[str, float]  # warp instructions by class
    mma: float
    shared: float  # wavefronts
    by_loop: dict[str, float]

    def microseconds(self, machine: Machine = H100) -> dict[str, float]:
        clocks = machine.multiprocessors * machine.clock_hz / 1e6
        return {
            "issue": sum(self.issued.values()) / machine.issue_per_clock / clocks,
            "tensor": self.mma / machine.mma_per_clock / clocks,
            "shared": self.shared / machine.wavefronts_per_clock / clocks,
            "DRAM": self.case.bytes / (machine.dram_bytes_per_s * machine.dram_share) * 1e6,
        }

    def per_sixteen(self, count: float) -> float:
        """A count per 16 pixels of the kernel's larger map."""
        return count * 16 / self.case.pixels


def trips(case: Case, loop: Loop, every: list[Loop], sizes: dict[int, int]) -> float:
    """Trips of a loop each time it is entered."""
    texts = {describe(branch.chain)[0] for branch in loop.back if branch.chain}
    for rule in case.loops:
        if any(re.search(rule.pattern, text) for text in texts):
            if not rule.unrolled:
                return rule.trips
            # The compiler made two loops of it: four at a time, and the rest.
            same = [other for other in every if {describe(b.chain)[0] for b in other.back if b.chain} == texts]
            largest = max(same, key=lambda other: sizes[other.header])
            if len(same) == 1:
                return rule.trips
            return rule.trips // 4 if loop is largest else rule.trips % 4
    raise LookupError(f"{case.name}: no trip count for the loop at {sorted(texts)}")


def kernel_of(case: Case, arch: str) -> Kernel:
    """The compiled kernel.

    Raises:
        LookupError: if there is not exactly one.
    """
    matching = [k for name, k in _disassembled(case.source, arch).items() if re.search(case.mangled, name)]
    if len(matching) != 1:
        raise LookupError(f"{case.name}: {len(matching)} kernels match {case.mangled}")
    return matching[0]


def trips_of(case: Case, kernel: Kernel, found: list[Loop]) -> dict[int, float]:
    """Trips of each loop, by header."""
    sizes: dict[int, int] = {}
    for loop in found:
        inside = set().union(*(other.blocks for other in found if other.blocks < loop.blocks))
        sizes[loop.header] = sum(item.block in loop.blocks and item.block not in inside for item in kernel.instructions)
    return {loop.header: trips(case, loop, found, sizes) for loop in found}


def measure(case: Case, arch: str) -> Row:
    """Count the instructions of one call.

    Raises:
        LookupError: for a kernel or a loop that the table does not know.
    """
    kernel = kernel_of(case, arch)
    live, found = reachable(kernel), loops(kernel)
    each = trips_of(case, kernel, found)
    times: dict[int, float] = {}
    names: dict[int, str] = {}
    for block in live:
        around = [loop for loop in found if block in loop.blocks]
        times[block] = case.warps
        for loop in around:
            times[block] *= each[loop.header]
        names[block] = describe(around[0].back[0].chain)[0] if around else "outside"
    issued: Counter[str] = Counter()
    by_loop: Counter[str] = Counter()
    mma = shared = 0.0
    for item in kernel.instructions:
        if item.block not in live:
            continue
        count = times[item.block] * share(case, item)
        issued[class_of(item.opcode)] += count
        by_loop[names[item.block]] += count
        mma += count * item.opcode.startswith("HMMA")
        shared += count * wavefronts(item.opcode) * conflict(case, item)
    return Row(case, dict(issued), mma, shared, dict(by_loop))


def share(case: Case, item: Instruction) -> float:
    """Share of its loop's executions in which the instruction's branch is taken."""
    result = 1.0
    frames = describe(item.chain)
    for rule in case.shares:
        if all(any(re.search(pattern, frame) for frame in frames) for pattern in (rule.pattern, rule.within)):
            result *= rule.trips
    return result


def conflict(case: Case, item: Instruction) -> float:
    """Ratio of an access's wavefronts to those without bank conflicts."""
    frames = describe(item.chain)
    for opcode, rule in case.conflicts:
        if re.match(opcode, item.opcode) and any(re.search(rule.pattern, frame) for frame in frames):
            return rule.trips
    return 1.0
