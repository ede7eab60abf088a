"""`resize_batch` of photographs of different sizes against torchvision's resize, one by one and grouped by shape."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from benchmarks.cases import OURS, Case
from benchmarks.peers import image
from benchmarks.race import Entry, Skipped, race
from learned_resizer_cuda import resize_batch
from learned_resizer_cuda.ops.bands import TABLES

ROUNDS = 7
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# torch's kernels round coordinates to float32, our backward does not: results differ by up to 1.3 · N · 2^-24 an axis
# (docs/math.md, 1.6).
COORDINATES = 2 * 1.3 * 900 * 2.0**-24
# Peers round a byte after each pass, which the second filter's weights grow (UINT8_LEVELS in peers.py); the largest
# normalised values are 1.5 and more.
NORMALISED = (0.5 * 1.55 + 0.5) / 255 / min(STD) / 1.5

CASES = [
    Case("resize_batch", direction, name, True, "float32", "NCHW", 64, 300, 224, in_width=900)
    for direction in ("forward", "forward+backward")
    for name in ("bilinear", "bicubic", "lanczos")
    # torch's own backward of Lanczos takes 3 s.
    if (direction, name) != ("forward+backward", "lanczos")
]
# To normalised float32, from interleaved channels as decoders leave them.
CASES.append(Case("resize_batch", "forward", "bilinear", True, "uint8", "channels_last", 64, 300, 224, in_width=900))


def _photographs(case: Case, device: torch.device) -> list[Tensor]:
    rng = random.Random(0)
    sides = (case.in_size, case.in_width or case.in_size)
    one = ("resize", "forward", case.interpolation, True, case.dtype, case.layout, 1)
    return [
        image(Case(*one, rng.randint(*sides), case.out_size, in_width=rng.randint(*sides)), device)[0]
        for _ in range(case.batch)
    ]


def _normalised(batch: Tensor) -> Tensor:
    return F.normalize(F.to_dtype(batch, torch.float32, scale=True), MEAN, STD) if batch.dtype == torch.uint8 else batch


def _entry(case: Case, name: str, photographs: list[Tensor], run: Callable[[list[Tensor]], Tensor]) -> Entry:
    bound = COORDINATES if case.dtype == "float32" else NORMALISED
    if case.direction == "forward":
        return Entry(name, lambda: [run(photographs)], list, bound)
    leaves = [photograph.detach().requires_grad_() for photograph in photographs]
    shape = case.batch, 3, case.out_size, case.out_size
    grad = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(photographs[0].device)

    def both() -> list[Tensor]:
        batch = run(leaves)
        return [batch.detach(), *torch.autograd.grad(batch, leaves, grad)]

    return Entry(name, both, list, bound)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_resize_batch(benchmark: Any, device: torch.device, case: Case) -> None:
    photographs = _photographs(case, device)
    size = [case.out_size, case.out_size]
    norm = {} if case.dtype == "float32" else {"mean": MEAN, "std": STD}

    def ours(images: list[Tensor]) -> Tensor:
        # As if no size had been seen before.
        TABLES.clear()
        return resize_batch(images, size, interpolation=case.interpolation, **norm)

    def torchvision(batch: Tensor) -> Tensor:
        return F.resize(batch, size, interpolation=InterpolationMode(case.interpolation), antialias=True)

    def one_by_one(images: list[Tensor]) -> Tensor:
        return _normalised(torch.stack([torchvision(photograph) for photograph in images]))

    def grouped(images: list[Tensor]) -> Tensor:
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for index, photograph in enumerate(images):
            groups[photograph.shape].append(index)
        found: list[Any] = [None] * len(images)
        for indices in groups.values():
            batch = torchvision(torch.stack([images[index] for index in indices]))
            for index, resized in zip(indices, batch, strict=True):
                found[index] = resized
        return _normalised(torch.stack(found))

    named = (("torchvision v2, one by one", one_by_one), ("torchvision v2, by shape", grouped))
    peers: list[Entry | Skipped] = [_entry(case, name, photographs, run) for name, run in named]
    if case.interpolation == "lanczos" and torch.__version__ < "2.14":
        peers = [Skipped(name, "torch has no Lanczos") for name, _ in named]
    race(benchmark, case, _entry(case, OURS, photographs, ours), peers, device=device, rounds=ROUNDS)
