"""Alternating timing of an operation and its peers, after checking that they agree.

One benchmark is one case (operation, direction, filter, dtype, layout, size). Every round runs each peer
once and then ours, so that a ratio compares runs that are milliseconds apart and drifts of the machine
cancel. The times of all rounds go into the benchmark's `extra_info`, from which `benchmarks.report` makes
tables.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import Case

# The `extra_info` of every race in this process, for the summary on the terminal.
RECORDS: list[dict[str, Any]] = []


@dataclass(frozen=True)
class Entry:
    """One contestant.

    Attributes:
        name: library and function.
        run: does the work once; its result is passed to `outputs`.
        outputs: converts the result to tensors, in the same order for all contestants; not timed.
        bound: largest difference from ours that rounding explains, relative to the largest magnitude in the
            peer's tensor; in levels for uint8. inf: it computes a different function and is not compared.
        border: part of each side to leave out of the comparison, for peers that continue the image otherwise.
    """

    name: str
    run: Callable[[], Any]
    outputs: Callable[[Any], list[Tensor]]
    bound: float = 0.0
    border: float = 0.0


@dataclass(frozen=True)
class Skipped:
    """A peer that is not timed, and the reason: the case is unsupported or the function differs."""

    name: str
    reason: str


@dataclass
class Record:
    """Contents of `extra_info` after one race."""

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


def race(
    benchmark: Any,
    case: Case,
    ours: Entry,
    peers: Sequence[Entry | Skipped],
    *,
    device: torch.device,
    rounds: int,
    memory: dict[str, int] | None = None,
) -> None:
    """Check that every peer agrees with ours, then time all of them in alternation.

    Args:
        benchmark: pytest-benchmark's fixture; it times ours, the peers are timed in its set-up of each round.
        case: case under test.
        ours: this package.
        peers: the others, timed or skipped with a reason.
        device: torch device; on CUDA times come from events.
        rounds: number of rounds.
        memory: peak bytes by contestant, if measured, kept beside the times.

    Raises:
        AssertionError: a peer's result differs by more than its bound.
    """
    record = Record(case, memory=dict(memory or {}))
    entries = [peer for peer in peers if isinstance(peer, Entry)]
    record.skipped = {peer.name: peer.reason for peer in peers if isinstance(peer, Skipped)}
    mine = ours.outputs(ours.run())
    for peer in entries:
        record.difference[peer.name] = difference = difference_from(mine, peer)
        record.bound[peer.name] = peer.bound
        assert difference <= peer.bound, (
            f"{case.label}: {peer.name} differs from ours by {difference:.3g}, more than {peer.bound:.3g}"
        )
    del mine
    record.seconds = {entry.name: [] for entry in (ours, *entries)}

    def time_peers() -> None:
        for peer in entries:
            record.seconds[peer.name].append(measure(peer.run, device))

    def time_ours() -> None:
        record.seconds[ours.name].append(measure(ours.run, device))

    benchmark.group = f"{case.op} {case.direction}"
    gc.collect()
    gc.disable()
    try:
        benchmark.pedantic(time_ours, setup=time_peers, rounds=rounds)
    finally:
        gc.enable()
    benchmark.extra_info.update(asdict(record), device=device.type)
    RECORDS.append(benchmark.extra_info)


def measure(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call; on CUDA, a tenth of ten calls between two events: launches overlap."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    calls = 10
    with torch.cuda.device(device):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def difference_from(mine: list[Tensor], peer: Entry) -> float:
    """Largest difference of a peer's result from ours; 0 if the two are not compared."""
    if peer.bound == math.inf:
        peer.run()
        return 0.0
    return largest_difference(*([_inside(t, peer.border) for t in ts] for ts in (mine, peer.outputs(peer.run()))))


def _inside(tensor: Tensor, border: float) -> Tensor:
    if not border:
        return tensor
    top, left = (math.ceil(side * border) for side in tensor.shape[-2:])
    return tensor[..., top:-top, left:-left]


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference, relative to each peer tensor's largest magnitude; in levels for uint8."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}"
        assert a.dtype == b.dtype, f"dtypes differ: {a.dtype} and {b.dtype}"
        difference = float((a.double() - b.double()).abs().max())
        if math.isnan(difference):
            return math.inf
        if difference and a.dtype != torch.uint8:
            difference /= float(b.double().abs().max()) or 1.0
        worst = max(worst, difference)
    return worst
