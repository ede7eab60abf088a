"""The native trunk on the host: values, edges of the tiles, images of any strides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers.arithmetic import BOUND, OPS, Draw, close, double
from tests.helpers.native_host import launch, native_on_host


def _norm(draw: Draw) -> list[Any]:
    return [draw.vector(16), draw.vector(16).exp(), draw.vector(16, 1.0), draw.vector(16), 1e-3]


def _common(draw: Draw, shape: tuple[int, ...], skip: bool) -> list[Any]:
    second = [draw.features(*shape), *_norm(draw)] if skip else [None] * 5 + [0.0]
    return [draw.features(*shape), *_norm(draw), *second, draw.weight(16, 16, 3, 3), *_norm(draw)]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_trunk(dtype: torch.dtype, skip: bool) -> None:
    name = str(dtype).removeprefix("torch.")
    draw = Draw(name)
    shape = (2, 16, 33, 29)

    def norm() -> list[Any]:
        return [draw.vector(16), draw.vector(16).exp(), draw.vector(16, 1.0), draw.vector(16), 1e-5]

    def common(with_skip: bool) -> list[Any]:
        second = [draw.features(*shape), *norm()] if with_skip else [None] * 5 + [0.0]
        return [draw.features(*shape), *norm(), *second, draw.weight(16, 16, 3, 3), *norm()]

    block = [*common(skip), 0.1, draw.weight(16, 16, 3, 3)]
    base = draw.features(2, 3, 33, 29)
    tail = [*common(True), draw.weight(3, 16, 7, 7), draw.vector(3), base]
    with native_on_host():
        close([launch("trunk_block", *block)], [OPS.trunk_block(*double(block))], BOUND[name], "out")
        close([launch("trunk_tail", *tail)], [OPS.trunk_tail(*double(tail))], BOUND[name], "out")


# One pixel; exactly the tile of a kernel, and one beyond; a row and a column of several tiles.
@pytest.mark.parametrize("size", [(1, 1), (26, 30), (31, 27), (1, 61), (53, 1)])
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16"])
def test_edges_of_the_tiles(arithmetic: str, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    shape = (1, 16, *size)
    block = [*_common(draw, shape, True), 0.3, draw.weight(16, 16, 3, 3)]
    tail = [*_common(draw, shape, True), draw.weight(3, 16, 7, 7), draw.vector(3), draw.features(1, 3, *size)]
    with native_on_host():
        close([launch("trunk_block", *block)], [OPS.trunk_block(*double(block))], BOUND[arithmetic], "out")
        close([launch("trunk_tail", *tail)], [OPS.trunk_tail(*double(tail))], BOUND[arithmetic], "out")


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_slopes_and_planes(slope: float) -> None:
    draw = Draw("float16")
    block = [*_common(draw, (2, 16, 5, 9), False), slope, draw.weight(16, 16, 3, 3)]
    block[0] = block[0].contiguous()
    with native_on_host():
        close([launch("trunk_block", *block)], [OPS.trunk_block(*double(block))], BOUND["float16"], "out")


BASES: dict[str, Callable[[Tensor], Tensor]] = {
    "planes": lambda x: x.contiguous(),
    "crop": lambda x: x.repeat(1, 1, 2, 2)[:, :, 1:8, 2:13],
    "float32": lambda x: x.float(),
    "float64": lambda x: x.double(),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_bases(base: str, channels: int) -> None:
    draw = Draw("float16")
    given = BASES[base](draw.features(2, channels, 7, 11))
    tail = [*_common(draw, (2, 16, 7, 11), True), draw.weight(channels, 16, 7, 7), draw.vector(channels), given]
    with native_on_host():
        out = launch("trunk_tail", *tail)
    assert out.dtype == given.dtype and out.stride() == torch.empty_like(given).stride()
    close([out], [OPS.trunk_tail(*double(tail))], BOUND["float16"], "out")
