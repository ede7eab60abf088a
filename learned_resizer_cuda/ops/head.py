"""``head``: the last 7×7 convolution with its bias, its input's prologue and the image skip fused.

Forward, with the prologue of ``prologue.py`` and the resized image as ``base``::

    v = prologue(input, …)
    y = W * v + bias + base                       7×7, zero padding of v

Adjoint, for dy::

    dW = Σ dy ⋆ v,   dbias = Σ dy,   dbase = dy,   dv = Wᵀ * dy,   then the prologue's adjoint
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import prologue
from .layout import channels_last, maps, rows
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import choose
from .parallel import map_in_order
from .prologue import Prologue, PrologueGrads

# Vector lanes that the CPU convolution fills with output channels.
_LANES = 16


def _pixels_per_block(out_channels: int, device: torch.device) -> int:
    """Neighbouring pixels to compute as extra output channels: 3 channels alone leave most vector lanes empty."""
    return max(1, min(4, _LANES // out_channels)) if device.type == "cpu" else 1


def _has(feature: str) -> bool:
    """Whether the processor has an instruction set, as far as this torch can tell."""
    return bool(getattr(torch.cpu, f"_is_{feature}_supported", bool)())


def _form(weight: Tensor) -> tuple[torch.dtype, int]:
    """dtype and pixels per block of the forward product: the fastest of those known to be right (docs/onednn.md)."""
    step = _pixels_per_block(len(weight), weight.device)
    if weight.device.type != "cpu" or weight.dtype not in (torch.bfloat16, torch.float16):
        return weight.dtype, step
    if weight.dtype == torch.bfloat16 and _has("avx512_bf16"):
        # oneDNN's code for AMX has been wrong in bfloat16 for other shapes than the plain one.
        return weight.dtype, 1 if _has("amx_tile") else step
    # Without instructions of its own a half type takes oneDNN's loops over scalars: ten times as long as float32.
    return torch.float32, step


def _blocks(features: Tensor, step: int) -> Tensor:
    """``(B, n, h, w)`` as ``(B, step*n, h, ⌈w/step⌉)``: ``step`` neighbouring pixels as one, zeros after the last.

    Channels_last, without a copy where the features are and w is a multiple of ``step``.
    """
    extra = -features.shape[3] % step
    return maps(rows(F.pad(features, (0, extra)) if extra else features), step * features.shape[1])


def _reach(width: int, step: int) -> int:
    """Blocks to either side that a kernel of ``width`` taps reads."""
    return -(-(width // 2) // step)


def _block_weight(weight: Tensor, step: int) -> Tensor:
    """``(step*C, step*n, 7, 2*reach+1)``: the convolution of blocks that is ``weight``'s of their pixels.

    It is the kernel once for each pixel of a block, moved by a pixel each. The stride is 1: with 8 to 10 taps and a
    stride of 2 to 4 pixels, which say the same without blocks, oneDNN returns garbage for some shapes.
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
    """Adjoint of ``_block_weight``; ``weight`` tells its shape."""
    out_channels, n, height, width = weight.shape
    reach = _reach(width, step)
    taps = grad.reshape(step, out_channels, step, n, height, -1).permute(0, 1, 3, 4, 5, 2).flatten(4)
    first = step * reach - width // 2
    return torch.stack([taps[p, ..., first + p : first + p + width] for p in range(step)]).sum(0)


def _head(*args: Any) -> Tensor:
    p, (weight, bias, base) = Prologue(*args[:7]), args[7:]
    width, channels = p.input.shape[3], len(weight)
    dtype, step = _form(weight)
    kernel = _block_weight(weight.to(dtype), step)
    bias = bias.to(dtype).repeat(step)
    padding = (weight.shape[2] // 2, _reach(weight.shape[3], step))
    out = torch.empty_like(base, memory_format=torch.preserve_format)

    def work(group: slice) -> None:
        y = F.conv2d(_blocks(p.apply(group).to(dtype), step), kernel, bias, padding=padding)
        torch.add(base[group], maps(rows(y), channels)[..., :width], out=out[group])

    map_in_order(work, p.groups(), out.device)
    return out


def _head_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    p, (weight,) = Prologue(*args[:7]), args[7:]
    grads = PrologueGrads(p)
    step = _pixels_per_block(len(weight), weight.device)
    kernel = channels_last(weight.to(p.dtype))
    wide = _block_weight(kernel, step)

    def work(group: slice) -> tuple[Tensor, Tensor]:
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

    done = map_in_order(work, p.groups(), grad.device)
    grad_wide = sum((part for _, part in done), torch.zeros_like(wide))
    grad_bias = grad.to(p.dtype).sum((0, 2, 3))
    grad_weight = _fold_blocks(grad_wide, weight, step)
    return (
        *grads.result([part for part, _ in done]),
        grad_weight.contiguous().to(weight.dtype),
        grad_bias.to(weight.dtype),
    )


def _head_cuda(*args: Any) -> Tensor:
    if choose("head", args[0], args[7]) == "torch":
        return _head(*args)
    from ..kernels import head as kernel

    return kernel.head(*args)


def _head_backward_cuda(*args: Any) -> tuple[Tensor, ...]:
    if choose("head_backward", args[1], args[8]) == "torch":
        return _head_backward(*args)
    from ..kernels import head as kernel

    return kernel.head_backward(*args)


def _fake(*args: Any) -> Tensor:
    return torch.empty_like(args[9], memory_format=torch.preserve_format)


def _fake_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    weight = args[7]
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    return *Prologue(*args[:7]).fake_grads(), grad_weight, weight.new_empty(weight.shape[0])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, negative_slope, weight, _, _ = inputs
    ctx.save_for_backward(*tensors, weight)
    ctx.negative_slope = negative_slope


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, weight = ctx.saved_tensors
    *grads, grad_weight, grad_bias = torch.ops.learned_resizer.head_backward(grad, *tensors, ctx.negative_slope, weight)
    return *prologue.autograd_result(tensors[3] is not None, grads), grad_weight, grad_bias, grad


def _autocast(dtype: torch.dtype, *args: Any) -> tuple[Any, ...]:
    # The image skip keeps its own precision: the sum is as exact as torch's promotion would have it.
    return *prologue.autocast(dtype, args), *(prologue.cast(dtype, t) for t in args[7:9]), args[9]


define(
    f"head({prologue.SCHEMA}, Tensor weight, Tensor bias, Tensor base) -> Tensor",
    cpu=_head,
    cuda=_head_cuda,
    fake=_fake,
)
define(
    f"head_backward(Tensor grad, {prologue.SCHEMA}, Tensor weight) -> {prologue.GRADS}, Tensor, Tensor)",
    cpu=_head_backward,
    cuda=_head_backward_cuda,
    fake=_fake_backward,
)
register_autograd("head", _autograd, _setup_context)
register_no_second_derivative("head_backward")
register_autocast("head", _autocast)
register_autocast("head_backward")
