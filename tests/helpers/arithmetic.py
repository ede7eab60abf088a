"""Arithmetic of the native kernels: random tensors that it represents exactly, and the error it is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

OPS = torch.ops.learned_resizer

# Relative errors in norm. bfloat16 keeps 8 bits, so that an operand is off by up to 2^-9 and a result again; a sum of
# independent roundings stays near one of them. tf32 and float16 keep 11. float32: three tf32 products leave out terms
# below 2^-22, and sums of a thousand terms round a few times.
BOUND = {"bfloat16": 1.5e-2, "float16": 2e-3, "tf32": 2e-3, "float32": 1e-5}
ARITHMETICS = tuple(BOUND)

# Results of a backward with a prologue, for ``close``.
PROLOGUE = "dinput dscale dshift dskip dskip_scale dskip_shift"


@pytest.fixture(autouse=True)
def tf32_flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flag set for the parameter ``arithmetic`` of a test; in every test of a file that imports this."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", parameters.get("arithmetic") == "tf32")


def dtype_of(arithmetic: str) -> torch.dtype:
    return torch.float32 if arithmetic == "tf32" else getattr(torch, arithmetic)


class Draw:
    """Seeded tensors whose values the arithmetic holds exactly, so that float64 starts from the same ones."""

    def __init__(self, arithmetic: str) -> None:
        self.dtype = dtype_of(arithmetic)
        self._generator = torch.Generator().manual_seed(1)

    def features(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self._generator) + 0.2
        return values.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def vector(self, n: int, mean: float = 0.0) -> Tensor:
        return mean + 0.3 * torch.randn(n, generator=self._generator)

    def weight(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator) / math.prod(shape[1:]) ** 0.5

    def prologue(self, shape: tuple[int, int, int, int], skip: bool, slope: float) -> list[Any]:
        n = shape[1]
        first = [self.features(*shape), self.vector(n, 1.0), self.vector(n)]
        second = [self.features(*shape), self.vector(n, 1.0), self.vector(n)] if skip else [None] * 3
        return [*first, *second, slope]


def double(args: list[Any]) -> list[Any]:
    return [a.double() if isinstance(a, Tensor) else a for a in args]


def close(got: Any, exact: Any, bound: float, names: str) -> None:
    """Compare tuples of tensors, in norm."""
    assert len(got) == len(exact) == len(names.split())
    for name, a, b in zip(names.split(), got, exact, strict=True):
        assert a.shape == b.shape, name
        if b.numel() == 0:
            continue
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-30)
        assert error <= bound, f"{name}: relative error {error:.2e} beyond {bound:.0e}"
