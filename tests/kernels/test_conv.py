"""The native ``conv`` on the host against the stage in pure torch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import conv as native
from learned_resizer_cuda.kernels.arguments import memory_refusal
from learned_resizer_cuda.ops import conv as pure
from learned_resizer_cuda.ops.conv import Conv, ConvBackward
from learned_resizer_cuda.ops.prologue import FeatureGrad
from tests.helpers import native_host
from tests.helpers.arithmetic import ARITHMETICS, MIXED, Draw, close, double, named, padded, tf32_flag, unpadded  # noqa: F401
from tests.helpers.calls import Calls
from tests.helpers.native_host import native_on_host

# One pixel; one beyond a tile of 32 columns and of 16 or 32 rows; exactly a tile; a column.
SIZES = [(1, 1), (17, 33), (32, 32), (35, 1)]
# No activation; none of the negative half; a slope beyond 1, whose wrong side is far off.
SLOPES = [1.0, 0.0, 3.0]


def forward(a: Conv, statistics: bool) -> tuple[Tensor, Tensor | None]:
    """Of the native stage, its features padded; what it leaves unwritten is NaN."""
    raw = torch.full_like(padded(a.prologue.input), torch.nan)
    found = torch.full((3, len(a.weight)), torch.nan) if statistics else None
    native.conv(a._replace(prologue=padded(a.prologue)), raw, found)
    return raw, found


def backward(a: ConvBackward) -> dict[str, Tensor]:
    """Of the native stage, its features padded."""
    given = a._replace(
        grad_raw=padded(a.grad_raw),
        raw=padded(a.raw),
        forward=a.forward._replace(prologue=padded(a.forward.prologue)),
        input_grad=padded(a.input_grad),
        skip_grad=padded(a.skip_grad),
    )
    grads, weight = native.conv_backward(given)
    if given.skip_grad is not None:
        assert grads.skip is not None and grads.skip.raw.data_ptr() == given.skip_grad.raw.data_ptr()
    assert weight.dtype == a.forward.weight.dtype and weight.stride() == a.forward.weight.stride()
    return named(grads, len(weight), dweight=weight)


def check_forward(a: Conv, statistics: bool, bound: float) -> None:
    n, exact_raw = len(a.weight), torch.empty_like(a.prologue.input, dtype=torch.float64)
    exact = torch.empty(3, n, dtype=torch.float64) if statistics else None
    pure.conv(double(a), exact_raw, exact)
    raw, found = forward(a, statistics)
    close([unpadded(raw, n)], [exact_raw], bound, "raw")
    if found is None or exact is None:
        return
    # One pixel has no variance, and no relative error either.
    rows = 3 if exact_raw[:, 0].numel() > 1 else 1
    close(found[:rows], exact[:rows], bound, " ".join(("mean", "biased", "unbiased")[:rows]))


def check_backward(a: ConvBackward, bound: float) -> None:
    grads, weight = pure.conv_backward(double(a))
    close(backward(a), named(grads, len(weight), dweight=weight), bound)


def draw_backward(draw: Draw, a: Conv, statistics: bool, earlier: bool) -> ConvBackward:
    shape = a.prologue.input.shape
    # A count beyond the map's pixels: as with statistics of several GPUs.
    grad = draw.statistics_grad(shape[1], 3 * a.prologue.input[:, 0].numel()) if statistics else None
    before: list[FeatureGrad | None] = [draw.feature_grad(shape) if earlier else None for _ in range(2)]
    return ConvBackward(
        draw.features(*shape),
        grad,
        draw.features(*shape),
        a,
        before[0],
        before[1] if a.prologue.skip is not None else None,
    )


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n, skip, rest", [(16, True, True), (16, False, False), (32, True, True)])
def test_conv(arithmetic: str, n: int, skip: bool, rest: bool) -> None:
    """With and without a skip; with and without statistics and earlier uses of the features."""
    draw = Draw(arithmetic)
    a = Conv(draw.prologue((2, n, 7, 35), skip, 0.1), draw.weight(n, n, 3, 3))
    with native_on_host():
        check_forward(a, rest, draw.bound)
        check_backward(draw_backward(draw, a, rest, rest), draw.bound)


@pytest.mark.parametrize("arithmetic, parameters, filters", MIXED)
def test_filters_and_parameters(arithmetic: str, parameters: str, filters: int) -> None:
    """Any number of filters; weights of any dtype, channels_last."""
    draw = Draw(arithmetic, parameters)
    weight = draw.weight(filters, filters, 3, 3).contiguous(memory_format=torch.channels_last)
    a = Conv(draw.prologue((2, filters, 17, 20), True, 0.1), weight)
    with native_on_host():
        check_forward(a, True, draw.bound)
        check_backward(draw_backward(draw, a, True, True), draw.bound)


@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
@pytest.mark.parametrize("filters", [5, 16])
def test_no_norm(arithmetic: str, filters: int) -> None:
    draw = Draw(arithmetic)
    a = Conv(draw.prologue((2, filters, 17, 20), False, 0.1, norm=False), draw.weight(filters, filters, 3, 3))
    with native_on_host():
        check_forward(a, True, draw.bound)
        check_backward(draw_backward(draw, a, True, True), draw.bound)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arithmetic, n", [("bfloat16", 16), ("float32", 16), ("float16", 32)])
def test_edges_of_the_tiles(arithmetic: str, n: int, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    a = Conv(draw.prologue((1, n, *size), True, 0.1), draw.weight(n, n, 3, 3))
    with native_on_host():
        check_forward(a, True, draw.bound)
        check_backward(draw_backward(draw, a, True, False), draw.bound)


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("skip", [False, True])
def test_slopes(slope: float, skip: bool) -> None:
    draw = Draw("float32")
    a = Conv(draw.prologue((2, 16, 5, 6), skip, slope), draw.weight(16, 16, 3, 3))
    with native_on_host():
        check_forward(a, True, draw.bound)
        check_backward(draw_backward(draw, a, True, False), draw.bound)


@pytest.mark.parametrize("n", [16, 32])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor two blocks take all tiles, and add them up themselves."""
    draw = Draw("bfloat16")
    a = Conv(draw.prologue((3, n, 10, 34), True, 0.1), draw.weight(n, n, 3, 3))
    of_backward = draw_backward(draw, a, True, True)
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(native_host, "_MULTIPROCESSORS", multiprocessors)
        with native_on_host():
            raw, statistics = forward(a, True)
            assert statistics is not None
            found.append({"raw": raw, "statistics": statistics, **backward(of_backward)})
    many, one = found
    for name in ("raw", "dinput", "dskip"):
        assert torch.equal(many.pop(name), one.pop(name))
    # Sums of float32, grouped differently.
    close(one, {name: tensor.double() for name, tensor in many.items()}, 1e-5)


def test_launches_no_kernels_of_torch() -> None:
    draw = Draw("bfloat16", "bfloat16")
    a = Conv(draw.prologue((2, 16, 5, 6), True, 0.1), draw.weight(16, 16, 3, 3))
    of_backward, raw, statistics = draw_backward(draw, a, True, True), draw.features(2, 16, 5, 6), torch.empty(3, 16)
    with native_on_host(), Calls() as calls:
        native.conv(a, raw, statistics)
        native.conv_backward(of_backward)
    assert calls.all and not calls.launches


def test_shared_memory_for_any_number_of_filters() -> None:
    gpu = torch.device("cpu")
    with native_on_host():
        assert memory_refusal("conv", "float32", 5, gpu) is None
        assert memory_refusal("conv", "float32", 31, gpu) == memory_refusal("conv", "float32", 32, gpu)
