"""Tables of plans on the device: who stores them, when, and where; on the host's build, and at the end on a GPU."""

from __future__ import annotations

import ctypes
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda.kernels import device, native, tables
from learned_resizer_cuda.kernels.resample import resample
from learned_resizer_cuda.kernels.tables import Tables
from learned_resizer_cuda.ops.bands import INTERPOLATIONS
from learned_resizer_cuda.ops.resample import Resample, Sampling
from tests.helpers.arithmetic import OPS, close
from tests.helpers.native_host import native_on_host

CPU = torch.device("cpu")


@dataclass
class Watched:
    """The native module; its calls about tables are written down, its streams and memory are the test's."""

    module: Any
    stream: int = 0
    capturing: bool = False
    has_memory: bool = True
    stores: list[tuple[int, int]] = field(default_factory=list)  # address, stream
    rings: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def store_tables(self, source: Any, target: int, index: int, stream: int) -> None:
        self.stores.append((target, stream))
        self.module.store_tables(source, target, index, stream)

    def allocate_tables(self, size: int, index: int) -> int:
        self.rings += 1
        return self.module.allocate_tables(size, index) if self.has_memory else 0

    def identify_stream(self, index: int, stream: int) -> int | None:
        return None if self.capturing else self.module.identify_stream(index, stream)

    def stored(self) -> int:
        """Stores since the last call."""
        count = len(self.stores)
        self.stores.clear()
        return count


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with native_on_host():
        found = Watched(native.load())
        monkeypatch.setattr(native, "load", lambda: found)
        monkeypatch.setattr(device, "place", lambda gpu: (0, found.stream))
        monkeypatch.setattr(tables, "_rings", {})
        yield found


def _on_stream(plan: bytes, stream: int = 0) -> tables.Tables:
    return tables.on_stream(plan, CPU, 0, stream)


def _read(at: tables.Tables, size: int) -> bytes:
    return ctypes.string_at(at.address, size)


def _plan(number: int, size: int) -> bytes:
    return np.random.default_rng(number).bytes(size)


def _check(size: int, seed: int = 0) -> None:
    """A resampling of 12 x 9 to a size against its definition."""
    image = torch.rand(2, 3, 12, 9, generator=torch.Generator().manual_seed(seed))
    sampling = Sampling(size, size + 1, None, None, "bicubic", True)
    close([resample(Resample(image, sampling))], [OPS.resample(image.double(), *sampling)], 1e-6, "out")


def test_a_second_call_stores_nothing(watched: Watched) -> None:
    _check(7)
    assert watched.stored() == 1
    _check(7, seed=1)
    assert watched.stored() == 0
    _check(8)
    assert (watched.stored(), watched.rings) == (1, 1)


def test_a_stream_stores_its_own(watched: Watched) -> None:
    for stream, expected in ((32, 1), (64, 1), (32, 0), (64, 0)):
        watched.stream = stream
        _check(7)
        assert all(on == stream for _, on in watched.stores)
        assert watched.stored() == expected
    assert watched.rings == 2
    first, second = (_on_stream(b"0" * 100, stream) for stream in (32, 64))
    assert abs(first.address - second.address) >= tables._RING_BYTES


def test_a_capture_stores_at_every_call_and_keeps_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    _check(7)
    before = dict(next(iter(tables._rings.values())).tables)
    watched.stored()
    made: list[weakref.ref[tables.Tables]] = []

    def make(*args: Any) -> tables.Tables:
        found = Tables(*args)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(tables, "Tables", make)
    watched.capturing = True
    for seed in range(3):
        # A size that is known and one that is not.
        _check(7, seed)
        _check(8, seed)
    assert watched.stored() == 6
    held = _on_stream(b"123")
    assert held.memory is not None and held.memory.data_ptr() == held.address and _read(held, 3) == b"123"
    (ring,) = tables._rings.values()
    assert ring.tables == before and watched.rings == 1
    # Nothing refers to what the launches used: the graph's pool has its memory back.
    assert [found() for found in made] == [None] * 6 + [held]
    watched.stored()
    watched.capturing = False
    _check(7)
    assert watched.stored() == 0


