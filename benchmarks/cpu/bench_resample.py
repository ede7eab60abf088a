"""`resize` against PyTorch, torchvision, Pillow and kornia."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.peers import contestants
from benchmarks.race import race

FILTERS = ("bilinear", "bicubic", "lanczos")
ROUNDS = 20


def cases() -> Iterator[Case]:
    """All cases: layouts, dtypes, sizes, with and without antialiasing."""
    both = ("forward", "forward+backward")
    groups = (
        ("float32", "NCHW", True, both, (8, 448, 224), FILTERS),
        ("float32", "channels_last", True, both, (8, 448, 224), FILTERS),
        ("uint8", "NCHW", True, ("forward",), (8, 448, 224), FILTERS),
        ("uint8", "channels_last", True, ("forward",), (8, 448, 224), FILTERS),
        ("bfloat16", "NCHW", True, ("forward",), (8, 448, 224), FILTERS),
        ("float32", "NCHW", True, ("forward",), (1, 2048, 224), FILTERS),
        ("float32", "NCHW", True, ("forward+backward",), (8, 224, 448), FILTERS),
        # Other libraries have no lanczos without antialiasing.
        ("float32", "NCHW", False, both, (8, 448, 224), FILTERS[:2]),
    )
    for dtype, layout, antialias, directions, sizes, filters in groups:
        for direction in directions:
            for interpolation in filters:
                yield Case("resize", direction, interpolation, antialias, dtype, layout, *sizes)


def _id(case: Case) -> str:
    return "-".join(str(value) for value in astuple(case))


@pytest.mark.parametrize("case", list(cases()), ids=_id)
def test_resize(benchmark: Any, device: torch.device, case: Case) -> None:
    ours, peers = contestants(case, device)
    race(benchmark, case, ours, peers, device=device, rounds=ROUNDS)
