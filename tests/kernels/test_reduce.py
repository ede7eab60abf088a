"""The second stage of reductions through its launchers, on the host, against float64 from the definitions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import reduce
from learned_resizer_cuda.ops.prologue import GivenNorm, NormGrad, norm_grad
from learned_resizer_cuda.ops.update_running import Tracked, UpdateRunning, momentum_number
from tests.helpers.native_host import native_on_host

SIZES = [(1, 16, 5), (2, 16, 16), (131, 32, 24), (264, 32, 32)]  # rows, channels, filters
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    with native_on_host():
        yield


def _draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def _near(got: Tensor, exact: Tensor, roundings: float = 1) -> None:
    """Within roundings to the dtype of ``got``, as torch rounds one."""
    unit = torch.finfo(got.dtype).eps / 2
    torch.testing.assert_close(got.double(), exact, rtol=1.001 * roundings * unit, atol=1e-10)


@pytest.mark.parametrize("rows, channels, filters", SIZES)
def test_statistics(rows: int, channels: int, filters: int) -> None:
    partials = _draw(rows, 3, channels)
    # Counts whose sum float32 does not hold, some zero; means a million deviations from zero.
    count = torch.randint(0, 2**20, (rows, 1)) * (torch.arange(rows) % 5 != 3)[:, None]
    partials[:, 0] = count
    partials[:, 1] += 1e6
    partials[:, 2] = count * partials[:, 2].square()
    out = torch.full((3, filters), torch.nan)
    reduce.statistics(partials, out)
    n, mean, m2 = partials[:, :, :filters].double().unbind(1)
    center = (n * mean).sum(0) / n.sum(0)
    squares = (m2 + n * (mean - center) ** 2).sum(0)
    # The mean's last float64 digits are lost to its size.
    _near(out[0], center)
    _near(out[1], squares / n.sum(0), 1.1)
    _near(out[2], squares / (n.sum(0) - 1), 1.1)


def test_statistics_of_nothing_are_zero() -> None:
    out = torch.full((3, 16), torch.nan)
    reduce.statistics(torch.zeros(5, 3, 16), out)
    assert not out.any()
    partials = torch.zeros(5, 3, 16)
    partials[2, 0], partials[2, 1] = 1, 7
    reduce.statistics(partials, out)
    assert out[0].eq(7).all() and not out[1:].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, channels, filters", SIZES)
def test_gradients(dtype: torch.dtype, rows: int, channels: int, filters: int) -> None:
    parameters = [
        _draw(filters, 3, 7, 7, dtype=dtype).contiguous(memory_format=torch.channels_last),
        _draw(filters),
        _draw(filters, filters, 1, 1, dtype=dtype),
        _draw(5, 2, 3, dtype=dtype).transpose(0, 2),
    ]
    elements = sum(p.numel() for p in parameters)
    partials = _draw(rows, elements + 3 * channels)
    sums = partials.double().sum(0)
    gradients = [torch.empty_like(p) for p in parameters]
    assert gradients[0].stride() == parameters[0].stride() and not gradients[3].is_contiguous()
    reduce.gradients(partials, gradients)
    for gradient, exact in zip(gradients, sums.split([p.numel() for p in parameters] + [3 * channels]), strict=False):
        _near(gradient, exact.view(gradient.shape))

    by_input, plain, by_skip = sums[elements:].view(3, channels)[:, :filters]
    norm = GivenNorm(
        2 + _draw(filters), _draw(filters, dtype=dtype).abs(), _draw(filters, dtype=dtype), _draw(filters), 1e-3
    )
    for before in (False, True):
        earlier = [_draw(2, filters, seed=seed) if before else None for seed in (1, 2)]
        statistics = torch.empty(2, filters)
        grads = NormGrad(statistics[0], statistics[1], torch.empty_like(norm.weight), torch.empty_like(norm.bias))
        skip = torch.empty(2, filters)
        of_prologue = reduce.PrologueSums(channels, filters, norm, grads, earlier[0], skip, earlier[1])
        again = [torch.empty_like(p) for p in parameters]
        reduce.gradients(partials, again, of_prologue)
        assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))
        own, others = (
            torch.stack([plain, by]) + (0 if e is None else e)
            for by, e in zip((by_input, by_skip), earlier, strict=True)
        )
        exact_norm = GivenNorm(
            norm.mean.double(), norm.var.double(), norm.weight.double(), norm.bias.double(), norm.eps
        )
        # eps and r are rounded to float32, and r's cube amplifies that three times.
        for got, exact in zip(grads, norm_grad(exact_norm, own), strict=True):
            _near(got, exact, 10 if got.dtype == torch.float32 else 1.1)
        _near(skip, others)


def test_a_prologue_without_norm_or_earlier_uses() -> None:
    partials = _draw(7, 40 + 48)
    gradient, skip = torch.empty(40), torch.empty(2, 13)
    reduce.gradients(partials, [gradient], reduce.PrologueSums(16, 13, None, None, None, skip, None))
    sums = partials.double().sum(0)
    _near(gradient, sums[:40])
    _near(skip, torch.stack([sums[56:69], sums[72:85]]))


def test_too_few_columns_raise() -> None:
    with pytest.raises(ValueError, match="rows of 40 elements; expected at least 41"):
        reduce.gradients(_draw(7, 40), [torch.empty(41)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_running_statistics(dtype: torch.dtype, momentum: float | None) -> None:
    count, filters = 70, 24  # more than a launch holds
    statistics = _draw(count + 1, 5, 32)[:, 1:4, :filters]
    norms, expected = Tracked([], [], [], [], []), []
    for i in range(count):
        mean, var = _draw(filters, dtype=dtype, seed=i), _draw(filters, dtype=dtype, seed=i + 1).abs()
        place = count - i  # in another order, one left out
        new = mean.clone(), var.clone(), torch.tensor(i), momentum_number(momentum), place
        for values, value in zip(norms, new, strict=True):
            values.append(value)
        weight, rows = momentum or 1 / (i + 1), statistics[place].to(dtype)
        expected.append((mean.lerp_(rows[0], weight), var.lerp_(rows[2], weight)))
    reduce.running_statistics(UpdateRunning(*norms, statistics))
    assert [int(n) for n in norms.batches] == list(range(1, count + 1))
    for got, want in zip(zip(norms.means, norms.variances, strict=True), expected, strict=True):
        # torch on a CPU does not fuse: one unit of the largest term apart.
        unit = torch.finfo(dtype).eps
        torch.testing.assert_close(got, want, rtol=unit, atol=4 * torch.finfo(torch.float32).eps)
