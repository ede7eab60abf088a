"""CUDA behaviour beyond values: reproducibility, streams, graphs, devices, memory, no hidden waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from benchmarks import op_calls
from benchmarks.op_calls import OPS, OpCall
from tests.helpers.gpu_cases import (
    BOUND,
    backend_on,
    check,
    devices,
    flags,
    oracle,
    relative_error,
    same_bits,
    unchanged_flags,
)

__all__ = ["unchanged_flags"]
pytestmark = pytest.mark.usefixtures("unchanged_flags")

HALF = torch.bfloat16
GIB = 2**30


def _values(call: OpCall, dtype: torch.dtype, device: str) -> dict[str, Any]:
    return op_calls.placed(op_calls.arguments(call), dtype, device, call.layout)


def _dtypes(op: str, device: str) -> tuple[torch.dtype, ...]:
    return (HALF,) if op.startswith("trunk") and device != "cpu" else (torch.float32, HALF)


def _tensors(values: dict[str, Any]) -> Iterator[Tensor]:
    return (value for value in values.values() if isinstance(value, Tensor))


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("op", OPS)
def test_every_run_gives_the_same_bits(op: str, device: str) -> None:
    """100 runs, forward and backward: a race or an atomic sum would show."""
    call = OpCall(op, sizes=(37, 29, 17, 13)) if device == "cpu" else OpCall(op, sizes=(225, 223, 113, 111), batch=8)
    for dtype in _dtypes(op, device):
        values = _values(call, dtype, device)
        with lr.use_backend(backend_on(device)):
            directions = _directions(op, values)
            first = _directed(op, values, directions)
            for repeat in range(3 if device == "cpu" else 100):
                assert same_bits(_directed(op, values, directions), first), f"{dtype}, repeat {repeat}"


def test_the_comparison_of_bits_can_fail() -> None:
    a = {"out0": torch.ones(4)}
    assert same_bits(a, {"out0": torch.ones(4)})
    assert not same_bits(a, {"out0": torch.ones(4).nextafter(torch.tensor(2.0))})
    assert not same_bits(a, {"out1": torch.ones(4)})


def test_a_changed_flag_is_seen() -> None:
    before = flags()
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    try:
        assert flags() != before
    finally:
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    assert flags() == before


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_graphs_replay_on_new_values(op: str) -> None:
    """Capture forward and backward once, change the inputs in place, replay: the bits of a plain call."""
    call = OpCall(op)
    with lr.use_backend("native"):
        values = _values(call, HALF, "cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                op_calls.run(op, values)
        torch.cuda.current_stream().wait_stream(side)
        # The directions come from the CPU, which a capture forbids: they are made before it.
        replayed = _captured(op, values)
        for seed in (5, 6):
            fresh = _values(call.with_(seed=seed), HALF, "cuda")
            for mine, new in zip(_tensors(values), _tensors(fresh), strict=True):
                mine.copy_(new)
            found = replayed()
            assert same_bits(found, _directed(op, fresh, _directions(op, fresh)))


def _directions(op: str, values: dict[str, Any]) -> list[Tensor]:
    return op_calls.directions(op_calls.forward(op, values), 1)


def _directed(op: str, values: dict[str, Any], directions: list[Tensor]) -> dict[str, Tensor]:
    """`op_calls.run` along given directions, without touching the host."""
    outputs = op_calls.forward(op, values)
    found = {f"out{index}": out for index, out in enumerate(outputs)}
    return found if op in op_calls.NO_GRADIENT else {**found, **op_calls.gradients(op, values, outputs, directions)}


def _captured(op: str, values: dict[str, Any]) -> Any:
    directions = _directions(op, values)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = _directed(op, values, directions)

    def replay() -> dict[str, Tensor]:
        for tensor in held.values():
            tensor.fill_(float("nan"))  # so that a replay that writes nothing cannot pass
        graph.replay()
        return {name: tensor.clone() for name, tensor in held.items()}

    return replay


def test_directed_is_run() -> None:
    """On a CPU: the graph tests' way to call an op gives the values that the value tests check."""
    for op in OPS:
        values = _values(OpCall(op), torch.float32, "cpu")
        assert same_bits(_directed(op, values, _directions(op, values)), op_calls.run(op, values))


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_ops_run_on_the_current_stream(op: str) -> None:
    """The real input arrives late on a side stream: a launch on any other stream would read the old values."""
    call = OpCall(op)
    with lr.use_backend("native"):
        real = _values(call, HALF, "cuda")
        expected = op_calls.run(op, real)
        late = {k: torch.zeros_like(v) if isinstance(v, Tensor) else v for k, v in real.items()}
        directions = _directions(op, real)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)  # about 0.1 s of clocks
            for mine, new in zip(_tensors(late), _tensors(real), strict=True):
                mine.copy_(new)
            found = _directed(op, late, directions)
        stream.synchronize()
    assert same_bits(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_a_second_device(op: str) -> None:
    """An op runs on its tensors' device; the current device does not change."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices; torch sees one")
    call = OpCall(op)
    with torch.cuda.device(0), lr.use_backend("native"):
        values = _values(call, HALF, "cuda:1")
        found = op_calls.run(op, values)
        assert torch.cuda.current_device() == 0
    assert all(tensor.device == torch.device("cuda", 1) for tensor in found.values())
    check(found, oracle(call, values), BOUND["bfloat16"])


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_nothing_waits_for_the_device(op: str) -> None:
    """After a first call, which may put tables on the device, forward and backward only enqueue."""
    with lr.use_backend("native"):
        values = _values(OpCall(op), HALF, "cuda")
        directions = _directions(op, values)
        _directed(op, values, directions)
        torch.cuda.set_sync_debug_mode("error")
        try:
            _directed(op, values, directions)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _memory_for(extra: int) -> Iterator[None]:
    """Limit torch's allocator to `extra` bytes beyond its current total."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + extra) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
def test_too_little_memory_is_torchs_own_error(op: str) -> None:
    """And the next call that fits works."""
    # The least result is 2 · 3 · 1024² · 2 B of image, 12 MiB.
    big = OpCall(op, sizes=(64, 64, 1024, 1024))
    small = OpCall(op)
    with lr.use_backend("native"):
        values = _values(big, HALF, "cuda")
        with _memory_for(4 * 2**20), pytest.raises(torch.OutOfMemoryError):
            op_calls.run(op, values, None)
        del values
        torch.cuda.empty_cache()
        values = _values(small, HALF, "cuda")
        check(op_calls.run(op, values), oracle(small, values), BOUND["bfloat16"])


def _needs(gib: int) -> None:
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0] / GIB
    if free < gib:
        pytest.skip(f"needs {gib} GiB of free device memory, found {free:.0f}")


