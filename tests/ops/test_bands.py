"""Band tables against the tests' own dense matrices, and their transposes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from learned_resizer_cuda.ops.band_matmul import is_identity
from learned_resizer_cuda.ops.bands import INTERPOLATIONS, get_bands
from tests.helpers import oracle

CASES = [(9, 4, None), (4, 9, None), (7, 7, None), (1, 5, None), (5, 1, None), (400, 2, None), (2, 400, None)]
CASES += [(9, 4, 0.5), (9, 5, 0.37), (9, 20, 1.5), (9, 30, 0.7), (50, 60, 0.013)]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize(("in_size", "out_size", "factor"), CASES)
def test_tables(interpolation: str, antialias: bool, in_size: int, out_size: int, factor: float | None) -> None:
    bands = get_bands(in_size, out_size, factor, interpolation, antialias, torch.float64)
    expected = oracle.matrix(in_size, out_size, factor, interpolation, antialias)
    # Weights are ratios of float64 sums of at most 2,400 terms.
    np.testing.assert_allclose(bands.dense().numpy(), expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(bands.dense().sum(1).numpy(), 1.0, rtol=0, atol=1e-13)
    transposed = bands.transposed()
    assert torch.equal(transposed.dense(), bands.dense().T)
    for table in (bands, transposed):
        count = table.offset.diff()
        assert (table.start.diff() >= 0).all()
        assert ((table.start + count).diff() >= 0).all()
        assert table.max_count == count.max()
    assert (bands.max_open, transposed.max_open) == (transposed.max_count, bands.max_count)


def test_tables_are_cached_by_device_and_dtype() -> None:
    table = get_bands(8, 3, None, "bicubic", True, torch.float32)
    assert get_bands(8, 3, None, "bicubic", True, torch.bfloat16) is table
    assert get_bands(8, 3, None, "bicubic", True, torch.float64) is not table
    assert table.transposed() is table.transposed()
    assert table.weight.dtype == torch.float32


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("antialias", [True, False])
def test_an_unchanged_axis_has_one_weight_a_row(interpolation: str, antialias: bool) -> None:
    for factor in (None, 1.0):
        table = get_bands(7, 7, factor, interpolation, antialias)
        assert torch.equal(table.dense(), torch.eye(7))
        assert table.max_count == table.max_open == 1
        assert is_identity(table) and is_identity(table.transposed())
    # Neither the size alone nor one weight a row makes a copy: another factor, and a border that repeats.
    assert not is_identity(get_bands(7, 7, 0.5, interpolation, antialias))
    assert not is_identity(get_bands(7, 5, None, interpolation, antialias))


def test_axis_too_long_is_named() -> None:
    with pytest.raises(ValueError, match=r"size: an axis of .* needs .* weights; expected at most"):
        get_bands(1, 2**31 + 5, None, "bilinear", True)
