"""A multiprocessor issuing the instructions of its warps: scoreboards, pipes, barriers, memory.

The compiler writes into each instruction how long it stalls its warp, and through which of six scoreboards a later
one waits for it. Latencies that vary (loads, special functions) are behind scoreboards, fixed ones (of a product of
matrices too) are stalls, so that the simulation needs no registers. In order within a warp; a scheduler issues one
instruction a clock, of its warp that can issue first (ties: the one that waited longest).

Not modelled: instruction fetch, register banks, the replay of uncoalesced accesses beyond their wavefronts.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.floor.machine import Machine

NEVER = float("inf")
SCOREBOARDS = 6
# Stall reasons, as Nsight Compute names them: long scoreboard, short scoreboard, ...
REASONS = ("issued", "fixed", "global", "shared", "barrier", "tensor", "pipe", "queue", "not selected")


@dataclass(frozen=True, eq=False)
class Op:
    """An instruction with what a warp's execution of it takes."""

    stall: int = 1  # clocks until the warp's next instruction
    wait: tuple[int, ...] = ()  # scoreboards that must be free
    write: int | None = None  # scoreboard held until the result is there
    read: int | None = None  # and until the operands have been read
    pipe: int = 0  # of its scheduler: 0 none, 1 float, 2 integer, 3 special, 4 tensor, 5 memory
    busy: float = 0.0  # clocks that the pipe takes no other instruction
    latency: int = 0  # until the result is there, without waiting
    reason: str = "shared"  # of a wait for it
    wavefronts: float = 0.0  # of shared memory or L1
    l2: float = 0.0  # bytes from the L2
    dram: float = 0.0  # bytes of the DRAM
    load: bool = False  # from the L2 or DRAM
    kind: str = ""  # "barrier"; "copy" (asynchronous), "commit" (of such), "await" (until at most `pending` are left)
    pending: int = 0


@dataclass
class Run:
    """What a multiprocessor did."""

    clocks: float = 0.0
    issued: int = 0
    stalls: Counter[str] = field(default_factory=Counter)  # clocks of all warps by REASONS
    round_trips: int = 0  # waits for loads that were issued after the wait before, of all warps
    most_in_flight: int = 0  # loads of a warp
    load_clocks: float = 0.0  # of loads in flight, summed
    warp_clocks: float = 0.0  # of all warps, from start to end


class _Warp:
    __slots__ = (
        *("path", "at", "ready", "last", "block", "boards", "reasons", "since", "loads", "trip"),
        *("copies", "groups", "arrived"),
    )

    def __init__(self, path: Sequence[Op], now: float, block: _Block) -> None:
        self.path, self.at, self.ready, self.last = path, 0, now, now
        self.boards = [0.0] * SCOREBOARDS
        self.reasons = ["shared"] * SCOREBOARDS
        self.since = [0.0] * SCOREBOARDS  # when what holds it was issued
        self.block = block
        self.loads: deque[float] = deque()
        self.trip = 0.0  # when the last wait for the L2 or DRAM ended
        self.copies = 0.0  # when the asynchronous copies since the last commit are there
        self.groups: list[deque[float]] = [deque() for _ in range(SCOREBOARDS)]
        self.arrived: float | None = None  # at a barrier


class _Block:
    __slots__ = ("left", "waiting")

    def __init__(self) -> None:
        self.waiting: list[tuple[_Warp, int]] = []  # at the barrier, each with its scheduler
        self.left = 0  # warps that still run


