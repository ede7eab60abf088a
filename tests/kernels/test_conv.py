"""The native ``conv`` on the host: values and gradients, edges of its tiles, layouts, slopes, number of blocks."""

from __future__ import annotations

import pytest
import torch

from tests.helpers import native_host
from tests.helpers.arithmetic import ARITHMETICS, BOUND, OPS, PROLOGUE, Draw, close, double, tf32_flag  # noqa: F401
from tests.helpers.native_host import launch, native_on_host

# One pixel; one beyond a tile of 32 columns and of 16 or 32 rows; exactly a tile; a column.
SIZES = [(1, 1), (17, 33), (32, 32), (35, 1)]
# No activation; none of the negative half; a slope beyond 1, whose wrong side is far off.
SLOPES = [1.0, 0.0, 3.0]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n, skip, statistics", [(16, True, True), (16, False, False), (32, True, True)])
def test_conv(arithmetic: str, n: int, skip: bool, statistics: bool) -> None:
    draw = Draw(arithmetic)
    shape = (2, n, 7, 35)
    args = [*draw.prologue(shape, skip, 0.1), draw.weight(n, n, 3, 3), statistics]
    exact = OPS.conv(*double(args))
    with native_on_host():
        got = launch("conv", *args)
        assert got[0].is_contiguous(memory_format=torch.channels_last) and got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "raw mean var")
        grads = [draw.features(*shape), draw.vector(n), draw.vector(n), got[0], got[1]]
        exact_grads = OPS.conv_backward(*double(grads), *double(args))
        close(launch("conv_backward", *grads, *args), exact_grads, BOUND[arithmetic], f"{PROLOGUE} dweight")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_conv_at_the_edges_of_its_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    shape = (1, n, *size)
    args = [*draw.prologue(shape, True, 0.1), draw.weight(n, n, 3, 3), True]
    exact = OPS.conv(*double(args))
    with native_on_host():
        got = launch("conv", *args)
        # One pixel has no variance, and no relative error either.
        names = "raw mean var" if shape[2:] != (1, 1) else "raw mean"
        close(got[: len(names.split())], exact[: len(names.split())], BOUND[arithmetic], names)
        grads = [draw.features(*shape), draw.vector(n), draw.vector(n), got[0], got[1]]
        want = OPS.conv_backward(*double(grads), *double(args))
        close(launch("conv_backward", *grads, *args), want, BOUND[arithmetic], f"{PROLOGUE} dweight")


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("skip", [False, True])
def test_slopes_and_planes(slope: float, skip: bool) -> None:
    """Every slope, on features that are not channels_last: the launchers copy those."""
    draw = Draw("float32")
    prologue = [t.contiguous() if isinstance(t, torch.Tensor) else t for t in draw.prologue((2, 16, 5, 6), skip, slope)]
    grad, raw = (draw.features(2, 16, 5, 6).contiguous() for _ in range(2))
    grads = [grad, draw.vector(16), draw.vector(16), raw, draw.vector(16)]
    args = [*prologue, draw.weight(16, 16, 3, 3), True]
    with native_on_host():
        close(launch("conv", *args), OPS.conv(*double(args)), BOUND["float32"], "raw mean var")
        want = OPS.conv_backward(*double(grads), *double(args))
        close(launch("conv_backward", *grads, *args), want, BOUND["float32"], f"{PROLOGUE} dweight")


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor two blocks take all tiles, and add them up themselves."""
    draw = Draw("bfloat16")
    shape = (3, n, 10, 34)
    args = [*draw.prologue(shape, True, 0.1), draw.weight(n, n, 3, 3), True]
    grads = [draw.features(*shape), draw.vector(n), draw.vector(n), draw.features(*shape), draw.vector(n)]
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        with native_on_host():
            found.append([launch("conv", *args), launch("conv_backward", *grads, *args)])
    for many, one in zip(*found, strict=True):
        for a, b in zip(many, one, strict=True):
            if a.ndim == 4 and a.shape == shape:
                assert torch.equal(a, b)
            else:
                # Sums of float32, grouped differently.
                close([b], [a.double()], 1e-5, "sums")
