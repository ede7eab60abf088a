"""`resize` on random shapes, strides, dtypes, filters and factors, against the oracle of oracle.py.

A failure prints the case; `pytest -m slow tests/ops/test_resample_random.py` runs 2,000 of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from learned_resizer_cuda import resize
from learned_resizer_cuda.ops.bands import INTERPOLATIONS
from tests.helpers import oracle

# Longest side. The oracle loops over all pairs of pixels in Python.
MAX_SIDE = 60

# Error of the float64 path relative to range × gain: coordinates up to 60 rounded to 2^-53 move weights by
# at most their slope (< 4 over all taps) times 60 × 2^-53, and 2 × 60 products and sums add 2^-53 each:
# 4e-14.
FLOAT64 = 1e-13
# The same at 2^-24, for torch's own kernel, which rounds the coordinates to float32 as well: 2.2e-5.
FLOAT32 = 3e-5
# The adjoint has no coordinates to round: its tables come from float64. 2 × (60 + 1) roundings of 2^-24.
FLOAT32_ADJOINT = 1e-5


@dataclass(frozen=True)
class Case:
    """One call of `resize`; `repr` is enough to run it again."""

    shape: tuple[int, ...]
    strides: str
    dtype: torch.dtype
    size: tuple[int, int] | None
    factor: tuple[float, float] | None
    interpolation: str
    antialias: bool
    seed: int

    @property
    def out_size(self) -> tuple[int, int]:
        if self.size is not None:
            return self.size
        height, width = (math.floor(n * f) for n, f in zip(self.shape[-2:], self.factor, strict=True))
        return height, width

    @property
    def factors(self) -> tuple[float | None, float | None]:
        return self.factor or (None, None)


sides = st.one_of(st.integers(1, 4), st.integers(1, MAX_SIDE))
factors = st.one_of(
    st.sampled_from([0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0]), st.floats(1 / MAX_SIDE, 6.0, allow_subnormal=False)
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    leading = draw(
        st.one_of(
            st.tuples(st.integers(0, 3), st.integers(1, 4)),  # batch, channels
            st.tuples(st.integers(1, 4)),
            st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(1, 3)),
        )
    )
    height, width = draw(sides), draw(sides)
    given_size = draw(st.sampled_from(["size", "factor", "both"]))
    size = (draw(sides), draw(sides)) if given_size != "factor" else None
    factor = None
    if given_size != "size":
        factor = (draw(factors), draw(factors))
    if given_size == "factor":
        # The smallest factor that leaves a pixel: floor(n × f) ≥ 1.
        factor = (max(factor[0], 1.0 / height), max(factor[1], 1.0 / width))
        if any(math.floor(n * f) < 1 for n, f in zip((height, width), factor, strict=True)):
            factor = (1.0, 1.0)
    return Case(
        shape=(*leading, height, width),
        strides=draw(st.sampled_from(["contiguous", "channels_last", "permuted", "sliced", "expanded"])),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])),
        size=size,
        factor=factor,
        interpolation=draw(st.sampled_from(INTERPOLATIONS)),
        antialias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31 - 1)),
    )


def build(case: Case) -> Tensor:
    """Random image in [-1, 1] (any level for uint8) with the case's strides."""
    generator = torch.Generator().manual_seed(case.seed)
    shape = list(case.shape)

    def fill(shape: list[int]) -> Tensor:
        if case.dtype == torch.uint8:
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1).to(case.dtype)

    if case.strides == "channels_last":
        return fill([*shape[:-3], *shape[-2:], shape[-3]]).movedim(-1, -3)
    if case.strides == "permuted":
        order = torch.randperm(len(shape), generator=generator).tolist()
        return fill([shape[d] for d in order]).permute([order.index(d) for d in range(len(shape))])
    if case.strides == "sliced":
        larger = fill([*shape[:-2], 2 * shape[-2] + 1, shape[-1] + 5])
        return larger[..., 1 : 2 * shape[-2] : 2, 3 : 3 + shape[-1]]
    if case.strides == "expanded":
        dim = int(torch.randint(0, len(shape), (1,), generator=generator))
        return fill([1 if d == dim else n for d, n in enumerate(shape)]).expand(shape)
    return fill(shape)


def check(case: Case) -> None:
    image = build(case)
    assert image.shape == case.shape
    before = image.clone()
    differentiable = image.dtype.is_floating_point
    x = image.detach().requires_grad_(differentiable)
    y = resize(x, case.size, scale_factor=case.factor, interpolation=case.interpolation, antialias=case.antialias)
    assert y.shape == (*case.shape[:-2], *case.out_size)
    assert y.dtype == case.dtype
    check_forward(case, image, y.detach())
    if differentiable:
        check_adjoint(case, x, y)
    assert torch.equal(image, before), "resize changed its input"


def check_forward(case: Case, image: Tensor, y: Tensor) -> None:
    exact = oracle.resize(image.double().numpy(), case.out_size, case.factors, case.interpolation, case.antialias)
    rows, columns = amplifications(case)
    amplification = rows[:, None] * columns[None, :]
    if case.dtype == torch.uint8:
        # One rounding, half up: never further than half a level, plus float32's error, from the exact value.
        allowed = 0.5 + FLOAT32 * 255 * amplification
        exact = np.clip(exact, 0, 255)
    elif case.dtype == torch.float64:
        allowed = FLOAT64 * amplification
    else:
        allowed = FLOAT32 * amplification + rounding(case.dtype, exact)
    assert_within(y, exact, allowed)


