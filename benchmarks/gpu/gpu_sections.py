"""Sections of `benchmarks.gpu.gpu_day`, each a generator of rows for JSON.

The worker runs them under `use_backend("native")` on a GPU: a call that cannot run natively is a failure, and no number
of pure torch stands under our name.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import op_calls
from benchmarks.bars import ALONE, COMPILED, COPY, FLOOR, FLOOR_SECONDS
from benchmarks.cases import OURS, Case
from benchmarks.gpu.cold import Clock, peak_bytes, race
from benchmarks.op_calls import OpCall
from benchmarks.peers import contestants, image, memory_format
from benchmarks.race import Entry
from learned_resizer_cuda import FusedResizer, reference

# Greatest number of kernels that a call of `FusedResizer` launches in a 16-bit dtype.
LAUNCHES = {"inference": 4, "training step": 25}

FILTERS = ("bilinear", "bicubic", "lanczos")
# Bounds of bfloat16 results and gradients, relative to the largest: tests/gpu/test_resizer.py compares ours with
# float64; here both sides have that error. In float32 it is the kinks of LeakyReLU (bench_resizer.GRADIENT).
HALF_BOUND, FLOAT_BOUND = 5e-2, 5e-2


@dataclass(frozen=True)
class Plan:
    """Sizes of a run."""

    device: torch.device
    quick: bool
    deadline: float

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Batch, input and output size."""
        return (2, 32, 16) if self.quick else (64, 448, 224)

    @property
    def rounds(self) -> int:
        return 2 if self.quick else 20

    @property
    def half(self) -> str:
        """Dtype of the networks: bfloat16 is slow on a CPU."""
        return "float32" if self.quick else "bfloat16"

    @property
    def filters(self) -> tuple[str, ...]:
        return FILTERS[:1] if self.quick else FILTERS

    def late(self) -> bool:
        return time.monotonic() > self.deadline


