"""The native trunk on the host against the stages ``conv`` and ``head`` in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import trunk as native
from learned_resizer_cuda.ops import conv, head
from learned_resizer_cuda.ops.conv import Conv
from learned_resizer_cuda.ops.head import Head
from learned_resizer_cuda.ops.prologue import Prologue
from learned_resizer_cuda.ops.trunk import TrunkBlock, TrunkInput, TrunkTail
from tests.helpers.arithmetic import MIXED, Draw, close, double, padded, unpadded
from tests.helpers.calls import Calls
from tests.helpers.native_host import native_on_host


def draw_start(draw: Draw, shape: tuple[int, int, int, int], skip: bool) -> TrunkInput:
    n, (given, norm, second, second_norm, _) = shape[1], draw.prologue(shape, skip, 1.0)
    assert norm is not None
    return TrunkInput(given, norm, second, second_norm, draw.weight(n, n, 3, 3), draw.norm(n))


def pad(start: TrunkInput) -> TrunkInput:
    return start._replace(input=padded(start.input), skip=padded(start.skip))


def convolved(a: Conv) -> Tensor:
    raw = torch.empty_like(a.prologue.input)
    conv.conv(a, raw, None)
    return raw


def check_block(a: TrunkBlock, bound: float) -> None:
    start, slope, weight2 = double(a)
    middle = convolved(Conv(Prologue(start.input, start.norm, start.skip, start.skip_norm, 1.0), start.weight1))
    exact = convolved(Conv(Prologue(middle, start.norm1, None, None, slope), weight2))
    out = native.trunk_block(a._replace(start=pad(a.start)))
    close([unpadded(out, len(weight2))], [exact], bound, "out")


def check_tail(a: TrunkTail, bound: float) -> None:
    start, weight, bias, base = double(a)
    middle = convolved(Conv(Prologue(start.input, start.norm, start.skip, start.skip_norm, 1.0), start.weight1))
    exact = head.head(Head(Prologue(middle, start.norm1, start.skip, start.skip_norm, 1.0), weight, bias, base))
    out = native.trunk_tail(a._replace(start=pad(a.start)))
    assert out.dtype == a.base.dtype and out.stride() == torch.empty_like(a.base).stride()
    close([out], [exact], bound, "out")


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16"])
def test_trunk(arithmetic: str, skip: bool) -> None:
    draw = Draw(arithmetic)
    shape = (2, 16, 33, 29)
    block = TrunkBlock(draw_start(draw, shape, skip), 0.1, draw.weight(16, 16, 3, 3))
    base = draw.features(2, 3, 33, 29)
    tail = TrunkTail(draw_start(draw, shape, True), draw.weight(3, 16, 7, 7), draw.parameter(3), base)
    with native_on_host():
        check_block(block, draw.bound)
        check_tail(tail, draw.bound)


@pytest.mark.parametrize(
    "arithmetic, parameters, filters", [case for case in MIXED if case[0] != "float32" and case[2] <= 16]
)
def test_filters_and_parameters(arithmetic: str, parameters: str, filters: int) -> None:
    """Up to 16 filters; weights of any dtype, channels_last."""
    draw = Draw(arithmetic, parameters)
    shape = (1, filters, 17, 20)

    def weight(*shape: int) -> Tensor:
        return draw.weight(*shape).contiguous(memory_format=torch.channels_last)

    block = TrunkBlock(draw_start(draw, shape, True), 0.1, weight(filters, filters, 3, 3))
    start = draw_start(draw, shape, True)
    start = start._replace(weight1=start.weight1.contiguous(memory_format=torch.channels_last))
    tail = TrunkTail(start, weight(3, filters, 7, 7), draw.parameter(3), draw.features(1, 3, 17, 20))
    with native_on_host():
        check_block(block, draw.bound)
        check_tail(tail, draw.bound)


# One pixel; exactly the tile of a kernel, and one beyond; a row and a column of several tiles.
@pytest.mark.parametrize("size", [(1, 1), (26, 30), (31, 27), (1, 61), (53, 1)])
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16"])
def test_edges_of_the_tiles(arithmetic: str, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    shape = (1, 16, *size)
    block = TrunkBlock(draw_start(draw, shape, True), 0.3, draw.weight(16, 16, 3, 3))
    base = draw.features(1, 3, *size)
    tail = TrunkTail(draw_start(draw, shape, True), draw.weight(3, 16, 7, 7), draw.parameter(3), base)
    with native_on_host():
        check_block(block, draw.bound)
        check_tail(tail, draw.bound)


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_slopes(slope: float) -> None:
    draw = Draw("float16")
    block = TrunkBlock(draw_start(draw, (2, 16, 5, 9), False), slope, draw.weight(16, 16, 3, 3))
    with native_on_host():
        check_block(block, draw.bound)


BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "planes": lambda x: x.contiguous(),
    "crop": lambda x: x.repeat(1, 1, 2, 2)[:, :, 1:8, 2:13],
    "float32": lambda x: x.float(),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_bases(base: str, channels: int) -> None:
    draw = Draw("float16")
    given = BASES[base](draw.features(2, channels, 7, 11))
    start = draw_start(draw, (2, 16, 7, 11), True)
    with native_on_host():
        check_tail(TrunkTail(start, draw.weight(channels, 16, 7, 7), draw.parameter(channels), given), draw.bound)


def test_launches_no_kernels_of_torch() -> None:
    draw = Draw("bfloat16", "bfloat16")
    start, base = draw_start(draw, (1, 16, 5, 6), True), torch.zeros(1, 3, 5, 6)
    weight2, weight, bias = draw.weight(16, 16, 3, 3), draw.weight(3, 16, 7, 7), draw.parameter(3)
    with native_on_host(), Calls() as calls:
        native.trunk_block(TrunkBlock(start, 0.1, weight2))
        native.trunk_tail(TrunkTail(start, weight, bias, base))
    assert calls.all and not calls.launches


def test_what_it_does_not_take_is_named() -> None:
    draw = Draw("float16")
    start = draw_start(draw, (1, 16, 5, 6), True)
    tail = TrunkTail(start, draw.weight(3, 16, 7, 7), draw.parameter(3), torch.zeros(1, 3, 5, 6, dtype=torch.float64))
    wide = draw_start(draw, (1, 24, 5, 6), False)
    with native_on_host():
        with pytest.raises(TypeError, match=r"base: got torch.float64; expected torch.float16"):
            native.trunk_tail(tail)
        with pytest.raises(ValueError, match="num_filters: got 24; expected 1 to 16"):
            native.trunk_block(TrunkBlock(pad(wide), 0.1, draw.weight(24, 24, 3, 3)))
        broad = start.input.as_strided((1, 16, 1, 2**20 + 1), (0, 0, 0, 0))
        with pytest.raises(ValueError, match="size: got a width of 1048577; expected at most 1048576"):
            native.trunk_tail(tail._replace(start=start._replace(input=broad), base=torch.zeros(1, 3, 5, 6).half()))
        spread = torch.zeros(3, 16, 7, 1).half().as_strided((3, 16, 7, 1), (112, 7, 1, 2**24))
        with pytest.raises(ValueError, match="weight: got a stride of 16777216; expected below 16777216"):
            native.trunk_tail(tail._replace(weight=spread, base=torch.zeros(1, 3, 5, 6).half()))
