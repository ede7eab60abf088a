"""``head``: last 7×7 convolution with bias, fused with prologue and image skip.

Forward, with the prologue of ``prologue.py`` and the resized image as ``base``::

    v = prologue(input, …)
    y = W * v + bias + base                       7×7, zero padding of v

Adjoint, for dy::

    dW = Σ dy ⋆ v,   dbias = Σ dy,   dbase = dy,   dv = Wᵀ * dy,   then the prologue's adjoint
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import channels_last, maps, rows
from .parallel import map_in_order
from .prologue import FeatureGrad, FoldedPrologue, GradAccumulator, Prologue, PrologueGrads

# Vector lanes that the CPU convolution fills with output channels.
_LANES = 16


class Head(NamedTuple):
    """Arguments of ``head``."""

    prologue: Prologue
    weight: Tensor  # (C, n, 7, 7), of any float dtype and strides, as the bias
    bias: Tensor
    base: Tensor  # (B, C, h, w), of any float dtype and strides


class HeadBackward(NamedTuple):
    """Arguments of ``head_backward``."""

    grad: Tensor  # (B, C, h, w), of the base's dtype, any strides
    prologue: Prologue
    weight: Tensor
    bias: Tensor
    skip_grad: FeatureGrad | None  # as in ConvBackward


def _pixels_per_block(out_channels: int, device: torch.device) -> int:
    """Neighbouring pixels as output channels: 3 alone leave most vector lanes empty."""
    return max(1, min(4, _LANES // out_channels)) if device.type == "cpu" else 1


def _has(feature: str) -> bool:
    """Whether the processor has an instruction set, as far as torch knows."""
    return bool(getattr(torch.cpu, f"_is_{feature}_supported", bool)())


def _form(dtype: torch.dtype, weight: Tensor) -> tuple[torch.dtype, int]:
    """Forward dtype and pixels per block: fastest known to be right (docs/onednn.md)."""
    step = _pixels_per_block(len(weight), weight.device)
    if weight.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return dtype, step
    if dtype == torch.bfloat16 and _has("avx512_bf16"):
        # oneDNN's code for AMX has been wrong in bfloat16 for other shapes than the plain one.
        return dtype, 1 if _has("amx_tile") else step
    # Without instructions for it, oneDNN computes a half type in scalar loops: ten times as slow as float32.
    return torch.float32, step


def _blocks(features: Tensor, step: int) -> Tensor:
    """Features as blocks of ``step`` neighbouring pixels, padded with zeros.

    ``(B, n, h, w)`` as ``(B, step*n, h, ⌈w/step⌉)``, channels_last; without a copy where the features are and w is a
    multiple of ``step``.
    """
    extra = -features.shape[3] % step
    return maps(rows(F.pad(features, (0, extra)) if extra else features), step * features.shape[1])


def _reach(width: int, step: int) -> int:
    """Blocks that a kernel of ``width`` taps reads on either side."""
    return -(-(width // 2) // step)


def _block_weight(weight: Tensor, step: int) -> Tensor:
    """Weight ``(step*C, step*n, 7, 2*reach+1)`` of the equivalent convolution of blocks.

    It holds the kernel once for each pixel of a block, each time shifted by a pixel. The stride is 1: the equivalent
    without blocks, 8 to 10 taps with a stride of 2 to 4 pixels, makes oneDNN return garbage for some shapes.
    """
    out_channels, n, height, width = weight.shape
    reach = _reach(width, step)
    wide = weight.new_zeros(step, out_channels, n, height, step * (2 * reach + 1))
    for pixel in range(step):
        first = step * reach - width // 2 + pixel
        wide[pixel, ..., first : first + width] = weight
    taps = wide.unflatten(4, (-1, step)).permute(0, 1, 5, 2, 3, 4)
    return channels_last(taps.reshape(step * out_channels, step * n, height, -1))


def _fold_blocks(grad: Tensor, weight: Tensor, step: int) -> Tensor:
    """Adjoint of ``_block_weight``; only the shape of ``weight`` counts."""
    out_channels, n, height, width = weight.shape
    reach = _reach(width, step)
    taps = grad.reshape(step, out_channels, step, n, height, -1).permute(0, 1, 3, 4, 5, 2).flatten(4)
    first = step * reach - width // 2
    return torch.stack([taps[p, ..., first + p : first + p + width] for p in range(step)]).sum(0)


def head(a: Head) -> Tensor:
    """The head in pure torch: ``(B, C, h, w)``, like ``base``."""
    p, base = FoldedPrologue(a.prologue), a.base
    width, channels = a.prologue.input.shape[3], len(a.weight)
    dtype, step = _form(a.prologue.input.dtype, a.weight)
    kernel = _block_weight(a.weight.to(dtype), step)
    bias = a.bias.to(dtype).repeat(step)
    padding = (a.weight.shape[2] // 2, _reach(a.weight.shape[3], step))
    out = torch.empty_like(base, memory_format=torch.preserve_format)

    def per_group(group: slice) -> None:
        y = F.conv2d(_blocks(p.apply(group).to(dtype), step), kernel, bias, padding=padding)
        torch.add(base[group], maps(rows(y), channels)[..., :width], out=out[group])

    map_in_order(per_group, a.prologue.groups(), out.device)
    return out


def head_backward(a: HeadBackward) -> tuple[PrologueGrads, Tensor, Tensor]:
    """The adjoint in pure torch: gradients of prologue, weight and bias."""
    grad, weight = a.grad, a.weight
    p = FoldedPrologue(a.prologue)
    grads = GradAccumulator(p, None, a.skip_grad)
    step = _pixels_per_block(len(weight), weight.device)
    kernel = channels_last(weight.to(p.dtype))
    wide = _block_weight(kernel, step)

    def per_group(group: slice) -> tuple[Tensor, Tensor]:
        v = p.apply(group)
        g = channels_last(grad[group].to(p.dtype))
        grad_v, _, _ = torch.ops.aten.convolution_backward(
            g, v, kernel, None, [1, 1], [3, 3], [1, 1], False, [0, 0], 1, [True, False, False]
        )
        _, grad_wide, _ = torch.ops.aten.convolution_backward(
            _blocks(g, step), _blocks(v, step), wide, None,
            [1, 1], [3, wide.shape[3] // 2], [1, 1], False, [0, 0], 1, [False, True, False],
        )  # fmt: skip
        return grads.add(group, v, grad_v), grad_wide

    done = map_in_order(per_group, a.prologue.groups(), grad.device)
    grad_wide = sum((part for _, part in done), torch.zeros_like(wide))
    grad_bias = grad.to(p.dtype).sum((0, 2, 3))
    return (
        grads.result([part for part, _ in done]),
        torch.empty_like(weight).copy_(_fold_blocks(grad_wide, weight, step)),
        grad_bias.to(a.bias.dtype),
    )