def check_adjoint(case: Case, x: Tensor, y: Tensor) -> None:
    generator = torch.Generator().manual_seed(case.seed + 1)
    grad = (2 * torch.rand(y.shape, generator=generator, dtype=torch.float64) - 1).to(case.dtype)
    (dx,) = torch.autograd.grad(y, x, grad)
    assert dx.dtype == case.dtype
    assert dx.shape == x.shape
    rows, columns = matrices(case)
    exact = np.einsum("yh,...yx,xw->...hw", rows, grad.double().numpy(), columns, optimize=True)
    amplified_rows, amplified_columns = amplifications(case)
    # Σ_o |R[o, i]| × amplification of row o, for both axes; 1e-14 where only a rounded-away tap of the
    # oracle reads.
    sums = (amplified_rows @ np.abs(rows))[:, None] * (amplified_columns @ np.abs(columns))[None, :] + 1e-14
    relative = FLOAT64 if case.dtype == torch.float64 else FLOAT32_ADJOINT
    allowed = relative * sums + 1e-14
    if case.dtype != torch.float64:
        allowed = allowed + rounding(case.dtype, exact)
    assert_within(dx, exact, allowed)


def matrices(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = (
        oracle.matrix(n, out, f, case.interpolation, case.antialias)
        for n, out, f in zip(case.shape[-2:], case.out_size, case.factors, strict=True)
    )
    return rows, columns


def amplifications(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """By how much each row of either axis can amplify the errors of its weights.

    The sum of absolute weights L = Σ|k| / |Σk|; and L² where normalisation itself amplifies: beyond the
    image, windows can be cut where positive and negative lobes nearly cancel, and the relative error of Σk
    is L times a weight's. Where only the filter's end is left of a window, its weights are small, but their
    errors are those of coordinates times slopes, as everywhere: dividing by Σk amplifies them by 1 / |Σk|.
    """
    sizes = zip(case.shape[-2:], case.out_size, case.factors, strict=True)
    totals = [np.abs(oracle.weights(n, out, f, case.interpolation, case.antialias).sum(1)) for n, out, f in sizes]
    gains = [np.abs(matrix).sum(1) for matrix in matrices(case)]
    # An empty window's row is 1 at the last pixel, without a division.
    ends = [np.where(total < oracle.EMPTY_WINDOW, 1.0, 1.0 / np.maximum(total, 1e-300)) for total in totals]
    rows, columns = (gain * np.maximum(np.maximum(1.0, gain), end) for gain, end in zip(gains, ends, strict=True))
    return rows, columns


def rounding(dtype: torch.dtype, exact: np.ndarray) -> np.ndarray:
    """Half a unit in the last place of a result, from one rounding (float32's own is part of its bound)."""
    info = torch.finfo(dtype)
    return 0.5 * info.eps * np.abs(exact) + info.smallest_normal * info.eps


def assert_within(result: Tensor, exact: np.ndarray, allowed: np.ndarray) -> None:
    error = np.abs(result.double().numpy() - exact)
    worst = np.max(error / allowed, initial=0.0)
    assert worst <= 1.0, f"error {np.max(error):.3g} is {worst:.3g} times what rounding allows"


FOUND_EARLIER = [
    # Lobes cancel beyond the image, then a window holds usable weights again.
    Case((1, 2, 2), "contiguous", torch.float64, (33, 33), (3.0, 3.0), "lanczos", True, 0),
    # Taps of a window beyond the image still reach pixels before the last one.
    Case((1, 5, 6), "contiguous", torch.float64, (39, 14), (3.28, 0.23), "lanczos", False, 0),
    # No channels, and no batch to count them by.
    Case((0, 4, 5), "contiguous", torch.float32, (2, 3), None, "bilinear", True, 0),
    # A window that reaches the last pixel with the end of the filter only.
    Case((1, 1, 3), "contiguous", torch.float64, (1, 5), (0.25, 1.287109375), "bicubic", True, 0),
    # One output column.
    Case((2, 3, 17, 40), "channels_last", torch.float32, (9, 1), None, "bicubic", True, 0),
]


@pytest.mark.parametrize("case", FOUND_EARLIER, ids=str)
def test_found_earlier(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 2, 400, 2), (2, 400)), ((2, 1, 3, 600), (600, 3)), ((1, 3, 1, 1), (200, 200)), ((3, 200, 200), (1, 1))],
    ids=str,
)
@pytest.mark.parametrize("antialias", [True, False], ids=["antialias", "plain"])
def test_ratios_of_200(
    shape: tuple[int, ...], size: tuple[int, int], interpolation: str, antialias: bool, dtype: torch.dtype
) -> None:
    check(Case(shape, "contiguous", dtype, size, None, interpolation, antialias, 0))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_random_cases(case: Case) -> None:
    check(case)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_2000_random_cases(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("size", "out_size"), [((17, 23), (7, 31)), ((40, 9), (5, 8)), ((6, 50), (29, 4))])
def test_oracle_against_pillow(interpolation: str, size: tuple[int, int], out_size: tuple[int, int]) -> None:
    """The oracle itself: Pillow's mode F holds weights in float64 and each of its two passes in float32."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    plane = np.random.default_rng(0).uniform(-1, 1, size).astype(np.float32)
    resampling = image_module.Resampling[interpolation.upper()]
    theirs = np.array(image_module.fromarray(plane).resize(out_size[::-1], resampling), dtype=np.float64)
    ours = oracle.resize(plane, out_size, (None, None), interpolation, True)
    # Two roundings to float32 of values below 1.55² (the filters' largest gain), the first amplified by 1.55.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2.0**-24 * 2 * (1.55**2 + 1.55**2))
