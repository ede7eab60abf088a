"""Dense band matrices computed in the graph, against the oracle's loops."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from learned_resizer_cuda.ops.bands import INTERPOLATIONS, RESIZER_INTERPOLATIONS, get_bands
from learned_resizer_cuda.ops.dense import band_matrix
from tests.helpers import oracle


def _cases(count: int, longest: int = 160) -> list[tuple[int, int, float | None]]:
    """Random ``(in_size, out_size, factor)``: most of them small, where borders are; half with an explicit factor."""
    draw = random.Random(0)
    cases: list[tuple[int, int, float | None]] = []
    for _ in range(count):
        in_size, out_size = (draw.randint(1, draw.choice((8, 40, longest))) for _ in range(2))
        factor = draw.choice((out_size / in_size, draw.uniform(0.05, 4), (out_size + draw.random()) / in_size))
        cases.append((in_size, out_size, draw.choice((None, factor))))
    return cases


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_is_the_oracles(dtype: torch.dtype, interpolation: str, antialias: bool) -> None:
    # The matrices are made in the dtype where no factor is given: about 10 roundings of 2^-24 or 2^-53 of each weight.
    # The oracle's own coordinates, up to 4·160 with a rounding of 2^-53 each, times the filter's slope (up to 2), in
    # windows of a few weights: 1e-12. Rows of a window beyond the image, whose weights nearly cancel, are divided by
    # their sum: the gain (sum of absolute weights) says by how much all of that grows.
    tolerance = 4e-6 if dtype == torch.float32 else 1e-12
    for in_size, out_size, factor in _cases(300 if interpolation in RESIZER_INTERPOLATIONS else 100):
        expected = oracle.matrix(in_size, out_size, factor, interpolation, antialias)
        got = band_matrix(in_size, out_size, factor, interpolation, antialias, dtype, torch.device("cpu"))
        assert (got.shape, got.dtype) == (expected.shape, dtype)
        error = np.abs(got.double().numpy() - expected).sum(1)
        gain = np.abs(expected).sum(1)
        assert (error <= tolerance * gain).all(), (in_size, out_size, factor, error.max())


@pytest.mark.parametrize("count", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_edges_are_the_tables(count: int) -> None:
    """Box and nearest, where the last bit of a coordinate decides: the same pixels in both dtypes."""
    for in_size, out_size, factor in _cases(count, 600):
        for interpolation in ("nearest", "box"):
            expected = get_bands(in_size, out_size, factor, interpolation, True, torch.float64).dense()
            for dtype in (torch.float64, torch.float32):
                got = band_matrix(in_size, out_size, factor, interpolation, True, dtype, torch.device("cpu"))
                assert torch.equal(got != 0, expected != 0), (interpolation, in_size, out_size, factor)
                # 1 over the number of pixels, rounded once.
                assert torch.equal(got, expected.to(dtype)), (interpolation, in_size, out_size, factor)


@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_large_sizes_keep_float32s_digits(interpolation: str) -> None:
    """Coordinates are ratios of integers that float32 alone could not hold; their differences are small."""
    wide, narrow = (
        band_matrix(4093, 2500, None, interpolation, True, dtype, torch.device("cpu"))
        for dtype in (torch.float64, torch.float32)
    )
    # As above, in windows of up to 10 weights.
    assert float((narrow.double() - wide).abs().sum(1).max()) <= 4e-6
