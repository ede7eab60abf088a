"""The op ``affine``: the map of a batch normalisation, against torch's own batch normalisation and its derivatives."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import learned_resizer_cuda  # noqa: F401  (registers the ops)

OPS = torch.ops.learned_resizer


def vectors(dtype: torch.dtype = torch.float64, n: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, var, weight, bias = (torch.randn(n, generator=generator, dtype=torch.float64) for _ in range(4))
    return [t.to(dtype).requires_grad_() for t in (mean, var.exp(), weight, bias)]


def test_is_batch_norm() -> None:
    mean, var, weight, bias = (v.detach() for v in vectors())
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    scale, shift = OPS.affine(mean, var, weight, bias, 1e-3)
    expected = F.batch_norm(x, mean, var, weight, bias, eps=1e-3)
    got = x * scale[:, None, None] + shift[:, None, None]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_gradients() -> None:
    torch.autograd.gradcheck(lambda *v: OPS.affine(*v, 1e-3), vectors())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    """Results are kept in float32 at least; each gradient has the dtype of what it is of."""
    mean, var, weight, bias = vectors(torch.float32)
    weight, bias = (v.detach().to(dtype).requires_grad_() for v in (weight, bias))
    scale, shift = OPS.affine(mean, var, weight, bias, 1e-3)
    assert scale.dtype == shift.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    (scale.sum() + shift.sum()).backward()
    for v in (mean, var, weight, bias):
        assert v.grad is not None and v.grad.dtype == v.dtype


def test_opcheck() -> None:
    torch.library.opcheck(OPS.affine, (*vectors(torch.float32), 1e-3))
    mean, var, weight, _ = (v.detach() for v in vectors(torch.float32))
    torch.library.opcheck(OPS.affine_backward, (torch.ones(5), torch.ones(5), mean, var, weight, 1e-3))


def test_no_second_derivative() -> None:
    args = vectors()
    scale, _ = OPS.affine(*args, 1e-3)
    (grad,) = torch.autograd.grad(scale.sum(), args[1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()
