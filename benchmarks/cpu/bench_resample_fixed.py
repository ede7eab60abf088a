"""`resize(…, parity="pillow")` against Pillow, whose bytes it gives, PyTorch and torchvision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.peers import contestants
from benchmarks.race import race

ROUNDS = 20

# As an image decoder leaves them, and Pillow's own layout: interleaved channels.
_BYTES = (True, "uint8", "channels_last")
CASES = [Case("resample_fixed", "forward", name, *_BYTES, 8, 448, 224) for name in ("bilinear", "bicubic", "lanczos")]
CASES.append(Case("resample_fixed", "forward", "bilinear", *_BYTES, 1, 1200, 224, in_width=1600))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_resample_fixed(benchmark: Any, device: torch.device, case: Case) -> None:
    ours, peers = contestants(case, device)
    race(benchmark, case, ours, peers, device=device, rounds=ROUNDS)
