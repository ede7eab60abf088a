"""The native stem on the host: values and gradients, strides, edges, few blocks, both slopes, shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import device, stem
from learned_resizer_cuda.kernels.arguments import memory_refusal
from tests.helpers import native_host
from tests.helpers.arithmetic import ARITHMETICS, BOUND, OPS, Draw, close, double, tf32_flag  # noqa: F401
from tests.helpers.native_host import launch, native_on_host

# The bounds are those of tests/helpers/arithmetic.py and have its reasons: one rounding of operands and results for the
# 16-bit types and tf32, a sum of some hundred float32 terms for float32.
GRADS = "dx dw0 db0 dw1 db1"


def _weights(draw: Draw, n: int, channels: int) -> list[Tensor]:
    return [draw.weight(n, channels, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]


STEMS = [
    # filters, channels, image, output, interpolation, antialias, channels_last
    (16, 3, (15, 21), (7, 11), "bilinear", True, False),
    (16, 1, (9, 7), (13, 17), "bicubic", True, True),
    (32, 4, (9, 11), (4, 18), "lanczos", True, True),
    (16, 3, (19, 11), (5, 4), "lanczos", False, False),
    (32, 3, (1, 24), (3, 9), "bilinear", False, True),
]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n, channels, size, out, interpolation, antialias, last", STEMS)
def test_stem(
    arithmetic: str,
    n: int,
    channels: int,
    size: tuple[int, int],
    out: tuple[int, int],
    interpolation: str,
    antialias: bool,
    last: bool,
) -> None:
    draw = Draw(arithmetic)
    image = draw.features(2, channels, *size)
    if not last:
        image = image.contiguous(memory_format=torch.contiguous_format)
    weights = [draw.weight(n, channels, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]
    # A sum that changes its sign by rounding changes its slope: what 16 bits do to a gradient at 0.1 has nothing to do
    # with the kernel (csrc/tests/test_stem_backward.cpp holds it against a formula that rounds at the same places).
    slope = 0.1 if arithmetic == "float32" else 0.97
    args = [image, *weights, *out, interpolation, antialias, slope, True]
    exact = OPS.stem(*double(args))
    with native_on_host():
        got = launch("stem", *args)
        assert got[0].is_contiguous(memory_format=torch.channels_last) and got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "z mean var")
        close(launch("stem", *args[:-1], False)[:1], exact[:1], BOUND[arithmetic], "z")
        grads = [draw.features(2, n, *out), draw.vector(n), draw.vector(n)]
        rest = [image, *weights, got[1], *args[5:], True]
        exact_grads = OPS.stem_backward(*double(grads), *double(rest))
        found = launch("stem_backward", *grads, *rest)
        assert found[0].stride() == image.stride()
        close(found, exact_grads, BOUND[arithmetic], "dx dw0 db0 dw1 db1")


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("last", [False, True])
def test_stem_of_uint8_images(arithmetic: str, last: bool) -> None:
    """Converted as they load; the features have the dtype of the weights."""
    draw = Draw(arithmetic)
    image = torch.randint(0, 256, (2, 3, 13, 18), dtype=torch.uint8)
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    weights = [draw.weight(16, 3, 7, 7), draw.vector(16), draw.weight(16, 16, 1, 1), draw.vector(16)]
    weights = [w.to(draw.dtype) for w in weights]
    normalisation = [torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])]
    args = [image, *weights, 7, 9, "bilinear", True, 0.97, True]
    exact = OPS.stem(image, *double(args[1:]), *double(normalisation))
    with native_on_host():
        got = launch("stem", *args, *normalisation)
        assert got[0].dtype == draw.dtype
        close(got, exact, BOUND[arithmetic], "z mean var")
        grads = [draw.features(2, 16, 7, 9), draw.vector(16), draw.vector(16)]
        rest = [*weights, got[1], *args[5:], False, *normalisation]
        found = launch("stem_backward", *grads, image, *rest)
        exact_grads = OPS.stem_backward(*double(grads), image, *double(rest))
        close(found[1:], exact_grads[1:], BOUND[arithmetic], "dw0 db0 dw1 db1")


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
        got = launch("stem", *args)
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
        got = launch("stem", *args)
        # One pixel has no variance, and no relative error either.
        close(got[:2], exact[:2], BOUND[arithmetic], "z mean")
        if image.shape[2:].numel() > 1:
            close(got[2:], exact[2:], BOUND[arithmetic], "var")
        grads = [draw.features(1, n, *out), draw.vector(n), draw.vector(n)]
        rest = [image, *args[1:5], exact[1].float(), *args[5:], True]
        close(
            launch("stem_backward", *grads, *rest),
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
        close(launch("stem_backward", *grads, *rest), exact, BOUND[arithmetic], GRADS)


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
            found.append((launch("stem", *args), launch("stem_backward", *grads, *rest)))
    stem._plan.cache_clear()
    (many, many_grads), (one, one_grads) = found
    assert torch.equal(many[0], one[0])
    assert torch.equal(many_grads[0], one_grads[0])
    # Sums of float32, grouped differently.
    close(one[1:], [t.double() for t in many[1:]], 1e-5, "mean var")
    close(one_grads[1:], [t.double() for t in many_grads[1:]], 1e-5, "dw0 db0 dw1 db1")


def test_an_empty_batch_launches_nothing() -> None:
    draw = Draw("float32")
    image = draw.features(0, 3, 8, 9)
    args = [image, *_weights(draw, 16, 3), 4, 5, "bilinear", True, 0.2, True]
    with native_on_host():
        z, mean, var = launch("stem", *args)
        assert z.shape == (0, 16, 4, 5) and not mean.any() and not var.any()
        grads = [z, mean, var, *args[:5], mean, *args[5:], True]
        assert [g.shape for g in launch("stem_backward", *grads)] == [t.shape for t in args[:5]]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("n", [16, 32])
def test_stem_backward_fits_every_gpu(arithmetic: str, n: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide image: with fewer warps where a block may have less shared memory, or a reason why not at all."""
    limit = {"sm_80": 163, "sm_90": 227, "sm_120": 99}[name] * 1024  # CUDA C++ Programming Guide, compute capabilities
    draw = Draw(arithmetic)
    with native_on_host():
        monkeypatch.setattr(device, "shared_memory", lambda gpu: limit)
        memory_refusal.cache_clear()
        refused = memory_refusal("stem", arithmetic, n, torch.device("cpu"))
        memory_refusal.cache_clear()
        # 32 filters of 32 bits need more than 99 KiB; everything else has to run everywhere.
        assert (refused is not None) == (n == 32 and name == "sm_120" and "32" in arithmetic), refused
        if refused is not None:
            assert "needs" in refused and "this GPU has 99 KiB" in refused
            return
        image = draw.features(1, 3, 2, 130)
        weights = [draw.weight(n, 3, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]
        sampling = (1, 65, "bilinear", True, 0.97)
        grads = [draw.features(1, n, 1, 65), draw.vector(0), draw.vector(0)]
        rest = [image, *weights, draw.vector(0), *sampling, False, True]
        exact = OPS.stem_backward(*double(grads), *double(rest))
        close(launch("stem_backward", *grads, *rest), exact, BOUND[arithmetic], "dx dw0 db0 dw1 db1")
