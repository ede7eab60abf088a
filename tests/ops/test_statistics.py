"""Statistics of feature maps, and the gradients that lose their digits first when the statistics lose theirs."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from learned_resizer_cuda import FusedResizer, reference
from learned_resizer_cuda.ops.statistics import Statistics

CASES = [((2, 3, 150, 170), (4, 5)), ((2, 3, 300, 260), (6, 6)), ((4, 3, 96, 96), (3, 3))]
# Of 60 seeds a case, those whose gradients were wrong by 7.9e-2, 4.7e-2 and 1.3e-2 with torch's channels_last
# statistics, and some neighbours.
SEEDS = [(0, 46), (0, 47), (1, 49), (1, 50), (2, 25), (2, 26), (2, 27)]


@pytest.mark.parametrize("shape", [(1, 16, 448, 73), (2, 16, 448, 36), (8, 16, 64, 64), (3, 5, 7, 3), (1, 2, 1, 1)])
@pytest.mark.parametrize("spread", [0.3, 1e-2])
def test_mean_and_variance(shape: tuple[int, ...], spread: float) -> None:
    torch.manual_seed(0)
    features = (torch.rand(shape) * spread + 1.7).contiguous(memory_format=torch.channels_last)
    statistics = Statistics(shape[1], features.device)
    statistics.add(features)
    exact = features.double()
    mean, var = exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)
    # The differences from the mean are float32's exact ones; their sum rounds in pairs, some 2^-24 of its terms.
    assert ((statistics.mean - mean).abs() <= 1e-7 * var.sqrt()).all()
    # Each difference is rounded once more where the mean is (2^-24 of 1.7, of a spread of 1e-2: 2e-5); squares and
    # sums add some 2^-24.
    assert ((statistics.m2 / statistics.count - var).abs() <= 1e-6 * var + 2 * 2**-24 * 1.7 * 1e-2 * spread).all()


def _gradients(module: nn.Module, image: Tensor, grad: Tensor) -> dict[str, Tensor]:
    image = image.clone().requires_grad_()
    module(image).backward(grad)
    assert image.grad is not None
    return {"image": image.grad.double()} | {name: p.grad.double() for name, p in module.named_parameters()}


def _error(got: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest error of a gradient against its norm; one that vanishes beside the others counts against theirs."""
    largest = max(float(g.norm()) for g in exact.values())
    return max(float((got[name] - g).norm()) / (float(g.norm()) + 1e-3 * largest) for name, g in exact.items())


def _errors(case: int, seed: int) -> tuple[float, float]:
    """Errors of FusedResizer's and of the composition's float32 gradients in training, against float64."""
    shape, size = CASES[case]
    torch.manual_seed(seed)
    image, grad = torch.rand(shape), torch.randn(*shape[:2], *size)
    fused, composed = FusedResizer(size), reference.Resizer(size)
    composed.load_state_dict(fused.state_dict())
    exact = _gradients(deepcopy(composed).double(), image.double(), grad.double())
    return _error(_gradients(fused, image, grad), exact), _error(_gradients(composed, image, grad), exact)


@pytest.mark.parametrize(("case", "seed"), SEEDS)
def test_gradients_at_strong_shrinking(case: int, seed: int) -> None:
    """No worse than the composition's: shrinking by 30 or 50 leaves few values, so one slope that flips shows."""
    fused, composed = _errors(case, seed)
    # docs/math.md, 2.3: what feeds a LeakyReLU is off by 1e-5 of its spread; no value of these seeds is that near to 0;
    # beside that the two differ by rounding.
    assert fused <= 1.5 * composed + 1e-4


@pytest.mark.slow
def test_gradients_at_strong_shrinking_over_many_seeds() -> None:
    errors = [_errors(case, seed) for case in range(len(CASES)) for seed in range(60)]
    worse = [pair for pair in errors if pair[0] > 1.5 * pair[1] + 1e-4]
    # docs/math.md, 2.3, expects 0.6 flipped slopes in all these modules together, on any processor; more than five
    # have a chance of 1e-4.
    assert len(worse) <= 5, worse
