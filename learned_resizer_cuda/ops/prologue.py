"""Prologue of ``conv`` and ``head``, applied as input loads, and its adjoint.

Forward, for a raw feature t, per-channel scale and shift of the batch normalisation before it, and optionally a
skip (a second raw feature u with its own scale and shift)::

    v = lrelu(scale · t + shift  [+ skip_scale · u + skip_shift])      (slope 1: no activation)

Adjoint, for dv: ``g = dv · lrelu'(v)`` and then::

    dt = scale · g,        dscale = Σ g · t,        dshift = Σ g
    du = skip_scale · g,   dskip_scale = Σ g · u,   dskip_shift = Σ g

Only raw convolution outputs are saved for the backward; v is recomputed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import along_row, channels_last, leaky_relu_backward_, maps, rows, sum_pixels
from .statistics import accumulation_dtype

# Elements of a feature map per group of images, as in ``stem``.
_GROUP_ELEMENTS = 512 * 1024


class Prologue(NamedTuple):
    """Arguments of a prologue: features ``(B, n, h, w)``, vectors ``(n,)``."""

    input: Tensor
    scale: Tensor
    shift: Tensor
    skip: Tensor | None
    skip_scale: Tensor | None
    skip_shift: Tensor | None
    negative_slope: float

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of v and of every sum."""
        return accumulation_dtype(self.input.dtype)

    def groups(self) -> list[slice]:
        """Slices of the batch, small enough to stay in a core's cache."""
        batch, n, height, width = self.input.shape
        step = max(1, _GROUP_ELEMENTS // (n * height * width))
        return [slice(first, min(first + step, batch)) for first in range(0, batch, step)]

    def apply(self, group: slice) -> Tensor:
        """v of a group of images, channels_last."""
        n, width = self.input.shape[1], self.input.shape[3]
        shift = self.shift if self.skip_shift is None else self.shift + self.skip_shift
        t = rows(self.input[group]).to(self.dtype)
        v = torch.addcmul(along_row(shift, width, self.dtype), t, along_row(self.scale, width, self.dtype))
        if self.skip is not None and self.skip_scale is not None:
            v.addcmul_(rows(self.skip[group]).to(self.dtype), along_row(self.skip_scale, width, self.dtype))
        if self.negative_slope != 1:
            F.leaky_relu_(v, self.negative_slope)
        return maps(v, n)

    def fake_grads(self) -> list[Tensor]:
        """Empty tensors like those of ``PrologueGrads.result``."""
        vector = torch.empty_like(self.scale)
        grads = [empty_features(self.input), vector, torch.empty_like(vector)]
        if self.skip is None:
            return grads + [torch.empty(0, dtype=self.dtype, device=vector.device) for _ in range(3)]
        return [*grads, empty_features(self.skip), torch.empty_like(vector), torch.empty_like(vector)]

    def autograd_result(self, grads: list[Tensor]) -> list[Tensor | None]:
        """A backward op's gradients for autograd: ``None`` for slope and absent skip."""
        input, scale, shift, *skip = grads
        return [input, scale, shift, *(skip if self.skip is not None else [None] * len(skip)), None]

    def autocast(self, dtype: torch.dtype) -> Prologue:
        """The arguments under autocast: features in its dtype, vectors unchanged."""
        skip = None if self.skip is None else cast(dtype, self.skip)
        return self._replace(input=cast(dtype, self.input), skip=skip)


class PrologueGrads:
    """Gradients of a prologue's arguments, accumulated over image groups in any order."""

    def __init__(self, prologue: Prologue) -> None:
        batch, n, height, width = prologue.input.shape
        self._prologue = prologue
        self._input = prologue.scale.new_empty((batch, height, width * n), dtype=prologue.dtype)
        self._skip = None if prologue.skip is None else torch.empty_like(self._input)

    def add(self, group: slice, v: Tensor, grad_v: Tensor) -> Tensor:
        """Add a group of images.

        Args:
            group: slice of the batch.
            v: of the group, as returned by ``Prologue.apply``.
            grad_v: its gradient; overwritten.

        Returns:
            The group's part of dscale, dshift and dskip_scale, ``(3, n)``, for ``result``.
        """
        p, (n, width) = self._prologue, (v.shape[1], v.shape[3])
        sums = torch.zeros(3, n, dtype=p.dtype, device=v.device)
        g = rows(channels_last(grad_v))
        if p.negative_slope != 1:
            leaky_relu_backward_(g, rows(v), p.negative_slope)
        sums[1] = sum_pixels(g, n)
        scratch = self._input[group]
        torch.mul(g, rows(p.input[group]).to(p.dtype), out=scratch)
        sums[0] = sum_pixels(scratch, n)
        torch.mul(g, along_row(p.scale, width, p.dtype), out=scratch)
        if p.skip is not None and p.skip_scale is not None and self._skip is not None:
            scratch = self._skip[group]
            torch.mul(g, rows(p.skip[group]).to(p.dtype), out=scratch)
            sums[2] = sum_pixels(scratch, n)
            torch.mul(g, along_row(p.skip_scale, width, p.dtype), out=scratch)
        return sums

    def result(self, sums: list[Tensor]) -> list[Tensor]:
        """Argument gradients in order, without the slope's; empty for an absent skip.

        Args:
            sums: the results of every ``add``.
        """
        p, n = self._prologue, self._prologue.input.shape[1]
        total = torch.zeros(3, n, dtype=p.dtype, device=p.input.device)
        for part in sums:
            total += part
        scale, shift, skip_scale = total.to(p.scale.dtype).unbind()
        grads = [maps(self._input, n).to(p.input.dtype), scale.clone(), shift.clone()]
        if self._skip is None:
            return grads + [self._input.new_empty(0) for _ in range(3)]
        return [*grads, maps(self._skip, n).to(p.input.dtype), skip_scale.clone(), shift.clone()]


def cast(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    """A tensor in autocast's dtype; float64 stays, as in torch's own rules."""
    return tensor if tensor.dtype == torch.float64 else tensor.to(dtype)


def empty_features(like: Tensor) -> Tensor:
    """Uninitialised channels_last features of the shape and dtype of ``like``."""
    batch, n, height, width = like.shape
    return like.new_empty(batch, height, width, n).permute(0, 3, 1, 2)
