"""The native ``head`` on the host: values and gradients, edges of its tiles, layouts, slopes, number of blocks."""

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
@pytest.mark.parametrize("n, channels, skip, wide", [(16, 3, True, True), (16, 1, False, False), (32, 4, True, False)])
def test_head(arithmetic: str, n: int, channels: int, skip: bool, wide: bool) -> None:
    draw = Draw(arithmetic)
    shape = (2, n, 9, 35)
    weight, bias = draw.weight(channels, n, 7, 7), draw.vector(channels)
    base, grad = (draw.features(2, channels, 9, 35) for _ in range(2))
    if wide:
        # NCHW, and a row of a larger image: any strides.
        base = torch.randn(2, channels, 9, 40)[..., 3:38]
        grad = torch.randn(2, channels, 9, 35)
    args = [*draw.prologue(shape, skip, 0.1), weight]
    with native_on_host():
        out = launch("head", *args, bias, base)
        assert out.dtype == base.dtype and out.stride() == torch.empty_like(base).stride()
        close([out], [OPS.head(*double([*args, bias, base]))], BOUND[arithmetic], "out")
        exact = OPS.head_backward(*double([grad, *args]))
        close(launch("head_backward", grad, *args), exact, BOUND[arithmetic], f"{PROLOGUE} dweight dbias")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_head_at_the_edges_of_its_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    args = [*draw.prologue((1, n, *size), True, 0.1), draw.weight(3, n, 7, 7)]
    bias, base, grad = draw.vector(3), draw.features(1, 3, *size), draw.features(1, 3, *size)
    with native_on_host():
        close([launch("head", *args, bias, base)], [OPS.head(*double([*args, bias, base]))], BOUND[arithmetic], "out")
        want = OPS.head_backward(*double([grad, *args]))
        close(launch("head_backward", grad, *args), want, BOUND[arithmetic], f"{PROLOGUE} dweight dbias")


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("skip", [False, True])
def test_slopes_and_planes(slope: float, skip: bool) -> None:
    """Every slope, on features that are not channels_last: the launchers copy those."""
    draw = Draw("float32")
    prologue = [t.contiguous() if isinstance(t, torch.Tensor) else t for t in draw.prologue((2, 16, 5, 6), skip, slope)]
    last = [draw.features(2, 2, 5, 6), *prologue, draw.weight(2, 16, 7, 7)]
    with native_on_host():
        want = OPS.head_backward(*double(last))
        close(launch("head_backward", *last), want, BOUND["float32"], f"{PROLOGUE} dweight dbias")


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor two blocks take all tiles, and add them up themselves."""
    draw = Draw("bfloat16")
    shape = (3, n, 10, 34)
    last = [draw.features(3, 3, 10, 34), *draw.prologue(shape, True, 0.1), draw.weight(3, n, 7, 7)]
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        with native_on_host():
            found.append(launch("head_backward", *last))
    for a, b in zip(*found, strict=True):
        if a.ndim == 4 and a.shape == shape:
            assert torch.equal(a, b)
        else:
            # Sums of float32, grouped differently.
            close([b], [a.double()], 1e-5, "sums")