@pytest.mark.gpu
@pytest.mark.parametrize("direction", ["reads", "writes", "one plane"])
def test_resample_beyond_int32(direction: str) -> None:
    """More than 2^31 elements: a 32-bit offset would miss the last image."""
    _needs(8)
    with lr.use_backend("native"):
        if direction == "one plane":
            # 46,400² elements, 1,450 per side of an output. Its last rows depend on the last rows only.
            image = torch.empty(1, 1, 46_400, 46_400, dtype=torch.uint8, device="cuda").random_(0, 256)
            out = lr.resize(image, 32)
            tail = lr.resize(image[:, :, -8 * 1450 :], (8, 32))
            difference = (out[:, :, -4:].int() - tail[:, :, -4:].int()).abs().max()
            assert int(difference) <= 1  # two tables, rounded differently
            return
        batch = 2**31 // 1024**2 + 1
        side, size = (1024, 16) if direction == "reads" else (16, 1024)
        image = torch.empty(batch, 1, side, side, dtype=torch.uint8, device="cuda").random_(0, 256)
        out = lr.resize(image, size)
        for index in (0, batch // 2, batch - 1):
            assert torch.equal(out[index], lr.resize(image[index : index + 1], size)[0]), index


@pytest.mark.gpu
def test_stem_beyond_int32() -> None:
    _needs(16)
    batch, side = 2**31 // (3 * 512**2) + 1, 512
    call = OpCall("stem", sizes=(side, side, 8, 8), batch=1)
    with lr.use_backend("native"):
        values = _values(call, HALF, "cuda")
        image = torch.empty(batch, 3, side, side, dtype=HALF, device="cuda").uniform_(-1, 1)
        found = op_calls.run("stem", {**values, "image": image})
        for index in (0, batch // 2, batch - 1):
            alone = op_calls.run("stem", {**values, "image": image[index : index + 1]}, None)
            assert relative_error(found["out0"][index], alone["out0"][0].double()) <= BOUND["bfloat16"], index
        # Without statistics an image's gradient depends on that image alone.
        plain = {**values, "statistics": False}
        found = op_calls.run("stem", {**plain, "image": image})
        along = op_calls.direction(found["out0"], 1)[-1:]
        last = {**plain, "image": image[-1:].clone()}
        alone = op_calls.gradients("stem", last, op_calls.forward("stem", last), [along])
        error = relative_error(found["grad image"][-1:], alone["grad image"].double(), by_norm=True)
        assert error <= BOUND["bfloat16"]


@pytest.mark.gpu
@pytest.mark.parametrize("op", ["conv", "head", "trunk_block", "trunk_tail"])
def test_features_beyond_int32(op: str) -> None:
    """The last image of a batch of 2^31 elements, forward and backward."""
    _needs(90 if op in ("conv", "head") else 24)
    side = 256
    batch = 2**31 // (16 * side**2) + 1
    call = OpCall(op, sizes=(side, side, side, side), batch=1, statistics=False, skip=op == "trunk_tail")
    with lr.use_backend("native"):
        values = _values(call, HALF, "cuda")
        many = {
            k: v.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
            if k in ("input", "skip", "base") and isinstance(v, Tensor)
            else v
            for k, v in values.items()
        }
        many["input"][-1].neg_()  # the last image differs from the others
        last = {**values, "input": many["input"][-1:].clone()}
        found = op_calls.run(op, many, None)
        assert torch.equal(found["out0"][-1:], op_calls.run(op, last, None)["out0"])
        if op in op_calls.NO_GRADIENT:
            return
        grads = []
        for given in (many, last):
            outputs = op_calls.forward(op, given)
            grads.append(op_calls.gradients(op, given, outputs, [torch.ones_like(outputs[0])])["grad input"][-1:])
        assert torch.equal(*grads)
