"""Prologue of ``conv`` and ``head``, applied as input loads, and its adjoint.

Forward, for a raw feature t with the batch normalisation after it pending, and optionally a skip (a second such feature
u)::

    v = lrelu(norm(t) [+ skip_norm(u)])      (slope 1: no activation)
    norm(t) = scale · t + shift,   r = 1 / √(var + ε),   scale = γ r,   shift = β - mean · scale

Adjoint, for dv: ``g = dv · lrelu'(v)`` and then, for t and in the same way for u::

    dt = scale · g,   dβ = Σ g,   dγ = r (Σ g·t - mean Σ g)
    dmean = -scale Σ g,   dvar = -γ r³ (Σ g·t - mean Σ g) / 2

A feature may be used several times; dt, Σ g and Σ g·t then add up over its uses. Only raw convolution outputs are saved
for the backward; v is recomputed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import along_row, channels_last, leaky_relu_backward_, maps, rows, sum_pixels
from .parallel import group_elements
from .statistics import accumulation_dtype

# Elements of a feature map per group of images on a CPU, as in ``stem``.
_GROUP_ELEMENTS = 512 * 1024


class GivenNorm(NamedTuple):
    """A batch normalisation with given statistics.

    Vectors ``(n,)``, each of its own dtype.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float

    def fold(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(n,)``."""
        scale = torch.rsqrt(self.var.to(dtype) + self.eps) * self.weight.to(dtype)
        return scale, torch.addcmul(self.bias.to(dtype), self.mean.to(dtype), scale, value=-1)


class NormGrad(NamedTuple):
    """Gradients of a ``GivenNorm``; ``(n,)``.

    Those of the statistics are float32 (float64 for float64), those of the parameters of the parameters' dtype.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor


class FeatureGrad(NamedTuple):
    """Gradient of a raw feature, added up over its uses so far."""

    raw: Tensor  # (B, n, h, w), channels_last, of the feature's dtype: Σ scale g
    sums: Tensor  # (2, n), float32 (float64 for float64): Σ g, Σ g·t


def norm_grad(norm: GivenNorm, sums: Tensor) -> NormGrad:
    """Gradients of a normalisation from ``FeatureGrad.sums``."""
    dtype = sums.dtype
    total, weighted = sums.unbind()
    r = torch.rsqrt(norm.var.to(dtype) + norm.eps)
    scale = r * norm.weight.to(dtype)
    grad_weight = r * torch.addcmul(weighted, norm.mean.to(dtype), total, value=-1)
    grad_var = (scale * r * grad_weight).mul_(-0.5)
    return NormGrad(-scale * total, grad_var, grad_weight.to(norm.weight.dtype), total.to(norm.bias.dtype))


class Prologue(NamedTuple):
    """Arguments of a prologue: raw features and what is pending on them.

    Features are ``(B, n, h, w)``, channels_last.
    """

    input: Tensor
    norm: GivenNorm | None  # None: the input as it is
    skip: Tensor | None
    skip_norm: GivenNorm | None
    negative_slope: float

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of v and of every sum."""
        return accumulation_dtype(self.input.dtype)

    def groups(self) -> list[slice]:
        """Slices of the batch, small enough to stay in a core's cache."""
        batch, n, height, width = self.input.shape
        step = max(1, group_elements(_GROUP_ELEMENTS, self.input.device) // (n * height * width))
        return [slice(first, min(first + step, batch)) for first in range(0, batch, step)]


class PrologueGrads(NamedTuple):
    """Results of a prologue's adjoint."""

    input: Tensor  # like the input: its gradient over all uses, of which this was the last
    norm: NormGrad | None
    skip: FeatureGrad | None


class FoldedPrologue:
    """A prologue in pure torch, its scale and shift folded once."""

    def __init__(self, prologue: Prologue) -> None:
        self.p, self.dtype = prologue, prologue.dtype
        n, width = prologue.input.shape[1], prologue.input.shape[3]
        self.n = n
        self.scale = self.skip_scale = self._shift = None
        shift = None
        if prologue.norm is not None:
            scale, shift = self._padded(prologue.norm)
            self.scale = along_row(scale, width, self.dtype)
        if prologue.skip_norm is not None:
            scale, skip_shift = self._padded(prologue.skip_norm)
            self.skip_scale = along_row(scale, width, self.dtype)
            shift = skip_shift if shift is None else shift + skip_shift
        if shift is not None:
            self._shift = along_row(shift, width, self.dtype)

    def _padded(self, norm: GivenNorm) -> tuple[Tensor, Tensor]:
        """Scale and shift, with zeros for the channels that native kernels add."""
        extra = self.n - len(norm.weight)
        scale, shift = norm.fold(self.dtype)
        return (F.pad(scale, (0, extra)), F.pad(shift, (0, extra))) if extra else (scale, shift)

    def apply(self, group: slice) -> Tensor:
        """v of a group of images, channels_last."""
        p, t = self.p, rows(self.p.input[group]).to(self.dtype)
        if self.scale is not None and self._shift is not None:
            v = torch.addcmul(self._shift, t, self.scale)
        else:
            v = t.clone() if self._shift is None else t + self._shift
        if p.skip is not None and self.skip_scale is not None:
            v.addcmul_(rows(p.skip[group]).to(self.dtype), self.skip_scale)
        elif p.skip is not None:
            v.add_(rows(p.skip[group]).to(self.dtype))
        if p.negative_slope != 1:
            F.leaky_relu_(v, p.negative_slope)
        return maps(v, self.n)


class GradAccumulator:
    """Gradients of a prologue's arguments, accumulated over image groups in any order.

    Args:
        folded: the prologue.
        input_grad, skip_grad: of earlier uses of the same features, if any. The skip's may be overwritten.
    """

    def __init__(self, folded: FoldedPrologue, input_grad: FeatureGrad | None, skip_grad: FeatureGrad | None) -> None:
        p = folded.p
        batch, n, height, width = p.input.shape
        self._folded, self._before = folded, (input_grad, skip_grad)
        self._input = p.input.new_empty((batch, height, width * n), dtype=folded.dtype)
        self._in_place = skip_grad is not None and skip_grad.raw.dtype == folded.dtype
        self._skip = None
        if skip_grad is not None and self._in_place:
            self._skip = rows(skip_grad.raw)
        elif p.skip is not None:
            self._skip = torch.empty_like(self._input)

    def add(self, group: slice, v: Tensor, grad_v: Tensor) -> Tensor:
        """Add a group of images.

        Args:
            group: slice of the batch.
            v: of the group, as returned by ``FoldedPrologue.apply``.
            grad_v: its gradient; overwritten.

        Returns:
            The group's Σ g, Σ g·t and Σ g·u, ``(3, n)``, for ``result``.
        """
        f, p, n = self._folded, self._folded.p, v.shape[1]
        sums = torch.zeros(3, n, dtype=f.dtype, device=v.device)
        g = rows(channels_last(grad_v))
        if p.negative_slope != 1:
            leaky_relu_backward_(g, rows(v), p.negative_slope)
        sums[0] = sum_pixels(g, n)
        uses = ((p.input, self._input, f.scale), (p.skip, self._skip, f.skip_scale))
        for index, ((feature, grad, scale), before) in enumerate(zip(uses, self._before, strict=True)):
            if feature is None or grad is None:
                continue
            total = grad[group]
            if index == 1 and self._in_place:
                if scale is None:
                    total.add_(g)
                else:
                    sums[1 + index] = sum_pixels(g * rows(feature[group]), n)
                    total.addcmul_(g, scale)
                continue
            if scale is None:
                total.copy_(g)
            else:
                torch.mul(g, rows(feature[group]).to(f.dtype), out=total)
                sums[1 + index] = sum_pixels(total, n)
                torch.mul(g, scale, out=total)
            if before is not None:
                total.add_(rows(before.raw[group]))
        return sums

    def result(self, sums: list[Tensor]) -> PrologueGrads:
        """Gradients of features and normalisations.

        Args:
            sums: the results of every ``add``.
        """
        p, n = self._folded.p, self._folded.n
        total = torch.zeros(3, n, dtype=self._folded.dtype, device=p.input.device)
        for part in sums:
            total += part
        norm = p.norm or p.skip_norm
        if norm is not None:
            total = total[:, : len(norm.weight)]
        input_grad, skip_grad = self._before
        grad_norm = None
        if p.norm is not None:
            own = total[:2] if input_grad is None else total[:2] + input_grad.sums
            grad_norm = norm_grad(p.norm, own)
        skip = None
        if self._skip is not None and p.skip is not None:
            own = total[::2] if skip_grad is None else total[::2] + skip_grad.sums
            skip = FeatureGrad(maps(self._skip, n).to(p.skip.dtype), own)
        return PrologueGrads(maps(self._input, n).to(p.input.dtype), grad_norm, skip)


def add(a: Prologue, out: Tensor) -> None:
    """v itself, without a convolution behind it, in pure torch."""
    p = FoldedPrologue(a)
    for group in a.groups():
        out[group] = p.apply(group)


def add_backward(grad_v: Tensor, a: Prologue, skip_grad: FeatureGrad | None) -> PrologueGrads:
    """The adjoint of ``add``; overwrites ``grad_v``."""
    p = FoldedPrologue(a)
    grads = GradAccumulator(p, None, skip_grad)
    return grads.result([grads.add(group, grad_v[group], grad_v[group].to(p.dtype)) for group in a.groups()])


def empty_features(like: Tensor) -> Tensor:
    """Uninitialised channels_last features of the shape and dtype of ``like``."""
    batch, n, height, width = like.shape
    return like.new_empty(batch, height, width, n).permute(0, 3, 1, 2)