def simulate(machine: Machine, blocks: Sequence[Sequence[Sequence[Op]]], resident: int) -> Run:
    """Run the blocks of one multiprocessor, `resident` at a time.

    Args:
        blocks: for each block, for each warp, its instructions in the order of issue.
    """
    run = Run()
    stalls = run.stalls
    schedulers = machine.schedulers
    warps: list[list[_Warp]] = [[] for _ in range(schedulers)]
    free = [0.0] * schedulers  # when a scheduler can issue again
    pipes = [[0.0] * 6 for _ in range(schedulers)]
    wake = [NEVER] * schedulers
    events: list[tuple[float, int]] = []
    shared_free = port_free = dram_free = 0.0
    dram_rate, port_rate = machine.dram_bytes_per_clock, machine.l2_bytes_per_clock
    queue, ahead = machine.queue_wavefronts / machine.wavefronts_per_clock, machine.dram_ahead_clocks
    waiting = deque(blocks)
    started = 0

    def schedule(s: int, when: float) -> None:
        if when < wake[s]:
            wake[s] = when
            heapq.heappush(events, (when, s))

    def start(now: float) -> None:
        nonlocal started
        block = _Block()
        for path in waiting.popleft():
            if path:
                s = started % schedulers
                started += 1
                warp = _Warp(path, now, block)
                warps[s].append(warp)
                block.left += 1
                run.warp_clocks -= now
                schedule(s, max(now, free[s]))

    def release(block: _Block, now: float) -> None:
        """Let the warps at the barrier go on if all that still run are there."""
        if block.waiting and len(block.waiting) == block.left:
            for warp, s in block.waiting:
                warp.ready = now + machine.barrier_clocks
                schedule(s, max(warp.ready, free[s]))
            block.waiting.clear()

    for _ in range(min(resident, len(blocks))):
        start(0.0)
    while events:
        now, s = heapq.heappop(events)
        if now != wake[s]:
            continue
        wake[s] = NEVER
        own, pipe_free = warps[s], pipes[s]
        # The warp that can issue first.
        best, best_at, second = None, NEVER, NEVER
        for warp in own:
            op = warp.path[warp.at]
            at = warp.ready
            for board in op.wait:
                if warp.boards[board] > at:
                    at = warp.boards[board]
            if op.pipe:
                if pipe_free[op.pipe] > at:
                    at = pipe_free[op.pipe]
                if op.wavefronts and shared_free - queue > at:
                    at = shared_free - queue
            if op.kind == "await":
                group = warp.groups[op.wait[0]] if op.wait else ()
                if len(group) > op.pending and group[len(group) - op.pending - 1] > at:
                    at = group[len(group) - op.pending - 1]
            if at < now:
                at = now
            if at < best_at or (at == best_at and best is not None and warp.last < best.last):
                second = best_at
                best, best_at = warp, at
            elif at < second:
                second = at
        if best is None or best_at == NEVER:
            continue
        if best_at > now:
            schedule(s, best_at)
            continue
        warp, op = best, best.path[best.at]

        # Where its clocks went since its last instruction.
        at, since = warp.ready, warp.last
        stalls["issued"] += 1
        if warp.arrived is not None:
            stalls["barrier"] += at - warp.arrived
            since, warp.arrived = at - 1, None
        if at - since > 1:
            stalls["fixed"] += at - since - 1
        reason, until, asked = "", at, 0.0
        for board in op.wait:
            if warp.boards[board] > until:
                until, reason, asked = warp.boards[board], warp.reasons[board], warp.since[board]
        if op.kind == "await" and op.wait:
            group = warp.groups[op.wait[0]]
            while len(group) > op.pending:
                end = group.popleft()
                if end > until:
                    until, reason, asked = end, "global", warp.trip
        if until > at:
            stalls[reason] += until - at
            at = until
            if reason == "global":
                run.round_trips += asked >= warp.trip
                warp.trip = until
        if op.pipe:
            if pipe_free[op.pipe] > at:
                stalls["tensor" if op.pipe == 4 else "pipe"] += min(pipe_free[op.pipe], now) - at
                at = min(pipe_free[op.pipe], now)
            if op.wavefronts and shared_free - queue > at:
                stalls["queue"] += min(shared_free - queue, now) - at
                at = min(shared_free - queue, now)
            pipe_free[op.pipe] = max(pipe_free[op.pipe], now) + op.busy
        if now > at:
            stalls["not selected"] += now - at

        # Its effects.
        free[s] = now + 1
        run.issued += 1
        warp.last, warp.ready = now, now + op.stall
        done = now + op.latency
        if op.wavefronts:
            begin = max(now, shared_free)
            shared_free = begin + op.wavefronts / machine.wavefronts_per_clock
            done = shared_free - 1 + op.latency
            if op.l2 and op.load:
                port_free = max(port_free, begin) + op.l2 / port_rate
                done = max(done, port_free + op.latency)
            if op.dram:
                dram_free = max(dram_free, begin) + op.dram / dram_rate
                done = max(done, dram_free - ahead + op.latency)
            if op.load:
                loads = warp.loads
                while loads and loads[0] <= now:
                    loads.popleft()
                loads.append(done)
                run.most_in_flight = max(run.most_in_flight, len(loads))
                run.load_clocks += done - now
            if op.read is not None:
                end = shared_free + machine.operands_clocks
                if end > warp.boards[op.read]:
                    warp.boards[op.read], warp.reasons[op.read] = end, "shared"
        elif op.read is not None and now + machine.operands_clocks > warp.boards[op.read]:
            warp.boards[op.read], warp.reasons[op.read] = now + machine.operands_clocks, "shared"
        if op.kind == "copy":
            warp.copies = max(warp.copies, done)
        elif op.kind == "commit":
            if op.write is not None:
                group = warp.groups[op.write]
                group.append(max(warp.copies, group[-1] if group else 0.0))
        elif op.write is not None and done > warp.boards[op.write]:
            warp.boards[op.write], warp.reasons[op.write], warp.since[op.write] = done, op.reason, now

        warp.at += 1
        block = warp.block
        if op.kind == "barrier" and warp.at < len(warp.path):
            warp.arrived, warp.ready = now, NEVER
            block.waiting.append((warp, s))
            release(block, now)
        if warp.at == len(warp.path):
            run.warp_clocks += now + op.stall
            run.clocks = max(run.clocks, now + op.stall)
            own.remove(warp)
            block.left -= 1
            release(block, now)
            if block.left == 0 and waiting:
                start(now + op.stall)
        # Before the second best's time and this warp's, no other of the scheduler can issue: only a barrier's release
        # or a new block could change that, and they wake it.
        earliest = second if warp.at == len(warp.path) else min(second, warp.ready)
        if earliest < NEVER:
            schedule(s, max(now + 1, earliest))
    run.clocks = max(run.clocks, dram_free - ahead)
    return run
