"""Timing with a cold L2: before each call a buffer larger than the cache is written.

On a GPU a call is timed between two events. A pause of the device before the first one lets the host run ahead, so that
launch time counts only if it exceeds the pause.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch

from benchmarks import memory
from benchmarks.cases import Case
from benchmarks.race import Entry, Record, Skipped, difference_from

# Clocks of the device between the flush and the first event: about 1 ms.
_PAUSE = 2_000_000


class Clock:
    """Times single calls on a device.

    Args:
        device: torch device.
        flush_bytes: size of the buffer; None: four times the L2.
    """

    def __init__(self, device: torch.device, flush_bytes: int | None = None) -> None:
        self.device = device
        if flush_bytes is None:
            l2 = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 4 << 20
            flush_bytes = 4 * l2
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device=device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Seconds of one call with a cold cache."""
        self._flush.fill_(1)
        if self.device.type != "cuda":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_PAUSE)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def many(self, run: Callable[[], Any], rounds: int, warm: int = 2) -> list[float]:
        """Seconds of `rounds` calls, after `warm` untimed ones."""
        for _ in range(warm):
            run()
        return [self.seconds(run) for _ in range(rounds)]


def race(
    clock: Clock,
    case: Case,
    ours: Entry,
    peers: Sequence[Entry | Skipped],
    *,
    rounds: int,
    deadline: float,
    constants: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Compare every peer's result with ours, then time all of them in alternation.

    Args:
        clock: times the calls.
        case: case under test.
        ours, peers: the contestants.
        rounds: calls of each; fewer, at least 3, if the deadline passes first.
        deadline: as `time.monotonic` counts.
        constants: seconds, by name, of computed floors that are not measured.

    Returns:
        The record, as `benchmarks.report.rows_of` reads it, with "unequal": peers that differ by more than their bound.
        They are timed all the same and reported: time on a GPU is scarce.
    """
    entries = [peer for peer in peers if isinstance(peer, Entry)]
    record = Record(case, skipped={peer.name: peer.reason for peer in peers if isinstance(peer, Skipped)})
    mine = ours.outputs(ours.run())
    unequal = []
    for peer in entries:
        difference = difference_from(mine, peer)
        # JSON has no NaN or infinity.
        record.difference[peer.name] = difference if math.isfinite(difference) else 1e30
        record.bound[peer.name] = peer.bound if math.isfinite(peer.bound) else 0.0
        if not difference <= peer.bound:
            unequal.append(f"{peer.name}: differs from ours by {difference:.3g}, more than {peer.bound:.3g}")
    del mine
    contestants = [*entries, ours]
    record.seconds = {entry.name: [] for entry in contestants}
    gc.collect()
    for done in range(rounds):
        if done >= 3 and time.monotonic() > deadline:
            break
        for entry in contestants:
            record.seconds[entry.name].append(clock.seconds(entry.run))
    count = len(record.seconds[ours.name])
    record.seconds.update({name: [seconds] * count for name, seconds in (constants or {}).items()})
    for name in constants or {}:
        record.difference[name] = record.bound[name] = 0.0
    return {**asdict(record), "device": clock.device.type, "unequal": unequal}


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int | None:
    """Peak memory of a call above the memory allocated before it; None where it cannot be measured."""
    if not memory.available(device):
        return None
    run()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    memory.CLEAR_REFS.write_text("5")
    resident = memory.status("VmRSS")
    run()
    return max(memory.status("VmHWM") - resident, 4096)
