"""The instructions of a kernel's warps in the order of issue, made from the counted loops of its disassembly."""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from benchmarks.floor import tensor
from benchmarks.floor.disassembly import Instruction, Kernel, Loop, loops, reachable, successors
from benchmarks.floor.machine import Machine
from benchmarks.floor.simulation import Op
from benchmarks.floor.tensor_kernels import MEMORY, Case, Memory

_FLOAT = r"F(ADD|MUL|FMA)|H(ADD|MUL|FMA)2"
_SPECIAL = r"MUFU|I2F\b|F2I\b|F2F\b|FRND|POPC|FLO|I2I"
_CONSTANT = r"LDC|S2R|S2UR|R2UR|CS2R|B2R"
_CONTROL = r"BR|JMP|EXIT|RET|CALL|BSSY|BSYNC|WARPSYNC|NOP|YIELD|MEMBAR|ERRBAR|CCTL"


def access_bytes(opcode: str) -> int:
    """Bytes of a lane's access."""
    sizes = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return next((sizes[part] for part in opcode.split(".") if part in sizes), 4)


def is_global(opcode: str) -> bool:
    return re.match(r"LDG(STS)?\b|STG|LD\b|ST\b|RED|ATOM\b|ATOMG", opcode) is not None


def memory_of(case: Case, item: Instruction) -> Memory:
    """Where a global access is served.

    Raises:
        LookupError: if neither the case's table nor MEMORY has it.
    """
    frames = tensor.describe(item.chain)
    for rule in (*case.memory, *MEMORY):
        if re.match(rule.opcode, item.opcode) and any(re.search(rule.pattern, frame) for frame in frames):
            return rule
    raise LookupError(f"{case.name}: no memory for {item.opcode} at {frames}")


def operation(case: Case, item: Instruction, machine: Machine, where: str = "", dram: float = 0.0) -> Op:
    """What an instruction takes; `dram` is the bytes that an access of the DRAM brings, of those it asks for."""
    control = item.control
    fields: dict[str, Any] = {
        "stall": max(control & 15, 1),
        "wait": tuple(board for board in range(6) if control >> 11 + board & 1),
        "write": None if control >> 5 & 7 == 7 else control >> 5 & 7,
        "read": None if control >> 8 & 7 == 7 else control >> 8 & 7,
    }
    name = item.opcode.split(".")[0]
    if is_global(item.opcode):
        size = 32 * access_bytes(item.opcode)
        latency = {"dram": machine.dram_clocks, "l2": machine.l2_clocks, "l1": machine.l1_clocks}[where]
        fields |= {
            "pipe": 5,
            "busy": machine.memory_rate_clocks,
            "wavefronts": max(size / 128, 1.0),
            "latency": latency,
        }
        if where != "l1":
            fields |= {"l2": size, "dram": size * dram if where == "dram" else 0.0, "reason": "global"}
        fields["load"] = where != "l1" and name in ("LDG", "LD", "LDGSTS")
        if name == "LDGSTS":
            fields["kind"] = "copy"
    elif name == "LDGDEPBAR":
        fields["kind"] = "commit"
    elif name == "DEPBAR":
        if found := re.search(r"SB(\d),\s*(0x[0-9a-f]+)", item.operands):
            board = int(found[1])  # first, for "await"
            fields["wait"] = (board, *(other for other in fields["wait"] if other != board))
            fields |= {"kind": "await", "pending": int(found[2], 16)}
    elif name == "BAR":
        fields["kind"] = "barrier" if "ARV" not in item.opcode else ""
    elif waves := tensor.wavefronts(item.opcode):
        waves *= tensor.conflict(case, item)
        fields |= {"pipe": 5, "busy": machine.memory_rate_clocks, "wavefronts": waves, "latency": machine.shared_clocks}
    elif "MMA" in name:
        fields |= {"pipe": 4, "busy": machine.schedulers / machine.mma_per_clock}
    elif re.match(_SPECIAL, item.opcode):
        fields |= {"pipe": 3, "busy": machine.special_rate_clocks, "latency": machine.special_clocks}
    elif re.match(_CONSTANT, item.opcode):
        fields |= {"latency": machine.constant_clocks}
    elif re.match(r"IMAD|IDP", item.opcode):
        fields |= {"pipe": 1, "busy": machine.half_rate_clocks}
    elif not re.match(rf"{_FLOAT}|{_CONTROL}|U[A-Z]", item.opcode):
        fields |= {"pipe": 2, "busy": machine.half_rate_clocks}
    return Op(**fields)


@dataclass(frozen=True)
class Nested:
    loop: Loop
    order: list[Any]
    share: float  # of the visits of what is around it
    barrier: bool


