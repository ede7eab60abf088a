"""The stage ``stem`` on a CPU: its convolutions and statistics."""

from __future__ import annotations

import torch

from learned_resizer_cuda.ops.prologue import empty_features
from learned_resizer_cuda.ops.regions import regions
from learned_resizer_cuda.ops.stem import Stem, StemOptions, StemWeights, stem
from tests.helpers.convolutions import DTYPES, Case, some, wrong


def test_convolutions_of_random_shapes() -> None:
    """oneDNN's code is right for these shapes, dtypes and layouts."""
    assert not wrong(some("stem"))


def test_weight_gradient_of_few_channels() -> None:
    """A matrix product's, from eight filters on."""
    shapes = [(dtype, channels, filters) for dtype in DTYPES for channels in (1, 2) for filters in (7, 8, 16)]
    cases = [Case("stem", dtype, 3, channels, filters, 33, 20) for dtype, channels, filters in shapes]
    assert not wrong(cases + [case._replace(tiles=True) for case in cases])


def test_statistics_keep_their_digits() -> None:
    # Mean 1e4 standard deviations from zero: the form Σc² - (Σc)²/M would return noise or a negative variance.
    torch.manual_seed(0)
    image = torch.rand(2, 3, 40, 40)
    w0, b0 = torch.zeros(2, 3, 7, 7), torch.full((2,), 1e3)
    w0[:, 0, 3, 3] = 1.0
    weights = StemWeights(w0, b0, torch.eye(2)[:, :, None, None], torch.zeros(2))
    options = StemOptions(20, 20, "bilinear", True, 0.2)
    z, statistics = empty_features(torch.empty(2, 2, 20, 20)), torch.empty(3, 2)
    stem(Stem([image], regions([(40, 40)], None, None), weights, options, torch.float32, None, None), z, statistics)
    mean, var, unbiased = statistics
    exact = image[:, 0].double() + 1e3
    # float32 stores 1000.x with a step of 6e-5, in a variance of 0.08.
    torch.testing.assert_close(mean.double(), exact.mean().expand(2), rtol=1e-6, atol=0)
    torch.testing.assert_close(var.double(), exact.var(correction=0).expand(2), rtol=1e-3, atol=0)
    torch.testing.assert_close(unbiased.double(), exact.var().expand(2), rtol=1e-3, atol=0)
