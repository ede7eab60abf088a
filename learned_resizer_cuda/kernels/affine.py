"""Launchers of the native affine map (csrc/core/affine/affine.cuh) on CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from . import device, native
from .arguments import addresses, dense32


def affine(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The op ``affine``: one launch. Vectors ``(n,)`` of any dtype but float64, taken as float32.

    Returns:
        Scale and shift, ``(n,)`` float32.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    inputs = dense32(mean, var, weight, bias)
    outputs = [torch.empty_like(inputs[0]) for _ in range(2)]
    native.load().affine(len(mean), addresses(inputs), eps, addresses(outputs), *device.place(mean.device))
    return outputs[0], outputs[1]


def affine_backward(
    grad_scale: Tensor, grad_shift: Tensor, mean: Tensor, var: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The op ``affine_backward``: one launch.

    Returns:
        Gradients of mean, var and weight, each in its own dtype.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    inputs = dense32(mean, var, weight, grad_scale, grad_shift)
    outputs = [torch.empty_like(inputs[0]) for _ in range(3)]
    native.load().affine_backward(len(mean), addresses(inputs), eps, addresses(outputs), *device.place(mean.device))
    return outputs[0].to(mean.dtype), outputs[1].to(var.dtype), outputs[2].to(weight.dtype)
