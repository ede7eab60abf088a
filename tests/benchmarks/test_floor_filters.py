"""benchmarks/floor/filters.py: the model's inputs, and the Triton kernels that it counts, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("benchmarks.floor", reason="the benchmarks are not beside the tests")
triton = pytest.importorskip("triton")

from benchmarks.floor import filters
from benchmarks.floor.tensor_kernels import BATCH, CHANNELS, SIDE_IN, SIDE_OUT
from learned_resizer_cuda import reference


class _Bytes(TorchDispatchMode):
    """Bytes that the calls of a module read and write on a GPU, at two an element."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.moved += filters.SIZE * self._elements(func.overloadpacket.__name__, args, out)
        return out

    @staticmethod
    def _elements(name: str, args: Any, out: Any) -> int:
        if name == "convolution":  # and its bias, added in place
            return args[0].numel() + out.numel() * (1 if args[2] is None else 3)
        if name == "convolution_backward":
            grad, x, mask = args[0].numel(), args[1].numel(), args[-1]
            return mask[0] * (grad + x) + mask[1] * (grad + x) + mask[2] * grad
        if name in ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit"):
            return args[0].numel() * (3 if args[5] else 2)
        if name == "native_batch_norm_backward":
            return 5 * args[0].numel()
        if name == "leaky_relu":
            return 2 * args[0].numel()
        if name in ("add", "leaky_relu_backward"):
            # Of running statistics' counts: one element.
            return 3 * out.numel() if out.dim() == 4 else 0
        if name == "_upsample_bilinear2d_aa":
            return args[0].numel() + out.numel()
        if name == "_upsample_bilinear2d_aa_backward":  # zeros, then atomic additions
            return args[0].numel() + 3 * out.numel()
        assert name in ("add_", "detach", "empty", "empty_like", "ones_like", "sum", "expand", "t", "view"), name
        return 0


@pytest.mark.parametrize("n", [8, 24])
@pytest.mark.parametrize("training", [False, True])
def test_eager_moves_the_bytes_of_the_modules_calls(n: int, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand-written list of calls is that of reference.Resizer, forward and backward."""
    monkeypatch.setattr(filters, "FLOPS", float("inf"))
    module = reference.Resizer(SIDE_OUT, num_filters=n).to("meta").train(training)
    image = torch.empty(BATCH, CHANNELS, SIDE_IN, SIDE_IN, device="meta")
    with _Bytes() as counted:
        if training:
            out = module(image)
            out.backward(torch.empty_like(out))
        else:
            with torch.no_grad():
                module(image)
    calls = filters.TRAINING if training else filters.INFERENCE
    assert filters.total(filters.eager(n, training), calls) == pytest.approx(filters.dram(counted.moved), rel=1e-9)


def _needs_tools() -> None:
    if not filters.cuobjdump().exists():
        pytest.skip("this triton has no cuobjdump")


def test_products_counted_are_those_of_the_shapes() -> None:
    """One kernel compiled: three kernel rows of the products of a tile, in each round of its loop."""
    _needs_tools()
    launch = filters.launch("conv", 8)
    constants = launch.constants
    tiles = constants["COLS"] // 16 * constants["CHUNKS"] * constants["KP"] // 16 * constants["NP"] // 8
    counted = filters.count(launch)
    assert counted.products == launch.programs * launch.trips * 3 * tiles
    assert counted.stack == 0
    assert counted.issued > counted.products


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("key", list(filters.TILES))
def test_kernels_compile_ahead_of_time(key: tuple[str, int], capability: int) -> None:
    _needs_tools()
    name, n = key
    assert filters.count(filters.launch(name, n), capability).registers <= 255
