"""The native ``head`` on the host against the stage in pure torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import head as native
from learned_resizer_cuda.kernels.arguments import memory_refusal
from learned_resizer_cuda.ops import head as pure
from learned_resizer_cuda.ops.head import Head, HeadBackward
from tests.helpers import native_host
from tests.helpers.arithmetic import ARITHMETICS, MIXED, Draw, close, double, named, padded, tf32_flag  # noqa: F401
from tests.helpers.calls import Calls
from tests.helpers.native_host import native_on_host

# One pixel; one beyond a tile of 32 columns and of 16 or 32 rows; exactly a tile; a column.
SIZES = [(1, 1), (17, 33), (32, 32), (35, 1)]
# No activation; none of the negative half; a slope beyond 1, whose wrong side is far off.
SLOPES = [1.0, 0.0, 3.0]


def backward(a: HeadBackward) -> dict[str, Tensor]:
    """Of the native stage, its features padded."""
    given = a._replace(prologue=padded(a.prologue), skip_grad=padded(a.skip_grad))
    grads, weight, bias = native.head_backward(given)
    if given.skip_grad is not None:
        assert grads.skip is not None and grads.skip.raw.data_ptr() == given.skip_grad.raw.data_ptr()
    assert weight.dtype == a.weight.dtype and weight.stride() == a.weight.stride() and bias.dtype == a.bias.dtype
    return named(grads, a.weight.shape[1], dweight=weight, dbias=bias)


def check_forward(a: Head, bound: float) -> None:
    out = native.head(a._replace(prologue=padded(a.prologue)))
    assert out.dtype == a.base.dtype and out.stride() == torch.empty_like(a.base).stride()
    close([out], [pure.head(double(a))], bound, "out")


def check_backward(a: HeadBackward, bound: float) -> None:
    grads, weight, bias = pure.head_backward(double(a))
    close(backward(a), named(grads, a.weight.shape[1], dweight=weight, dbias=bias), bound)


def check(draw: Draw, a: Head, grad: Tensor, earlier: bool) -> None:
    """Forward and backward."""
    skip_grad = draw.feature_grad(a.prologue.input.shape) if earlier else None
    with native_on_host():
        check_forward(a, draw.bound)
        check_backward(HeadBackward(grad, a.prologue, a.weight, a.bias, skip_grad), draw.bound)


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n, channels, skip, wide", [(16, 3, True, True), (16, 1, False, False), (32, 4, True, False)])
def test_head(arithmetic: str, n: int, channels: int, skip: bool, wide: bool) -> None:
    draw = Draw(arithmetic)
    base, grad = (draw.features(2, channels, 9, 35) for _ in range(2))
    if wide:
        # NCHW, and a row of a larger image: any strides.
        base = torch.randn(2, channels, 9, 40)[..., 3:38]
        grad = torch.randn(2, channels, 9, 35)
    weight, bias = draw.weight(channels, n, 7, 7), draw.parameter(channels)
    check(draw, Head(draw.prologue((2, n, 9, 35), skip, 0.1), weight, bias, base), grad, skip)


@pytest.mark.parametrize("arithmetic, parameters, filters", MIXED)
def test_filters_and_parameters(arithmetic: str, parameters: str, filters: int) -> None:
    """Any number of filters; weights of any dtype, channels_last."""
    draw = Draw(arithmetic, parameters)
    weight = draw.weight(3, filters, 7, 7).contiguous(memory_format=torch.channels_last)
    prologue = draw.prologue((2, filters, 17, 20), True, 0.1)
    grad = draw.features(2, 3, 17, 20)
    check(draw, Head(prologue, weight, draw.parameter(3), draw.features(2, 3, 17, 20)), grad, True)


@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
@pytest.mark.parametrize("filters", [5, 16])
def test_no_norm(arithmetic: str, filters: int) -> None:
    draw = Draw(arithmetic)
    prologue = draw.prologue((2, filters, 17, 20), False, 0.1, norm=False)
    a = Head(prologue, draw.weight(3, filters, 7, 7), draw.parameter(3), draw.features(2, 3, 17, 20))
    check(draw, a, draw.features(2, 3, 17, 20), False)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_edges_of_the_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    prologue = draw.prologue((1, n, *size), True, 0.1)
    a = Head(prologue, draw.weight(3, n, 7, 7), draw.parameter(3), draw.features(1, 3, *size))
    check(draw, a, draw.features(1, 3, *size), False)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("skip", [False, True])
def test_slopes(slope: float, skip: bool) -> None:
    draw = Draw("float32")
    prologue = draw.prologue((2, 16, 5, 6), skip, slope)
    a = Head(prologue, draw.weight(2, 16, 7, 7), draw.parameter(2), draw.features(2, 2, 5, 6))
    check(draw, a, draw.features(2, 2, 5, 6), False)


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor two blocks take all tiles, and add them up themselves."""
    draw = Draw("bfloat16")
    shape = (3, n, 10, 34)
    prologue = draw.prologue(shape, True, 0.1)
    weight, bias = draw.weight(3, n, 7, 7), draw.parameter(3)
    a = HeadBackward(draw.features(3, 3, 10, 34), prologue, weight, bias, draw.feature_grad(shape))
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        with native_on_host():
            found.append(backward(a))
    many, one = found
    for name in ("dinput", "dskip"):
        assert torch.equal(many.pop(name), one.pop(name))
    # Sums of float32, grouped differently.
    close(one, {name: tensor.double() for name, tensor in many.items()}, 1e-5)


def test_an_image_of_another_dtype_is_named() -> None:
    draw = Draw("bfloat16")
    prologue, image = draw.prologue((1, 16, 5, 6), False, 1.0), torch.zeros(1, 3, 5, 6, dtype=torch.float16)
    weight, bias = draw.weight(3, 16, 7, 7), draw.parameter(3)
    with native_on_host():
        with pytest.raises(TypeError, match=r"base: got torch.float16; expected torch.bfloat16"):
            native.head(Head(prologue, weight, bias, image))
        with pytest.raises(TypeError, match=r"grad: got torch.float16; expected torch.bfloat16"):
            native.head_backward(HeadBackward(image, prologue, weight, bias, None))


def test_launches_no_kernels_of_torch() -> None:
    draw = Draw("bfloat16", "bfloat16")
    prologue, weight, bias = draw.prologue((2, 16, 5, 6), True, 0.1), draw.weight(3, 16, 7, 7), draw.parameter(3)
    base, skip_grad = torch.zeros(2, 3, 5, 6), draw.feature_grad((2, 16, 5, 6))
    with native_on_host(), Calls() as calls:
        native.head(Head(prologue, weight, bias, base))
        native.head_backward(HeadBackward(base, prologue, weight, bias, skip_grad))
    assert calls.all and not calls.launches


def test_shared_memory_for_any_number_of_filters() -> None:
    gpu = torch.device("cpu")
    with native_on_host():
        assert memory_refusal("head", "float32", 5, gpu) is None
        assert memory_refusal("head", "float32", 31, gpu) == memory_refusal("head", "float32", 32, gpu)
