"""`FusedResizer` against `reference.Resizer`, the same network composed from torch.nn, in two layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import memory
from benchmarks.cases import OURS, Case
from benchmarks.peers import image, memory_format
from benchmarks.race import Entry, largest_difference, race
from learned_resizer_cuda import FusedResizer, reference

# Differences relative to the largest entry of each tensor.
# In float64, of all tensors: rounding alone.
EXACT = 1e-9
# In float32, of the output: the reference in channels_last is 5e-5 from float64, the others are 4e-6 from it.
FORWARD = 1e-4
# In float32, of the gradients: a LeakyReLU input within that error of zero has slope 1 in one and 0.2 in
# the other, and each such pixel changes a gradient. In NCHW, ours and the reference's are 6e-4 from those
# in float64 at most; the reference's in channels_last are 1.5e-2 from them.
GRADIENT = {"NCHW": 5e-3, "channels_last": 5e-2}

PAPER = (8, 448, 224, 6)  # batch, input, output, rounds
SMALL = (64, 96, 16, 15)  # the built-in experiment's

# name of the contestant: (module, layout). Ours takes images as loaders deliver them.
CONTESTANTS = {
    OURS: ("fused", "NCHW"),
    "reference, NCHW": ("reference", "NCHW"),
    "reference, channels_last": ("reference", "channels_last"),
}
MODULES = {"fused": FusedResizer, "reference": reference.Resizer}


def _entry(name: str, case: Case, device: torch.device, state: dict[str, Tensor]) -> Entry:
    kind, layout = CONTESTANTS[name]
    module = MODULES[kind](case.out_size, interpolation=case.interpolation, antialias=case.antialias)
    module.load_state_dict(state)
    module.to(device, getattr(torch, case.dtype), memory_format=memory_format(layout)).train(
        case.direction == "train step"
    )
    x = image(case, device).contiguous(memory_format=memory_format(layout))
    run = _train_step if module.training else _evaluate
    bound = GRADIENT[layout] if module.training else FORWARD
    return Entry(name, run(module, x, case), list, bound)


def _evaluate(module: nn.Module, x: Tensor, _: Case) -> Callable[[], tuple[Tensor, ...]]:
    def run() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (module(x),)

    return run


def _train_step(module: nn.Module, x: Tensor, case: Case) -> Callable[[], tuple[Tensor, ...]]:
    shape = (case.batch, 3, case.out_size, case.out_size)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(x)
    parameters = list(module.parameters())

    def run() -> tuple[Tensor, ...]:
        y = module(x)
        return (y.detach(), *torch.autograd.grad(y, parameters, grad))

    return run


def _check_in_float64(case: Case, device: torch.device, state: dict[str, Tensor]) -> None:
    """Compare ours with the reference where rounding cannot hide or fake a difference."""
    case = replace(case, dtype="float64", batch=2, in_size=64, out_size=31)
    ours, theirs, _ = (_entry(name, case, device, state) for name in CONTESTANTS)
    difference = largest_difference(ours.outputs(ours.run()), theirs.outputs(theirs.run()))
    assert difference <= EXACT, f"{case.label}: ours differs from the reference by {difference:.3g}"


@pytest.mark.parametrize(("batch", "in_size", "out_size", "rounds"), [PAPER, SMALL], ids=["448-224", "96-16"])
@pytest.mark.parametrize("direction", ["evaluation", "train step"])
def test_resizer(
    benchmark: Any, device: torch.device, direction: str, batch: int, in_size: int, out_size: int, rounds: int
) -> None:
    case = Case("FusedResizer", direction, "bilinear", True, "float32", "NCHW", batch, in_size, out_size)
    torch.manual_seed(0)
    state = reference.Resizer(out_size).state_dict()
    _check_in_float64(case, device, state)
    ours, *peers = (_entry(name, case, device, state) for name in CONTESTANTS)
    peaks = {}
    if direction == "train step" and memory.available(device):
        sizes = {"batch": batch, "in_size": in_size, "out_size": out_size, "device": device}
        repeats = 3 if benchmark.enabled else 1
        for name, (kind, layout) in CONTESTANTS.items():
            peaks[name] = memory.peak_in_subprocess(kind, layout, **sizes, repeats=repeats)
    race(benchmark, case, ours, peers, device=device, rounds=rounds, memory=peaks)
