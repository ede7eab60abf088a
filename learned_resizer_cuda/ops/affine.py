"""``affine``: the map that a batch normalisation with given statistics is, per channel.

Forward::

    r = 1 / √(var + ε),   scale = γ r,   shift = β - mean · scale

Adjoint, for dscale, dshift::

    g = dscale - mean · dshift
    dγ = r g,   dβ = dshift,   dmean = -scale · dshift,   dvar = -γ r³ g / 2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backend
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .statistics import accumulation_dtype


def _result_dtype(*vectors: Tensor) -> torch.dtype:
    dtype = vectors[0].dtype
    for vector in vectors[1:]:
        dtype = torch.promote_types(dtype, vector.dtype)
    return accumulation_dtype(dtype)


def affine_formula(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Scale and shift by torch's own operations."""
    dtype = _result_dtype(mean, var, weight, bias)
    scale = weight.to(dtype) * torch.rsqrt(var.to(dtype) + eps)
    return scale, bias.to(dtype) - mean.to(dtype) * scale


def _affine_backward(
    grad_scale: Tensor, grad_shift: Tensor, mean: Tensor, var: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = grad_scale.dtype
    r = torch.rsqrt(var.to(dtype) + eps)
    scale = weight.to(dtype) * r
    g = grad_scale - mean.to(dtype) * grad_shift
    return (
        (-scale * grad_shift).to(mean.dtype),
        (-0.5 * scale * r * r * g).to(var.dtype),
        (r * g).to(weight.dtype),
    )


def _native(op: str, *vectors: Tensor) -> bool:
    # Asked by the dtype that the result has: the kernel takes the others as float32.
    return backend.choose(op, vectors[0].new_empty(0, dtype=_result_dtype(*vectors))) == "native"


def _affine_cuda(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    if not _native("affine", mean, var, weight, bias):
        return affine_formula(mean, var, weight, bias, eps)
    from ..kernels import affine as kernel

    return kernel.affine(mean, var, weight, bias, eps)


def _affine_backward_cuda(grad_scale: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not _native("affine_backward", grad_scale):
        return _affine_backward(grad_scale, *args)
    from ..kernels import affine as kernel

    return kernel.affine_backward(grad_scale, *args)


def _fake(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = torch.empty_like(mean, dtype=_result_dtype(mean, var, weight, bias))
    return scale, torch.empty_like(scale)


def _fake_backward(grad_scale: Tensor, grad_shift: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(vector) for vector in args[:3])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    mean, var, weight, bias, eps = inputs
    ctx.save_for_backward(mean, var, weight)
    ctx.eps, ctx.bias_dtype = eps, bias.dtype


def _autograd(ctx: Any, grad_scale: Tensor, grad_shift: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.learned_resizer.affine_backward(grad_scale, grad_shift, *ctx.saved_tensors, ctx.eps)
    return *grads, grad_shift.to(ctx.bias_dtype), None


define(
    "affine(Tensor mean, Tensor var, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    cpu=affine_formula,
    cuda=_affine_cuda,
    fake=_fake,
)
define(
    "affine_backward(Tensor grad_scale, Tensor grad_shift, Tensor mean, Tensor var, Tensor weight, float eps) "
    "-> (Tensor, Tensor, Tensor)",
    cpu=_affine_backward,
    cuda=_affine_backward_cuda,
    fake=_fake_backward,
)
register_autograd("affine", _autograd, _setup_context)
register_no_second_derivative("affine_backward")
for _name in ("affine", "affine_backward"):
    register_autocast(_name)
