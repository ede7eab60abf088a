"""Arithmetic of the native kernels: random tensors that it represents exactly, and the error it is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from learned_resizer_cuda.ops.prologue import FeatureGrad, GivenNorm, Prologue, PrologueGrads
from learned_resizer_cuda.ops.statistics import StatisticsGrad

# Relative errors in norm. bfloat16 keeps 8 bits, so that an operand is off by up to 2^-9 and a result again; a sum of
# independent roundings stays near one of them. tf32 and float16 keep 11. float32: three tf32 products leave out terms
# below 2^-22, and sums of a thousand terms round a few times.
BOUND = {"bfloat16": 1.5e-2, "float16": 2e-3, "tf32": 2e-3, "float32": 1e-5}
ARITHMETICS = tuple(BOUND)
OPS = torch.ops.learned_resizer
# Features, parameters of the same dtype or another one, as under autocast, and filters.
MIXED = [
    *((*dtypes, filters) for dtypes in (("bfloat16", "float32"), ("bfloat16", "bfloat16")) for filters in (5, 24)),
    ("float16", "float16", 1),
    ("float16", "float32", 8),
    ("float32", "bfloat16", 5),
    ("float32", "float32", 31),
]


@pytest.fixture(autouse=True)
def tf32_flag(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's flag set for the parameter ``arithmetic`` of a test; in every test of a file that imports this."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", parameters.get("arithmetic") == "tf32")


def dtype_of(arithmetic: str) -> torch.dtype:
    return torch.float32 if arithmetic == "tf32" else getattr(torch, arithmetic)


class Draw:
    """Seeded tensors whose values the arithmetic holds exactly, so that float64 starts from the same ones.

    Args:
        arithmetic: one of ``ARITHMETICS``.
        parameters: name of the dtype of weights and norms' parameters.
    """

    def __init__(self, arithmetic: str, parameters: str = "float32") -> None:
        self.dtype, self.parameters, self.bound = dtype_of(arithmetic), dtype_of(parameters), BOUND[arithmetic]
        self._generator = torch.Generator().manual_seed(1)

    def features(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self._generator) + 0.2
        return values.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def vector(self, n: int, mean: float = 0.0) -> Tensor:
        """Statistics or their gradients: float32."""
        return mean + 0.3 * torch.randn(n, generator=self._generator)

    def parameter(self, n: int, mean: float = 0.0) -> Tensor:
        return self.vector(n, mean).to(self.parameters)

    def weight(self, *shape: int) -> Tensor:
        values = torch.randn(shape, generator=self._generator) / math.prod(shape[1:]) ** 0.5
        return values.to(self.parameters)

    def norm(self, n: int) -> GivenNorm:
        return GivenNorm(self.vector(n), self.vector(n).exp(), self.parameter(n, 1.0), self.parameter(n), 1e-3)

    def prologue(self, shape: tuple[int, int, int, int], skip: bool, slope: float, norm: bool = True) -> Prologue:
        given, of_input = self.features(*shape), self.norm(shape[1]) if norm else None
        if not skip:
            return Prologue(given, of_input, None, None, slope)
        return Prologue(given, of_input, self.features(*shape), self.norm(shape[1]), slope)

    def feature_grad(self, shape: Sequence[int]) -> FeatureGrad:
        return FeatureGrad(self.features(*shape), torch.stack([self.vector(shape[1]), self.vector(shape[1])]))

    def statistics_grad(self, n: int, count: int) -> StatisticsGrad:
        return StatisticsGrad(self.vector(n), self.vector(n), self.vector(n), count)


def double(value: Any) -> Any:
    """With every tensor in float64; tuples likewise."""
    if isinstance(value, Tensor):
        return value.double()
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(double, value))
    return [double(v) for v in value] if isinstance(value, (list, tuple)) else value


def padded(value: Any) -> Any:
    """Features, alone or in a ``Prologue`` or ``FeatureGrad``, with 16 or 32 channels in memory, as for kernels."""
    if isinstance(value, Prologue):
        return value._replace(input=padded(value.input), skip=padded(value.skip))
    if isinstance(value, FeatureGrad):
        return FeatureGrad(padded(value.raw), value.sums.clone())
    if value is None:
        return None
    n = value.shape[1]
    return F.pad(value, (0, 0, 0, 0, 0, (16 if n <= 16 else 32) - n)).contiguous(memory_format=torch.channels_last)


def unpadded(features: Tensor, filters: int) -> Tensor:
    assert not features[:, filters:].any(), "padded channels are not zero"
    return features[:, :filters]


def named(grads: PrologueGrads, filters: int, **others: Tensor) -> dict[str, Tensor]:
    """Results of a backward with a prologue, for ``close``."""
    found = {"dinput": unpadded(grads.input, filters), **others}
    if grads.norm is not None:
        found |= {f"d{name}": grad for name, grad in grads.norm._asdict().items()}
    if grads.skip is not None:
        found |= {"dskip": unpadded(grads.skip.raw, filters), "dskip_sums": grads.skip.sums}
    return found


def close(got: Any, exact: Any, bound: float, names: str = "") -> None:
    """Compare tuples of tensors, or dictionaries, in norm; the result's own rounding is allowed."""
    if isinstance(got, dict):
        assert got.keys() == exact.keys()
        names, got, exact = " ".join(got), list(got.values()), [exact[name] for name in got]
    assert len(got) == len(exact) == len(names.split())
    for name, a, b in zip(names.split(), got, exact, strict=True):
        assert a.shape == b.shape, name
        if b.numel() == 0:
            continue
        error = (a.double() - b).norm() / b.norm().clamp(min=1e-30)
        allowed = max(bound, BOUND[str(a.dtype).removeprefix("torch.")])
        assert error <= allowed, f"{name}: relative error {error:.2e} beyond {allowed:.0e}"
