"""The trunk's kernels on the host: edges of the tiles, images of any strides, beside tests/kernels/test_native.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_kernels_native import BOUND, OPS, Draw, close, double
from torch import Tensor

from learned_resizer_cuda.kernels import trunk
from tests.helpers.native_host import native_on_host

# The bounds, and why they are these, are those of test_kernels_native.py.


def _norm(draw: Draw) -> list[Any]:
    return [draw.vector(16), draw.vector(16).exp(), draw.vector(16, 1.0), draw.vector(16), 1e-3]


def _common(draw: Draw, shape: tuple[int, ...], skip: bool) -> list[Any]:
    second = [draw.features(*shape), *_norm(draw)] if skip else [None] * 5 + [0.0]
    return [draw.features(*shape), *_norm(draw), *second, draw.weight(16, 16, 3, 3), *_norm(draw)]


# One pixel; exactly the tile of a kernel, and one beyond; a row and a column of several tiles.
@pytest.mark.parametrize("size", [(1, 1), (26, 30), (31, 27), (1, 61), (53, 1)])
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16"])
def test_edges_of_the_tiles(arithmetic: str, size: tuple[int, int]) -> None:
    draw = Draw(arithmetic)
    shape = (1, 16, *size)
    block = [*_common(draw, shape, True), 0.3, draw.weight(16, 16, 3, 3)]
    tail = [*_common(draw, shape, True), draw.weight(3, 16, 7, 7), draw.vector(3), draw.features(1, 3, *size)]
    with native_on_host():
        close([trunk.trunk_block(*block)], [OPS.trunk_block(*double(block))], BOUND[arithmetic], "out")
        close([trunk.trunk_tail(*tail)], [OPS.trunk_tail(*double(tail))], BOUND[arithmetic], "out")


@pytest.mark.parametrize("slope", [0.0, 1.0, 3.0])
def test_slopes_and_planes(slope: float) -> None:
    draw = Draw("float16")
    block = [*_common(draw, (2, 16, 5, 9), False), slope, draw.weight(16, 16, 3, 3)]
    block[0] = block[0].contiguous()
    with native_on_host():
        close([trunk.trunk_block(*block)], [OPS.trunk_block(*double(block))], BOUND["float16"], "out")


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
        out = trunk.trunk_tail(*tail)
    assert out.dtype == given.dtype and out.stride() == torch.empty_like(given).stride()
    close([out], [OPS.trunk_tail(*double(tail))], BOUND["float16"], "out")
