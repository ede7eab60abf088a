"""What Hopper's own instructions could gain, by the model: wgmma, TMA, clusters.

    python -m benchmarks.floor.model --hopper

Each feature is an edit of a kernel's instructions: some are removed, others replaced, and model.py simulates the rest.
What the feature adds beyond that (fences, descriptors, waits, the zeros of a border) is left out, so that each gain is
an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from benchmarks.floor import tensor
from benchmarks.floor.machine import Machine
from benchmarks.floor.model import Model
from benchmarks.floor.program import Program
from benchmarks.floor.simulation import Op

Edit = Callable[[Program, int, Op], Op | None]  # of an instruction, by its index


def _frames(program: Program, i: int) -> list[str]:
    return tensor.describe(program.kernel.instructions[i].chain)


def _wgmma(from_registers: bool) -> Edit:
    """The stem's 7×7: m64n16k16 of four warps for their eight m16n8k16.

    B (512 bytes) and, unless it is in registers, A (2 KiB) come from shared memory: a quarter of their wavefronts a
    warp. A from shared memory is read for every output row; registers serve three rows, as now.
    """

    def edit(program: Program, i: int, op: Op) -> Op | None:
        if not any(re.search(r"^compute:.*(taps\[|multiply\(a, w0)", frame) for frame in _frames(program, i)):
            return op
        name = program.kernel.instructions[i].opcode.split(".")[0]
        if name == "HMMA":
            # Every second one is part of the first: both tiles of columns. At the full rate, twice 4 clocks.
            before = sum(
                item.opcode.startswith("HMMA") and item.block == program.kernel.instructions[i].block
                for item in program.kernel.instructions[:i]
            )
            waves = 1.0 if from_registers else 5.0
            return replace(op, busy=8.0, wavefronts=waves, stall=2) if before % 2 == 0 else None
        gone = name == "LDS" or (name == "LDSM" and not from_registers)
        return None if gone else op

    return edit


_LOADERS = r"^load:"
_KEPT = r"^(decode|element|fused_multiply_add|pack\w*|encode|convert\w*|store):"


def _tiles(pattern: str, machine: Machine, counted: bool) -> Edit:
    """Rows or tiles that are there in time: loads read shared memory. With `counted`, the TMA counts addresses."""

    def edit(program: Program, i: int, op: Op) -> Op | None:
        frames = _frames(program, i)
        if not any(re.search(pattern, frame) for frame in frames):
            return op
        item = program.kernel.instructions[i]
        if item.opcode.startswith("LDG"):
            return replace(op, l2=0.0, load=False, latency=machine.shared_clocks, reason="shared")
        kept = any(re.search(_KEPT, frame) for frame in frames)
        counting = tensor.class_of(item.opcode) in ("integer", "move") or re.match(r"B[RS]|U?LDC", item.opcode)
        return None if counted and counting and not kept else op

    return edit


def _cluster(program: Program, i: int, op: Op) -> Op | None:
    """Halos from neighbours' shared memory: the L2 serves only what the DRAM does."""
    return replace(op, l2=min(op.l2, op.dram)) if op.dram and op.load else op


@dataclass(frozen=True)
class Feature:
    name: str
    kernels: str  # of those whose name matches
    edit: Edit
    assumption: str


def features(machine: Machine) -> list[Feature]:
    return [
        Feature(
            "wgmma, A from shared memory",
            "^stem with|^stem_backward weights",
            _wgmma(False),
            "peak rate at N = 16; the ring as core matrices; 2 KiB of A a product",
        ),
        Feature(
            "wgmma, A from registers",
            "^stem with|^stem_backward weights",
            _wgmma(True),
            "peak rate at N = 16; no fences",
        ),
        Feature(
            "TMA, image rows",
            "^stem with|^stem_backward weights",
            _tiles(r"^request_as:|^request:.*request_as", machine, True),
            "channels last; rows arrive in time; a pixel is put together from shared memory",
        ),
        Feature(
            "prefetched tiles, without TMA",
            "^trunk|^conv|^head",
            _tiles(_LOADERS, machine, False),
            "as cp.async gives on every GPU: tiles arrive in time; a buffer for them fits",
        ),
        Feature(
            "TMA, tiles",
            "^trunk|^conv|^head",
            _tiles(_LOADERS, machine, True),
            "the same; zeros at the border cost nothing",
        ),
        Feature(
            "clusters", "^trunk|^conv|^head", _cluster, "the other block's tile is there; no barrier of the cluster"
        ),
    ]


def apply(model: Model, edit: Edit) -> tuple[float, float]:
    """Edit a model's instructions.

    Returns:
        Instructions removed and replaced, for 16 pixels.

    Raises:
        LookupError: if there are none of either.
    """
    program = model.program
    removed = changed = 0.0
    for i, (far, near, share) in list(model.operations.items()):
        new = edit(program, i, far)
        if new is None:
            removed += program.times[i]
            del model.operations[i]
        elif new is not far:
            changed += program.times[i]
            other = edit(program, i, near)
            model.operations[i] = (new, near if other is None else other, share)
    if not changed:
        raise LookupError(f"{model.case.name}: nothing to replace")
    scale = model.case.warps * 16 / model.case.pixels
    return removed * scale, changed * scale