def roofs(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """Peak rates of the device: copying and matrix products, as measured."""
    source = torch.empty((2**22 if plan.quick else 2**30), dtype=torch.uint8, device=plan.device).random_(0, 256)
    target = torch.empty_like(source)
    seconds = statistics.median(clock.many(lambda: target.copy_(source), 10))
    yield {"kind": "roof", "name": "copy", "bytes_per_s": 2 * len(source) / seconds}
    side = 128 if plan.quick else 8192
    for dtype in (torch.float32,) if plan.quick else (torch.bfloat16, torch.float32):
        a, b = (torch.rand(side, side, device=plan.device).to(dtype) for _ in range(2))
        seconds = statistics.median(clock.many(lambda a=a, b=b: a @ b, 5))
        name = f"matrix product {str(dtype).removeprefix('torch.')}"
        yield {"kind": "roof", "name": name, "flop_per_s": 2 * side**3 / seconds}


def resample(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """The op alone, forward and backward, against a copy of as many bytes; and ``resample_fixed``."""
    for dtype in ("float32", "bfloat16", "uint8"):
        other = ("resample_fixed", "forward") if dtype == "uint8" else ("resample", "backward")
        for layout in ("NCHW", "channels_last"):
            for interpolation in plan.filters:
                for op, direction in (("resample", "forward"), other):
                    case = Case(op, direction, interpolation, True, dtype, layout, *plan.sizes)
                    yield from _guarded(plan, case.label, lambda case=case: _resample_row(plan, clock, case))


_image = lru_cache(maxsize=1)(image)


def _resample_row(plan: Plan, clock: Clock, case: Case) -> dict[str, Any]:
    # One image for all filters and directions: making it takes longer than timing it.
    x = _image(replace(case, interpolation="", direction=""), plan.device)
    size = (case.out_size,) * 2
    fixed = case.op == "resample_fixed"
    parameters = (case.interpolation, True, True) if fixed else (None, None, case.interpolation, True)
    forward = getattr(torch.ops.learned_resizer, case.op)
    if case.direction == "forward":
        small = forward(x, *size, *parameters)

        def run() -> Tensor:
            return forward(x, *size, *parameters)
    else:
        small = forward(x, *size, *parameters)
        back = torch.ops.learned_resizer.resample_backward

        def run() -> Tensor:
            return back(small, *x.shape[2:], *parameters)

    moved = x.nbytes + small.nbytes
    source = torch.empty(moved // 2, dtype=torch.uint8, device=plan.device).random_(0, 256)
    target = torch.empty_like(source)
    copy = Entry(COPY, lambda: target.copy_(source), lambda _: [], math.inf)
    ours = Entry(OURS, run, lambda y: [y])
    record = race(clock, case, ours, [copy], rounds=plan.rounds, deadline=plan.deadline)
    return {"kind": "record", **record, "bytes": moved}


def resize(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """`resize` as users call it, against other libraries."""
    for direction in ("forward+backward", "forward"):
        for interpolation in plan.filters:
            for dtype in ("float32", "bfloat16"):
                case = Case("resize", direction, interpolation, True, dtype, "NCHW", *plan.sizes)
                yield from _guarded(plan, case.label, lambda case=case: _resize_row(plan, clock, case))


def _resize_row(plan: Plan, clock: Clock, case: Case) -> dict[str, Any]:
    ours, peers = contestants(case, plan.device)
    record = race(clock, case, ours, peers, rounds=plan.rounds, deadline=plan.deadline)
    return {"kind": "record", **record}


def resizer(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """`FusedResizer` against the eager reference: times and memory."""
    for direction in ("evaluation", "train step"):
        name = f"FusedResizer {direction}"
        yield from _guarded(plan, name, lambda d=direction: _resizer_row(plan, clock, d, compiled=False))


def compiled(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """`FusedResizer` against the compiled reference, last because compiling takes longest."""
    for direction in ("evaluation", "train step"):
        name = f"FusedResizer {direction}, compiled peer"
        yield from _guarded(plan, name, lambda d=direction: _resizer_row(plan, clock, d, compiled=True))


def _resizer_row(plan: Plan, clock: Clock, direction: str, compiled: bool) -> dict[str, Any]:
    case = Case("FusedResizer", direction, "bilinear", True, plan.half, "NCHW", *plan.sizes)
    torch.manual_seed(0)
    state = reference.Resizer(case.out_size).state_dict()
    ours = _network(plan, case, OURS, FusedResizer(case.out_size), state)
    if compiled:
        # A CPU can test the graph only; code for it is compiled on a GPU.
        options: dict[str, Any] = {"backend": "aot_eager"} if plan.quick else {"mode": "max-autotune"}
        name = "torch.compile aot_eager" if plan.quick else COMPILED
        peers = [_network(plan, case, name, reference.Resizer(case.out_size), state, options)]
    else:
        peers = [
            _network(plan, case, f"reference, {layout}", reference.Resizer(case.out_size), state, layout=layout)
            for layout in ("channels_last", "NCHW")
        ]
    peaks: dict[str, int] = {}
    # A CUDA graph keeps its memory between replays, so the allocator does not see the compiled peer's peak.
    if direction == "train step" and not compiled:
        for entry in (ours, *peers):
            peak = peak_bytes(entry.run, plan.device)
            if peak is not None:
                peaks[entry.name] = peak
    floor = {FLOOR: FLOOR_SECONDS * case.batch} if direction == "evaluation" and plan.device.type == "cuda" else {}
    record = race(clock, case, ours, peers, rounds=plan.rounds, deadline=plan.deadline, constants=floor)
    return {"kind": "record", **record, "memory": peaks}


def _network(
    plan: Plan,
    case: Case,
    name: str,
    module: nn.Module,
    state: dict[str, Tensor],
    compile_options: dict[str, Any] | None = None,
    layout: str | None = None,
) -> Entry:
    # Ours takes images as loaders deliver them; the peer gets the layout that is best for it.
    layout = layout or ("NCHW" if name == OURS else "channels_last")
    module.load_state_dict(state)
    module.to(plan.device, getattr(torch, case.dtype), memory_format=memory_format(layout))
    module.train(case.direction == "train step")
    x = image(case, plan.device).contiguous(memory_format=memory_format(layout))
    function: Callable[[Tensor], Tensor] = torch.compile(module, **compile_options) if compile_options else module
    parameters = list(module.parameters())
    along = torch.rand(case.batch, 3, case.out_size, case.out_size, generator=torch.Generator().manual_seed(1)).to(x)

    def evaluate() -> list[Tensor]:
        with torch.no_grad():
            return [function(x)]

    def train() -> list[Tensor]:
        if compile_options:
            torch.compiler.cudagraph_mark_step_begin()
        y = function(x)
        return [y.detach(), *torch.autograd.grad(y, parameters, along)]

    def outputs(tensors: list[Tensor]) -> list[Tensor]:
        # All gradients as one vector: those of biases before a normalisation are rounding alone.
        return [tensors[0].clone(), *([torch.cat([g.flatten() for g in tensors[1:]])] if tensors[1:] else [])]

    bound = HALF_BOUND if case.dtype == "bfloat16" else FLOAT_BOUND
    return Entry(name, train if module.training else evaluate, outputs, bound)


def resnet(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """A training step of ResNet-50 behind the resizer, against one on images of that size."""
    yield from _guarded(plan, "ResNet-50 train step", lambda: _resnet_row(plan, clock))


def _resnet_row(plan: Plan, clock: Clock) -> dict[str, Any]:
    from torchvision.models import resnet18, resnet50

    _, in_size, out_size = plan.sizes
    batch = 2 if plan.quick else 128
    dtype = getattr(torch, plan.half)
    case = Case(
        "ResNet-50 behind FusedResizer", "train step", "bilinear", True, plan.half, "NCHW", batch, in_size, out_size
    )
    torch.manual_seed(0)
    network = (resnet18 if plan.quick else resnet50)().to(plan.device, dtype, memory_format=torch.channels_last)
    front = FusedResizer(out_size).to(plan.device, dtype)
    large = image(case, plan.device)
    small = front(large).detach().contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=plan.device)

    def step(module: nn.Module, x: Tensor) -> Callable[[], list[Tensor]]:
        parameters = list(module.parameters())

        def run() -> list[Tensor]:
            loss = nn.functional.cross_entropy(module(x).float(), labels)
            return list(torch.autograd.grad(loss, parameters))

        return run

    ours = Entry(OURS, step(nn.Sequential(front, network), large), lambda _: [])
    alone = Entry(ALONE, step(network, small), lambda _: [], math.inf)
    record = race(clock, case, ours, [alone], rounds=plan.rounds, deadline=plan.deadline)
    return {"kind": "record", **record}


def targets() -> list[str]:
    """Names of every op and of every backward."""
    ops = list(op_calls.OPS)
    return [*ops, *(f"{op}_backward" for op in ops if op not in op_calls.NO_GRADIENT)]


def kernels(plan: Plan, clock: Clock) -> Iterator[dict[str, Any]]:
    """Time, least bytes and arithmetic of every op, then a profile of whole calls."""
    for name in targets():
        yield from _guarded(plan, f"kernel {name}", lambda name=name: _kernel_row(plan, clock, name))
    for direction in ("evaluation", "train step"):
        yield from _guarded(plan, f"profile {direction}", lambda d=direction: _profile(plan, d))


def kernel_call(plan: Plan, target: str) -> tuple[Callable[[], Any], tuple[OpCall, dict[str, Any]]]:
    """One of `targets` without autograd, and the op's call and arguments."""
    batch, big, small = plan.sizes
    op = target.removesuffix("_backward")
    call = OpCall(op, sizes=(big, big, small, small), batch=batch, clear=False)
    dtype = getattr(torch, plan.half)
    # Four images from the host, repeated: making 64 takes longer than timing them.
    few = min(call.batch, 4)
    values = op_calls.placed(op_calls.arguments(call.with_(batch=few)), dtype, plan.device, call.layout)
    for name in ("image", "input", "skip", "base"):
        if values.get(name) is not None:
            format = torch.channels_last if name in ("input", "skip") else torch.contiguous_format
            values[name] = values[name].repeat(call.batch // few, 1, 1, 1).contiguous(memory_format=format)
    if op == target:
        return lambda: list(op_calls.run(op, values, None).values()), (call, values)
    return op_calls.backward_call(call, values), (call, values)


def _kernel_row(plan: Plan, clock: Clock, target: str) -> dict[str, Any]:
    run, (call, values) = kernel_call(plan, target)
    backward = target != call.op
    with torch.no_grad():
        result = run()
        seconds = clock.many(run, plan.rounds)
    moved = op_calls.least_bytes(call, values, result, backward)
    flop = op_calls.flop(call) * (1 if not backward or call.op == "resample" else 3 if call.op == "stem" else 2)
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {
        "kind": "kernel",
        "name": target,
        "dtype": plan.half,
        "sizes": f"{call.batch} × {call.sizes[0]}² → {call.sizes[2]}²",
        "ms": middle * 1e3,
        "low_ms": low * 1e3,
        "high_ms": high * 1e3,
        "bytes": moved,
        "bytes_per_s": moved / middle,
        "flop": flop,
        "flop_per_s": flop / middle,
    }


def launches(plan: Plan, _: Clock) -> Iterator[dict[str, Any]]:
    """Kernels that an inference and a training step launch, by CUPTI."""
    for what in LAUNCHES:
        for autocast in (False, True):
            name = f"{what}, {plan.half}{' under autocast' if autocast else ''}"
            yield from _guarded(plan, name, lambda n=name, w=what, a=autocast: _launches_row(plan, n, w, a))


def _launches_row(plan: Plan, name: str, what: str, autocast: bool) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    batch, big, small = plan.sizes
    half, on_gpu = getattr(torch, plan.half), plan.device.type == "cuda"
    # Under autocast, parameters and images as a training script has them.
    dtype = torch.float32 if autocast else half
    module = FusedResizer(small).to(plan.device, dtype).train(what != "inference")
    x = torch.rand(batch, 3, big, big, device=plan.device).to(dtype)
    reduced = torch.autocast(plan.device.type, half if on_gpu else torch.bfloat16, enabled=autocast)

    def forward() -> Tensor:
        with torch.set_grad_enabled(module.training), reduced:
            return module(x)

    grad = torch.ones_like(forward())

    def call() -> None:
        y = forward()
        if module.training:
            y.backward(grad)

    for _ in range(2):
        call()
        module.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        call()
        if on_gpu:
            torch.cuda.synchronize()
    return {"kind": "launches", "name": name, "most": LAUNCHES[what], **counted(seen.events(), on_gpu)}


def counted(events: Iterable[Any], on_gpu: bool) -> dict[str, Any]:
    """Launches among a profiler's events, copies and fills apart.

    Without a GPU a CPU's events stand in for kernels.
    """
    where = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    names = [event.name for event in events if event.device_type == where]
    moves = [name for name in names if name.startswith(("Memcpy", "Memset"))]
    found = Counter(name[:120] for name in names if name not in moves)
    return {"launches": found.total(), "copies": len(moves), "kernels": dict(found.most_common())}


def _profile(plan: Plan, direction: str) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    case = Case("FusedResizer", direction, "bilinear", True, plan.half, "NCHW", *plan.sizes)
    module = FusedResizer(case.out_size)
    entry = _network(plan, case, OURS, module, module.state_dict())
    entry.run()
    on_gpu = plan.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        entry.run()
        if on_gpu:
            torch.cuda.synchronize()
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(((getattr(e, kind), e.key, e.count) for e in seen.key_averages()), reverse=True)
    listed = [{"name": key[:120], "us": us, "calls": count} for us, key, count in rows[:15] if us > 0]
    return {"kind": "profile", "name": case.label, "kernels": listed}


def _guarded(plan: Plan, name: str, row: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row, or the reason for its absence: an error or a deadline costs that row only."""
    if plan.late():
        yield {"kind": "cut", "name": name, "reason": "the section's time was up"}
        return
    try:
        yield row()
    except Exception as error:
        if plan.device.type == "cuda" and "CUDA error" in str(error):
            raise  # the context is lost: every row after it would fail too
        yield {"kind": "failure", "name": name, "reason": f"{type(error).__name__}: {str(error)[:500]}"}


# The most important first, and compiling last.
SECTIONS: dict[str, Callable[[Plan, Clock], Iterator[dict[str, Any]]]] = {
    "launches": launches,
    "roofs": roofs,
    "resizer": resizer,
    "resample": resample,
    "resize": resize,
    "kernels": kernels,
    "resnet": resnet,
    "compiled": compiled,
}
