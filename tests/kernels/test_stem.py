"""The stem's kernels on the host: strides, edges, few blocks and both slopes, beside tests/kernels/test_native.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_kernels_native import BOUND, OPS, Draw, close, double
from torch import Tensor

from learned_resizer_cuda.kernels import stem
from tests.helpers import native_host
from tests.helpers.native_host import native_on_host

# The bounds, and why they are these, are those of test_kernels_native.py: one rounding of operands and results for the
# 16-bit types and tf32, a sum of some hundred float32 terms for float32.
GRADS = "dx dw0 db0 dw1 db1"


@pytest.fixture(autouse=True)
def _flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flag as the test's arithmetic asks for it."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", parameters.get("arithmetic") == "tf32")


def _weights(draw: Draw, n: int, channels: int) -> list[Tensor]:
    return [draw.weight(n, channels, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "crop": lambda x: x[:, :, 2:13, 3:22],
    "every second": lambda x: x[:, :, ::2, 1::2],
    "transposed": lambda x: x.transpose(2, 3),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "crop of channels_last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:, 2:13, 3:22],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
def test_images_of_any_strides_are_read_in_place(arithmetic: str, view: str) -> None:
    draw = Draw(arithmetic)
    image = VIEWS[view](draw.features(2, 4, 17, 25).contiguous())
    args = [image, *_weights(draw, 16, image.shape[1]), 7, 9, "bicubic", True, 0.1, True]
    exact = OPS.stem(*double(args))
    with native_on_host():
        got = stem.stem(*args)
    close(got, exact, BOUND[arithmetic], "z mean var")


EDGES = [
    # One pixel, up and not; a row, a column; columns of one output beyond a block; tiles; what no output reads.
    ((1, 1), (1, 1), "bilinear", True),
    ((1, 1), (3, 4), "bicubic", True),
    ((1, 400), (1, 2), "bilinear", True),
    ((2, 150), (3, 70), "lanczos", True),
    ((31, 1), (9, 1), "lanczos", True),
    ((12, 17), (2, 3), "bilinear", False),
    ((4, 32), (4, 32), "bicubic", False),
]


@pytest.mark.parametrize("size, out, interpolation, antialias", EDGES)
@pytest.mark.parametrize("arithmetic, n", [("float16", 16), ("float32", 32)])
def test_edges(
    arithmetic: str, n: int, size: tuple[int, int], out: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    draw = Draw(arithmetic)
    image = draw.features(1, 3, *size)
    args = [image, *_weights(draw, n, 3), *out, interpolation, antialias, 1.0, True]
    exact = OPS.stem(*double(args))
    with native_on_host():
        got = stem.stem(*args)
        # One pixel has no variance, and no relative error either.
        close(got[:2], exact[:2], BOUND[arithmetic], "z mean")
        if image.shape[2:].numel() > 1:
            close(got[2:], exact[2:], BOUND[arithmetic], "var")
        grads = [draw.features(1, n, *out), draw.vector(n), draw.vector(n)]
        rest = [image, *args[1:5], exact[1].float(), *args[5:], True]
        close(
            stem.stem_backward(*grads, *rest),
            OPS.stem_backward(*double(grads), *double(rest)),
            BOUND[arithmetic],
            GRADS,
        )


@pytest.mark.parametrize("arithmetic", BOUND)
@pytest.mark.parametrize(
    "statistics, image_grad, last", [(True, True, False), (False, True, True), (True, False, True)]
)
def test_gradients_of_both_slopes(arithmetic: str, statistics: bool, image_grad: bool, last: bool) -> None:
    """Half of the channels of a and c are positive everywhere and half negative.

    A sum near zero may change its sign by a rounding, and its slope with it; here none is near, so that the slope can
    be far from 1 in every arithmetic.
    """
    draw = Draw(arithmetic)
    n, out = 16, (6, 9)
    image = draw.features(2, 3, 11, 19)
    sign = torch.tensor([1.0, -1.0]).repeat(n // 2)
    w0, _, w1, _ = _weights(draw, n, 3)
    weights = [w0, 6 * sign, w1, 16 * sign.flip(0)]
    grad_z = draw.features(2, n, *out)
    # The launcher makes the gradient channels_last itself.
    grads = [grad_z if last else grad_z.contiguous(), draw.vector(n), draw.vector(n)]
    mean = draw.vector(n) + 16 * sign.flip(0)
    rest: list[Any] = [image, *weights, mean, *out, "bicubic", True, 0.2, statistics, image_grad]
    exact = OPS.stem_backward(*double(grads), *double(rest))
    with native_on_host():
        close(stem.stem_backward(*grads, *rest), exact, BOUND[arithmetic], GRADS)


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor blocks take several images, and add them up themselves."""
    draw = Draw("bfloat16")
    image = draw.features(9, 3, 8, 9)
    args = [image, *_weights(draw, n, 3), 4, 5, "bilinear", True, 0.2, True]
    grads = [draw.features(9, n, 4, 5), draw.vector(n), draw.vector(n)]
    rest = [*args[:5], draw.vector(n), *args[5:], True]
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        stem._plan.cache_clear()
        with native_on_host():
            found.append((stem.stem(*args), stem.stem_backward(*grads, *rest)))
    stem._plan.cache_clear()
    (many, many_grads), (one, one_grads) = found
    assert torch.equal(many[0], one[0])
    assert torch.equal(many_grads[0], one_grads[0])
    # Sums of float32, grouped otherwise.
    close(one[1:], [t.double() for t in many[1:]], 1e-5, "mean var")
    close(one_grads[1:], [t.double() for t in many_grads[1:]], 1e-5, "dw0 db0 dw1 db1")


def test_an_empty_batch_launches_nothing() -> None:
    draw = Draw("float32")
    image = draw.features(0, 3, 8, 9)
    args = [image, *_weights(draw, 16, 3), 4, 5, "bilinear", True, 0.2, True]
    with native_on_host():
        z, mean, var = stem.stem(*args)
        assert z.shape == (0, 16, 4, 5) and not mean.any() and not var.any()
        grads = [z, mean, var, *args[:5], mean, *args[5:], True]
        assert [g.shape for g in stem.stem_backward(*grads)] == [t.shape for t in args[:5]]
