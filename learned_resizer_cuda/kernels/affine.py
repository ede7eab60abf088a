"""Launchers of the native affine map (csrc/core/affine/affine.cuh) on CUDA tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops.affine import Affine, AffineBackward
from . import device, native
from .arguments import addresses, dense32


def affine(a: Affine) -> tuple[Tensor, Tensor]:
    """The op ``affine`` in one launch.

    Returns:
        Scale and shift, ``(n,)`` float32, from vectors ``(n,)`` of any dtype but float64, read as float32.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    *vectors, eps = a
    inputs = dense32(*vectors)
    outputs = [torch.empty_like(inputs[0]) for _ in range(2)]
    native.load().affine(len(a.mean), addresses(inputs), eps, addresses(outputs), *device.place(a.mean.device))
    return outputs[0], outputs[1]


def affine_backward(a: AffineBackward) -> tuple[Tensor, ...]:
    """The op ``affine_backward``: one launch.

    Returns:
        Gradients of mean, var and weight, each in its own dtype.

    Raises:
        RuntimeError: if the launch fails, naming the CUDA error.
    """
    wanted = (a.mean, a.var, a.weight)
    inputs = dense32(*wanted, a.grad_scale, a.grad_shift)
    outputs = [torch.empty_like(inputs[0]) for _ in wanted]
    place = device.place(a.mean.device)
    native.load().affine_backward(len(a.mean), addresses(inputs), a.eps, addresses(outputs), *place)
    return tuple(grad.to(vector.dtype) for grad, vector in zip(outputs, wanted, strict=True))
