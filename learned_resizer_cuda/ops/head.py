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
from .layout import channels_last, rows
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import choose
from .parallel import map_in_order
from .prologue import Prologue, PrologueGrads

# Vector lanes that the CPU convolution fills with output channels.
_LANES = 16


def _pixels_per_step(out_channels: int) -> int:
    """Neighbouring pixels to compute as extra output channels: 3 channels alone leave most vector lanes empty."""
    return max(1, min(4, _LANES // out_channels))


def _wide_weight(weight: Tensor, step: int) -> Tensor:
    """``(step*C, n, 7, 6+step)``: the kernel once for each of ``step`` neighbouring pixels, moved by a pixel each."""
    out_channels, n, height, width = weight.shape
    wide = weight.new_zeros(step, out_channels, n, height, width + step - 1)
    for pixel in range(step):
        wide[pixel, :, :, :, pixel : pixel + width] = weight
    return channels_last(wide.flatten(0, 1))


def _fold_wide(wide: Tensor, out_channels: int, width: int) -> Tensor:
    """Adjoint of ``_wide_weight``."""
    step = len(wide) // out_channels
    wide = wide.unflatten(0, (step, out_channels))
    return torch.stack([wide[pixel, ..., pixel : pixel + width] for pixel in range(step)]).sum(0)


def _pad_width(v: Tensor, step: int) -> Tensor:
    """Zero columns on the right up to a multiple of ``step``."""
    extra = -v.shape[3] % step
    return channels_last(F.pad(v, (0, extra))) if extra else v


def _head(*args: Any) -> Tensor:
    p, (weight, bias, base) = Prologue(*args[:7]), args[7:]
    width, step = p.input.shape[3], _pixels_per_step(len(weight))
    kernel = _wide_weight(weight, step)
    out = torch.empty_like(base, memory_format=torch.preserve_format)

    def work(group: slice) -> None:
        v = _pad_width(p.apply(group).to(weight.dtype), step)
        y = F.conv2d(v, kernel, bias.to(weight.dtype).repeat(step), stride=(1, step), padding=3)
        # Channels (pixel, channel) of a step are its pixels side by side.
        y = rows(y).unflatten(2, (-1, len(weight)))[:, :, :width].permute(0, 3, 1, 2)
        torch.add(base[group], y, out=out[group])

    map_in_order(work, p.groups(), out.device)
    return out


def _head_backward(grad: Tensor, *args: Any) -> tuple[Tensor, ...]:
    p, (weight,) = Prologue(*args[:7]), args[7:]
    grads = PrologueGrads(p)
    channels, step = len(weight), _pixels_per_step(len(weight))
    kernel = channels_last(weight.to(p.dtype))
    wide = _wide_weight(weight.to(p.dtype), step)

    def work(group: slice) -> tuple[Tensor, Tensor]:
        v = p.apply(group)
        g = channels_last(grad[group].to(p.dtype))
        grad_v, _, _ = torch.ops.aten.convolution_backward(
            g, v, kernel, None, [1, 1], [3, 3], [1, 1], False, [0, 0], 1, [True, False, False]
        )
        g = rows(_pad_width(g, step)).unflatten(2, (-1, step * channels)).permute(0, 3, 1, 2)
        # oneDNN's weight gradient is fastest on contiguous planes here.
        _, grad_kernel, _ = torch.ops.aten.convolution_backward(
            g.contiguous(), _pad_width(v, step).contiguous(), wide.contiguous(), None,
            [1, step], [3, 3], [1, 1], False, [0, 0], 1, [False, True, False],
        )  # fmt: skip
        return grads.add(group, v, grad_v), grad_kernel

    done = map_in_order(work, p.groups(), grad.device)
    grad_wide = sum((part for _, part in done), torch.zeros_like(wide))
    grad_bias = grad.to(p.dtype).sum((0, 2, 3))
    grad_weight = _fold_wide(grad_wide, channels, weight.shape[3])
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
