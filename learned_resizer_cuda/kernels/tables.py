"""Tables of launch plans, put on the device without a copy.

A plan's tables travel as parameters of a small kernel (csrc/core/tables), which does not wait for the device and can be
captured in a CUDA graph. Of some plans the device makes further tables from those. A call on a stream does that once,
in front of the launch that reads them:

- **Order.** Tables are kept for one stream each, and that stream's order is all the synchronisation there is: a launch
  comes after the store, and a store into used memory after the launches that read it.
- **Memory.** Each stream has a ring of `_RING_BYTES`, allocated once and outside of torch's pools, so that neither
  the warm-up of ``torch.compile(mode="reduce-overhead")`` nor a `torch.cuda.MemPool` owns it. New tables overwrite the
  oldest. At most `_RINGS` streams of a device have a ring: 64 MiB.
- **Capture.** A capturing stream keeps nothing. Its tables are temporary tensors in the graph's own pool, and the graph
  contains the store: each replay writes them again, and the graph depends on nothing outside it.

Temporary tensors also serve where a ring cannot: for tables of more than `_MOST_BYTES`, for further streams, and where
the device has no memory left for a ring.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import device, native

_RING_BYTES = 4 << 20  # about 80 tables of usual sizes (448 -> 224: 29 to 83 kB)
_MOST_BYTES = _RING_BYTES // 4
_RINGS = 16


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables on a device, to hold until their launch is queued.

    Attributes:
        address: 16-byte aligned.
        memory: what keeps temporary tables alive.
    """

    address: int
    memory: Tensor | None = None


class _Ring:
    """The tables kept for one stream."""

    def __init__(self, base: int) -> None:
        self.tables: dict[Any, Tables] = {}  # by plan
        self._base = base
        self._position = 0  # of the next table; counts on, its remainder by the ring's size is the place
        self._oldest: deque[tuple[int, Any]] = deque()  # first position and plan of each
        self._leaving: list[weakref.ref[Tables]] = []
        self._lock = threading.Lock()

    def store(self, plan: Any, index: int, stream: int) -> Tables | None:
        """Store a plan's tables, or return None where there is no place.

        They may be too large, or a thread may be about to launch with the ones that they would overwrite.
        """
        size = _table_bytes(plan)
        if size > _MOST_BYTES:
            return None
        with self._lock:
            if plan in self.tables:  # stored by another thread meanwhile
                return self.tables[plan]
            begin = self._position
            if begin % _RING_BYTES + size > _RING_BYTES:
                begin += -begin % _RING_BYTES
            while self._oldest and self._oldest[0][0] < begin + size - _RING_BYTES:
                _, old = self._oldest.popleft()
                self._leaving.append(weakref.ref(self.tables.pop(old)))
            self._leaving = [leaving for leaving in self._leaving if leaving() is not None]
            if self._leaving:
                return None
            tables = Tables(self._base + begin % _RING_BYTES)
            _store(plan, tables.address, index, stream)
            self._position = begin + size
            self._oldest.append((begin, plan))
            self.tables[plan] = tables
            return tables


def _round_up(size: int) -> int:
    """Whole cache lines: the store of one does not touch another's."""
    return -(-size // 128) * 128


def _table_bytes(plan: Any) -> int:
    """Of a plan's tables, those that the device makes included."""
    return _round_up(len(plan) if isinstance(plan, bytes) else plan.table_bytes)


def _store(plan: Any, address: int, index: int, stream: int) -> None:
    if isinstance(plan, bytes):
        native.load().store_tables(plan, address, index, stream)
    else:
        native.load().store_tables(plan.stored, address, index, stream)
        plan.make_tables(address, index, stream)


def packed(parts: Iterable[np.ndarray]) -> tuple[bytes, list[int]]:
    """Arrays as one plan for `on_stream`, and where each begins: 16-byte aligned."""
    data = bytearray()
    begins = []
    for part in parts:
        data += bytes(-len(data) % 16)
        begins.append(len(data))
        data += part.tobytes()
    return bytes(data), begins


# By device and identity of the stream: handles are used again.
_rings: dict[tuple[int, int], _Ring] = {}
_lock = threading.Lock()


def _new_ring(index: int, identity: int) -> _Ring | None:
    with _lock:
        if sum(key[0] == index for key in _rings) < _RINGS and (index, identity) not in _rings:
            base = native.load().allocate_tables(_RING_BYTES, index)
            if base:
                _rings[index, identity] = _Ring(base)
    return _rings.get((index, identity))


def on_stream(plan: Any, gpu: torch.device, index: int, stream: int) -> Tables:
    """A plan's tables, for launches on a device's current stream.

    Args:
        plan: the tables' bytes; or, where the device makes more of them, a plan of the native module, of which some
            are ``stored``.
        gpu: the CUDA device.
        index: of the device; with `stream`, from `device.place`.
        stream: the device's current one.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    identity = device.identity(index, stream)
    ring = None if identity is None else _rings.get((index, identity)) or _new_ring(index, identity)
    if ring is not None:
        tables = ring.tables.get(plan) or ring.store(plan, index, stream)
        if tables is not None:
            return tables
    return temporary(plan, gpu, index, stream)


def temporary(plan: Any, gpu: torch.device, index: int, stream: int) -> Tables:
    """The same for one call, of sizes that may never return."""
    memory = torch.empty(_table_bytes(plan), dtype=torch.uint8, device=gpu)
    _store(plan, memory.data_ptr(), index, stream)
    return Tables(memory.data_ptr(), memory)