class Program:
    """The instructions of a kernel's warps, in the order of issue."""

    def __init__(self, case: Case, kernel: Kernel) -> None:
        self.case, self.kernel = case, kernel
        self.live, self.loops = reachable(kernel), loops(kernel)
        self.trips = tensor.trips_of(case, kernel, self.loops)
        self.edges = successors(kernel)
        self.shares = [tensor.share(case, item) for item in kernel.instructions]
        self.by_block: dict[int, list[int]] = {}
        for i, item in enumerate(kernel.instructions):
            if item.block in self.live:
                self.by_block.setdefault(item.block, []).append(i)
        self.barriers = {b for b, own in self.by_block.items() if any(self._is_barrier(i) for i in own)}
        self.memory = {
            i: memory_of(case, kernel.instructions[i])
            for own in self.by_block.values()
            for i in own
            if self.shares[i] and is_global(kernel.instructions[i].opcode)
        }
        self.times = self.executions(self.trips)
        self.first_touch = 1.0
        self.first_touch = case.bytes / (self.dram_bytes(self.times) * case.warps)
        self.order = self._order(self.live, None, min(self.live))
        self.outer = [loop for loop in self.order if isinstance(loop, Nested)]

    def executions(self, trips: dict[int, float]) -> dict[int, float]:
        """Of each instruction, by an average warp."""
        result = {}
        for block, own in self.by_block.items():
            each = math.prod(trips[loop.header] for loop in self.loops if block in loop.blocks)
            result |= {i: each * self.shares[i] for i in own}
        return result

    def dram_bytes(self, executions: dict[int, float]) -> float:
        """Bytes that an average warp gets from the DRAM, or brings there."""
        return self.first_touch * sum(
            executions[i] * 32 * access_bytes(self.kernel.instructions[i].opcode) * rule.share * rule.sectors
            for i, rule in self.memory.items()
            if rule.where == "dram"
        )

    def _is_barrier(self, i: int) -> bool:
        return self.kernel.instructions[i].opcode.startswith("BAR") and self.shares[i] > 0

    def _order(self, blocks: set[int], own: Loop | None, header: int) -> list[int | Nested]:
        """Blocks of a region in the order of its flow, loops inside as one."""
        inside = [loop for loop in self.loops if loop.blocks < blocks or (own is None and loop.blocks <= blocks)]
        inside = [loop for loop in inside if loop is not own]
        children = [loop for loop in inside if not any(loop.blocks < other.blocks for other in inside)]
        node = {block: block for block in blocks}
        for child in children:
            node |= dict.fromkeys(child.blocks, child.header)
        after: dict[int, set[int]] = {n: set() for n in node.values()}
        before = Counter[int]()
        for block in blocks:
            for target in self.edges[block]:
                if target in blocks and target != header and node[target] not in (node[block], *after[node[block]]):
                    after[node[block]].add(node[target])
                    before[node[target]] += 1
        ready = [n for n in after if not before[n]]
        heapq.heapify(ready)
        by_header = {child.header: child for child in children}
        result: list[int | Nested] = []
        while ready:
            n = heapq.heappop(ready)
            if n in by_header:
                child = by_header[n]
                share = max((self.shares[i] for b in child.blocks for i in self.by_block.get(b, [])), default=0.0)
                order = self._order(child.blocks, child, child.header)
                result.append(Nested(child, order, share, bool(child.blocks & self.barriers)))
            else:
                result.append(n)
            for target in after[n]:
                before[target] -= 1
                if not before[target]:
                    heapq.heappush(ready, target)
        return result

    def operations(self, machine: Machine) -> dict[int, tuple[Op, Op, float]]:
        """Of each instruction: the DRAM's or L2's operation, the L1's, and the share of the first."""
        result = {}
        for i, count in self.times.items():
            if not count:
                continue
            item, rule = self.kernel.instructions[i], self.memory.get(i)
            if rule is None:
                op = operation(self.case, item, machine)
                result[i] = (op, op, 1.0)
                continue
            far = operation(self.case, item, machine, rule.where, self.first_touch * rule.sectors)
            result[i] = (far, operation(self.case, item, machine, rule.rest), rule.share)
        return result

    def path(self, operations: dict[int, tuple[Op, Op, float]], trips: dict[int, float], phase: float) -> list[Op]:
        """A warp's instructions; `phase` in [0, 1) shifts what warps need not do together."""
        out: list[Op] = []
        visits: Counter[Any] = Counter()

        def take(key: Any, share: float, shift: float) -> int:
            n = visits[key]
            visits[key] = n + 1
            return math.floor((n + 1) * share + shift + 1e-9) - math.floor(n * share + shift + 1e-9)

        def emit(order: list[int | Nested], within: float, owner: int) -> None:
            chosen: dict[float, int] = {}
            for node in order:
                if isinstance(node, Nested):
                    if not node.share:
                        continue
                    shift = 0.0 if node.barrier else phase
                    if node.share < within and not take(("loop", node.loop.header), node.share / within, shift):
                        continue
                    for _ in range(take(("trips", node.loop.header), trips[node.loop.header], shift)):
                        emit(node.order, node.share, node.loop.header)
                    continue
                for i in self.by_block.get(node, ()):
                    share = self.shares[i] / within
                    if not share:
                        continue
                    if share < 1 - 1e-9:
                        # Up to a half: a branch of every second visit or fewer. More: most of its instructions.
                        if share > 0.5:
                            if not take((owner, share), share, phase):
                                continue
                        else:
                            if share not in chosen:
                                chosen[share] = take((owner, share), share, 0.0)
                            if not chosen[share]:
                                continue
                    if i not in operations:  # hopper.py removed it
                        continue
                    far, near, part = operations[i]
                    out.append(far if part == 1 or take(("far", i), part, phase) else near)

        emit(self.order, 1.0, -1)
        return out
