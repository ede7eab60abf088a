"""Conv and head on the host: edges of the tiles, layouts, slopes, few blocks, beside tests/kernels/test_native.py."""

from __future__ import annotations

import pytest
import torch
from test_kernels_native import BOUND, OPS, PROLOGUE, Draw, close, double

from learned_resizer_cuda.kernels import conv, head
from tests.helpers import native_host
from tests.helpers.native_host import native_on_host

# The bounds, and why they are these, are those of test_kernels_native.py.

# One pixel; one beyond a tile of 32 columns and of 16 or 32 rows; exactly a tile; a column.
SIZES = [(1, 1), (17, 33), (32, 32), (35, 1)]
# No activation; none of the negative half; a slope beyond 1, whose wrong side is far off.
SLOPES = [1.0, 0.0, 3.0]


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_conv_at_the_edges_of_its_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    shape = (1, n, *size)
    args = [*draw.prologue(shape, True, 0.1), draw.weight(n, n, 3, 3), True]
    exact = OPS.conv(*double(args))
    with native_on_host():
        got = conv.conv(*args)
        # One pixel has no variance, and no relative error either.
        names = "raw mean var" if shape[2:] != (1, 1) else "raw mean"
        close(got[: len(names.split())], exact[: len(names.split())], BOUND[arithmetic], names)
        grads = [draw.features(*shape), draw.vector(n), draw.vector(n), got[0], got[1]]
        want = OPS.conv_backward(*double(grads), *double(args))
        close(conv.conv_backward(*grads, *args), want, BOUND[arithmetic], f"{PROLOGUE} dweight")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_head_at_the_edges_of_its_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    args = [*draw.prologue((1, n, *size), True, 0.1), draw.weight(3, n, 7, 7)]
    bias, base, grad = draw.vector(3), draw.features(1, 3, *size), draw.features(1, 3, *size)
    with native_on_host():
        close([head.head(*args, bias, base)], [OPS.head(*double([*args, bias, base]))], BOUND[arithmetic], "out")
        want = OPS.head_backward(*double([grad, *args]))
        close(head.head_backward(grad, *args), want, BOUND[arithmetic], f"{PROLOGUE} dweight dbias")


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
        close(conv.conv(*args), OPS.conv(*double(args)), BOUND["float32"], "raw mean var")
        want = OPS.conv_backward(*double(grads), *double(args))
        close(conv.conv_backward(*grads, *args), want, BOUND["float32"], f"{PROLOGUE} dweight")
        last = [draw.features(2, 2, 5, 6), *prologue, draw.weight(2, 16, 7, 7)]
        close(
            head.head_backward(*last), OPS.head_backward(*double(last)), BOUND["float32"], f"{PROLOGUE} dweight dbias"
        )


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor two blocks take all tiles, and add them up themselves."""
    draw = Draw("bfloat16")
    shape = (3, n, 10, 34)
    prologue = draw.prologue(shape, True, 0.1)
    args = [*prologue, draw.weight(n, n, 3, 3), True]
    grads = [draw.features(*shape), draw.vector(n), draw.vector(n), draw.features(*shape), draw.vector(n)]
    last = [draw.features(3, 3, 10, 34), *prologue, draw.weight(3, n, 7, 7)]
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        with native_on_host():
            found.append([conv.conv(*args), conv.conv_backward(*grads, *args), head.head_backward(*last)])
    for many, one in zip(*found, strict=True):
        for a, b in zip(many, one, strict=True):
            if a.ndim == 4 and a.shape == shape:
                assert torch.equal(a, b)
            else:
                # Sums of float32, grouped otherwise.
                close([b], [a.double()], 1e-5, "sums")
