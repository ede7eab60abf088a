"""``head``: last 7×7 convolution with bias, fused with prologue and image skip.

Forward, with the prologue of ``prologue.py`` and the resized image as ``base``::

    v = prologue(input, …)
    y = W * v + bias + base                       7×7, zero padding of v

Adjoint, for dy::

    dW = Σ dy ⋆ v,   dbias = Σ dy,   dbase = dy,   dv = Wᵀ * dy,   then the prologue's adjoint
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import channels_last, maps, rows
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import choose
from .parallel import map_in_order
from .prologue import Prologue, PrologueGrads, cast

# Vector lanes that the CPU convolution fills with output channels.
_LANES = 16


class Head(NamedTuple):
    """Arguments of ``head``."""

    prologue: Prologue
    weight: Tensor  # (C, n, 7, 7)
    bias: Tensor
    base: Tensor


class HeadBackward(NamedTuple):
    """Arguments of ``head_backward``."""

    grad: Tensor
    prologue: Prologue
    weight: Tensor


def _pixels_per_block(out_channels: int, device: torch.device) -> int:
    """Neighbouring pixels as output channels: 3 alone leave most vector lanes empty."""
    return max(1, min(4, _LANES // out_channels)) if device.type == "cpu" else 1


def _has(feature: str) -> bool:
    """Whether the processor has an instruction set, as far as torch knows."""
    return bool(getattr(torch.cpu, f"_is_{feature}_supported", bool)())


def _form(weight: Tensor) -> tuple[torch.dtype, int]:
    """Forward dtype and pixels per block: fastest known to be right (docs/onednn.md)."""
    step = _pixels_per_block(len(weight), weight.device)
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16):
        return weight.dtype, step
    if weight.dtype == torch.bfloat16 and _has("avx512_bf16"):
        # oneDNN's code for AMX has been wrong in bfloat16 for other shapes than the plain one.
        return weight.dtype, 1 if _has("amx_tile") else step
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


def _head(a: Head) -> Tensor:
    p, base = a.prologue, a.base
    width, channels = p.input.shape[3], len(a.weight)
    dtype, step = _form(a.weight)
    kernel = _block_weight(a.weight.to(dtype), step)
    bias = a.bias.to(dtype).repeat(step)
    padding = (a.weight.shape[2] // 2, _reach(a.weight.shape[3], step))
    out = torch.empty_like(base, memory_format=torch.preserve_format)

    def per_group(group: slice) -> None:
        y = F.conv2d(_blocks(p.apply(group).to(dtype), step), kernel, bias, padding=padding)
        torch.add(base[group], maps(rows(y), channels)[..., :width], out=out[group])

    map_in_order(per_group, p.groups(), out.device)
    return out


def _head_backward(a: HeadBackward) -> tuple[Tensor, ...]:
    grad, p, weight = a
    grads = PrologueGrads(p)
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

    done = map_in_order(per_group, p.groups(), grad.device)
    grad_wide = sum((part for _, part in done), torch.zeros_like(wide))
    grad_bias = grad.to(p.dtype).sum((0, 2, 3))
    grad_weight = _fold_blocks(grad_wide, weight, step)
    return (
        *grads.result([part for part, _ in done]),
        grad_weight.contiguous().to(weight.dtype),
        grad_bias.to(weight.dtype),
    )


def _choose(op: str, a: Head | HeadBackward) -> str:
    return choose(op, a.prologue.input, a.weight)


def _fake(a: Head) -> Tensor:
    return torch.empty_like(a.base, memory_format=torch.preserve_format)


def _fake_backward(a: HeadBackward) -> tuple[Tensor, ...]:
    grad_weight = torch.empty_like(a.weight, memory_format=torch.contiguous_format)
    return *a.prologue.fake_grads(), grad_weight, a.weight.new_empty(a.weight.shape[0])


def _setup_context(ctx: Any, a: Head, output: Tensor) -> None:
    *features, ctx.negative_slope = a.prologue
    ctx.save_for_backward(*features, a.weight)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *features, weight = ctx.saved_tensors
    p = Prologue._make([*features, ctx.negative_slope])
    *grads, grad_weight, grad_bias = torch.ops.learned_resizer.head_backward(grad, *p, weight)
    return *p.autograd_result(grads), grad_weight, grad_bias, grad


def _autocast(dtype: torch.dtype, a: Head) -> tuple[Any, ...]:
    # The image skip keeps its precision: the sum is as exact as torch's type promotion makes it.
    return *a.prologue.autocast(dtype), cast(dtype, a.weight), cast(dtype, a.bias), a.base


define("head", Head, 1, pure_torch=_head, native="head", choose=_choose, fake=_fake)
define("head_backward", HeadBackward, 8, pure_torch=_head_backward, native="head", choose=_choose, fake=_fake_backward)
register_autograd("head", _autograd, _setup_context)
register_no_second_derivative("head_backward")
register_autocast("head", _autocast)
register_autocast("head_backward")