def test_new_tables_overwrite_the_oldest(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_RING_BYTES", 1024)
    monkeypatch.setattr(tables, "_MOST_BYTES", 512)
    plans = [_plan(number, 200) for number in range(9)]
    for plan in plans:
        assert _read(_on_stream(plan), 200) == plan
    assert watched.stored() == 9
    (ring,) = tables._rings.values()
    # 4 of 256 bytes fit.
    assert list(ring.tables) == plans[-4:] and watched.rings == 1
    for plan in plans[-4:]:
        assert _read(_on_stream(plan), 200) == plan
    assert watched.stored() == 0
    assert _read(_on_stream(plans[0]), 200) == plans[0]
    assert watched.stored() == 1 and list(ring.tables) == [*plans[-3:], plans[0]]


def test_tables_lie_within_the_ring_and_apart(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that do not divide the ring: the rest at its end stays free."""
    monkeypatch.setattr(tables, "_RING_BYTES", 4096)
    monkeypatch.setattr(tables, "_MOST_BYTES", 1024)
    sizes = np.random.default_rng(0).integers(1, 1025, 400)
    for number, size in enumerate(sizes):
        plan = _plan(number, int(size))
        found = _on_stream(plan)
        (ring,) = tables._rings.values()
        assert ring._base <= found.address and found.address + size <= ring._base + 4096 and found.address % 128 == 0
        del found
        # What the ring says it holds, it holds.
        assert plan in ring.tables
        assert all(_read(held, len(key)) == key for key, held in ring.tables.items())
    assert watched.stored() == len(sizes)


def test_tables_in_use_are_not_overwritten(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has looked its tables up and not launched yet."""
    monkeypatch.setattr(tables, "_RING_BYTES", 1024)
    monkeypatch.setattr(tables, "_MOST_BYTES", 512)
    in_use = _on_stream(b"a" * 500)
    assert _on_stream(b"b" * 500).memory is None
    temporary = _on_stream(b"c" * 500)
    assert temporary.memory is not None and _read(temporary, 500) == b"c" * 500
    assert _read(in_use, 500) == b"a" * 500
    del in_use
    assert _on_stream(b"c" * 500).memory is None


def test_threads_of_one_stream(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_RING_BYTES", 1024)
    monkeypatch.setattr(tables, "_MOST_BYTES", 512)
    plans = [_plan(number, 100 + 17 * number) for number in range(8)]
    store = watched.store_tables

    def slowly(*args: Any) -> None:
        time.sleep(0)  # another thread's turn
        store(*args)
        time.sleep(0)

    monkeypatch.setattr(watched, "store_tables", slowly, raising=False)

    def run(seed: int) -> int:
        wrong = 0
        for number in np.random.default_rng(seed).integers(0, len(plans), 400):
            found = _on_stream(plans[number])
            time.sleep(0)
            # The launch, which reads at once here.
            wrong += _read(found, len(plans[number])) != plans[number]
        return wrong

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(run, range(4))) == [0] * 4
    finally:
        sys.setswitchinterval(interval)
    assert watched.rings == 1


@pytest.mark.parametrize("why", ["too large", "too many streams", "no memory"])
def test_without_a_place_in_a_ring_every_call_stores(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "too large":
        monkeypatch.setattr(tables, "_MOST_BYTES", 128)
    elif why == "too many streams":
        monkeypatch.setattr(tables, "_RINGS", 1)
        _on_stream(b"123", 32)
        watched.stored()
    else:
        watched.has_memory = False
    for seed in range(3):
        _check(7, seed)
        assert watched.stored() == 1, why


def test_errors_name_what_failed(watched: Watched) -> None:
    module = watched.module
    with pytest.raises(
        RuntimeError, match=r"^tables: allocating 4096 bytes on cuda:1 failed: cudaErrorInvalidDevice: .+$"
    ):
        module.allocate_tables(4096, 1)
    with pytest.raises(RuntimeError, match=r"^tables: the current stream of cuda:1 cannot be used: cudaErrorInvalidD"):
        module.identify_stream(1, 0)
    with pytest.raises(RuntimeError, match=r"^store_tables: the launch on cuda:1 failed: cudaErrorInvalidDevice: "):
        module.store_tables(b"1", 4096, 1, 0)
    for target in (0, 8):
        with pytest.raises(ValueError, match=f"target: got address {target}; expected one aligned to 16 bytes"):
            module.store_tables(b"1", target, 0, 0)
    with pytest.raises(TypeError, match=r"source: got array\("):
        module.store_tables(np.zeros((4, 4), np.uint8), 4096, 0, 0)


def test_a_failed_store_keeps_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("launch failed")

    with monkeypatch.context() as broken:
        broken.setattr(watched, "store_tables", fail, raising=False)
        with pytest.raises(RuntimeError, match="launch failed"):
            _check(7)
    _check(7)
    assert watched.stored() == 1


@pytest.mark.parametrize("filter", ["bilinear", "lanczos"])
def test_the_device_makes_the_rest_of_a_plan(watched: Watched, filter: str) -> None:
    """Kept on the stream, or in temporary tensors."""
    options = (224, 300), INTERPOLATIONS.index(filter), True
    plan = watched.module.plan_stem([(4, 448, 1000, None, None)], *options, [], 1, 132, "float32", 16)
    backward = watched.module.plan_stem_backward(
        [(4, 448, 1000, None, None)], *options, [], [], 1, 3, 132, 227 * 1024, "float32", 16
    )
    axes = (448, 224, 0.0, 0.0, 0.0), (1000, 300, 0.0, 0.0, 0.0)
    tensor, rest = (2, 3, False, True, *axes, None, False), (options[1], True, 132, 227 * 1024, [], [])
    resampling = watched.module.plan_resample("float32", "float32", False, [tensor], *rest)
    for made in (plan, backward, resampling):
        stored, size = len(made.stored), made.table_bytes
        assert stored < 1024 < size < tables._MOST_BYTES
        kept, temporary = tables.on_stream(made, CPU, 0, 0), tables.temporary(made, CPU, 0, 0)
        assert kept.memory is None and temporary.memory is not None
        assert _read(kept, stored) == made.stored == _read(temporary, stored)
        assert tables.on_stream(made, CPU, 0, 0) is kept
    assert watched.stored() == 6


def _captured(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    return graph, out


@pytest.mark.gpu
def test_a_first_call_is_captured_and_survives_other_sizes() -> None:
    """More new sizes between two replays than a ring holds; a graph has no tables there."""
    image = torch.rand(2, 3, 203, 211, device="cuda")
    module = lr.FusedResizer((57, 61)).cuda().eval()
    with torch.no_grad(), lr.use_backend("native"):
        resized = _captured(lambda: lr.resize(image, (59, 63), interpolation="bicubic"))
        learned = _captured(lambda: module(image))
        for turn in range(3):
            image.copy_(torch.rand_like(image))
            for size in range(300):
                lr.resize(image, (20 + size, 30 + size + turn), interpolation="lanczos")
            for graph, out in (resized, learned):
                out.fill_(float("nan"))
                graph.replay()
            assert torch.equal(resized[1], lr.resize(image, (59, 63), interpolation="bicubic"))
            assert torch.equal(learned[1], module(image))


@pytest.mark.gpu
def test_reduce_overhead_with_first_calls() -> None:
    """The warm-up of inductor's graphs refuses memory of their pool that outlives a call."""
    torch.compiler.reset()
    module = lr.FusedResizer((47, 49)).cuda().eval()

    def both(image: Tensor) -> Tensor:
        return lr.resize(image, (47, 49), interpolation="bicubic") + module(image)

    compiled = torch.compile(both, mode="reduce-overhead")
    with torch.no_grad(), lr.use_backend("native"):
        # Warm-up, capture, replays.
        for turn in range(5):
            image = torch.rand(2, 3, 151, 149, device="cuda")
            torch.compiler.cudagraph_mark_step_begin()
            found = compiled(image).clone()
            # The same kernels; what is compiled between them differs by a few roundings.
            torch.testing.assert_close(found, both(image), rtol=1e-5, atol=1e-5)
            for size in range(100):
                lr.resize(image, (20 + size, 31 + size + turn), interpolation="lanczos")
    torch.compiler.reset()


@pytest.mark.gpu
def test_a_new_size_does_not_wait_for_the_device() -> None:
    image = torch.rand(2, 3, 97, 89, device="cuda", requires_grad=True)
    with lr.use_backend("native"):
        # The kernels are loaded, and the ring is there.
        lr.resize(image, (31, 33), interpolation="lanczos").sum().backward()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(2_000_000_000)  # about 1 s of clocks
            slept = torch.cuda.Event()
            slept.record()
            lr.resize(image, (41, 43), interpolation="lanczos").sum().backward()
            assert not slept.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
