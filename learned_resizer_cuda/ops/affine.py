"""``affine``: a batch normalisation's scale and shift per channel, from given statistics.

Forward::

    r = 1 / √(var + ε),   scale = γ r,   shift = β - mean · scale

Adjoint, for dscale, dshift::

    g = dscale - mean · dshift
    dγ = r g,   dβ = dshift,   dmean = -scale · dshift,   dvar = -γ r³ g / 2
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .statistics import accumulation_dtype


class Affine(NamedTuple):
    """Arguments of ``affine``; vectors ``(n,)``."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the results."""
        *vectors, _ = self
        return accumulation_dtype(reduce(torch.promote_types, [v.dtype for v in vectors]))


class AffineBackward(NamedTuple):
    """Arguments of ``affine_backward``."""

    grad_scale: Tensor
    grad_shift: Tensor
    mean: Tensor
    var: Tensor
    weight: Tensor
    eps: float

    @property
    def dtype(self) -> torch.dtype:
        return accumulation_dtype(self.grad_scale.dtype)


def affine_formula(a: Affine) -> tuple[Tensor, Tensor]:
    """Scale and shift by torch's own operations."""
    dtype = a.dtype
    scale = a.weight.to(dtype) * torch.rsqrt(a.var.to(dtype) + a.eps)
    return scale, a.bias.to(dtype) - a.mean.to(dtype) * scale


def _affine_backward(a: AffineBackward) -> tuple[Tensor, Tensor, Tensor]:
    dtype = a.grad_scale.dtype
    r = torch.rsqrt(a.var.to(dtype) + a.eps)
    scale = a.weight.to(dtype) * r
    g = a.grad_scale - a.mean.to(dtype) * a.grad_shift
    return (
        (-scale * a.grad_shift).to(a.mean.dtype),
        (-0.5 * scale * r * r * g).to(a.var.dtype),
        (r * g).to(a.weight.dtype),
    )


def _choose(op: str, a: Affine | AffineBackward) -> str:
    # By the dtype of the result: the kernel reads vectors of any dtype as float32.
    return backend.choose(op, a.mean.new_empty(0, dtype=a.dtype))


def _fake(a: Affine) -> tuple[Tensor, Tensor]:
    scale = torch.empty_like(a.mean, dtype=a.dtype)
    return scale, torch.empty_like(scale)


def _fake_backward(a: AffineBackward) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(vector) for vector in (a.mean, a.var, a.weight))


def _setup_context(ctx: Any, a: Affine, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(a.mean, a.var, a.weight)
    ctx.eps, ctx.bias_dtype = a.eps, a.bias.dtype


def _autograd(ctx: Any, grad_scale: Tensor, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.learned_resizer.affine_backward(grad_scale, grad_shift, *ctx.saved_tensors, ctx.eps)
    return *grads, grad_shift.to(ctx.bias_dtype), None


define("affine", Affine, 2, pure_torch=affine_formula, native="affine", choose=_choose, fake=_fake)
define(
    "affine_backward",
    AffineBackward,
    3,
    pure_torch=_affine_backward,
    native="affine",
    choose=_choose,
    fake=_fake_backward,
)
register_autograd("affine", _autograd, _setup_context)
register_no_second_derivative("affine_backward")
for _name in ("affine", "affine_backward"):
    register_autocast(_name)
