"""``resizer``: all layers of the learned resizer in one op.

The images may differ in size; at output resolution they are one batch.

Forward, for images x, their resampling ``base``, and r residual blocks::

    z, f = stem(x), norm(z)                         statistics of f at input resolution (stem.py)
    y = f;   y = y + norm(conv(lrelu(norm(conv(y)))))        r times (conv.py)
    out = head(norm(conv(y)) + f) + base            (head.py)

A batch normalisation is pending on the raw feature before it: the next stage applies it as it loads (prologue.py).

Adjoint: the stages' adjoints in reverse order. A feature that several stages read, as z, hands its gradient from one to
the next, which adds its own. Saved are the raw features and the statistics; nothing at input resolution.

One op, not one per stage: autograd, dispatcher and autocast cost as much per op as a small kernel, and gradients of a
feature with several uses need no launches of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from . import conv, head, stem
from .conv import Conv, ConvBackward
from .head import Head, HeadBackward
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import FUSED_TRUNK_FILTERS, map_channels, refusal
from .process_statistics import local_gradients, merge
from .prologue import FeatureGrad, GivenNorm, NormGrad, Prologue, add, add_backward
from .regions import regions
from .statistics import StatisticsGrad, accumulation_dtype
from .stem import Stem, StemBackward, StemOptions, StemWeights
from .trunk import TrunkBlock, TrunkInput, TrunkTail


class Layers(NamedTuple):
    """Parameters and settings of all layers."""

    # In the module's order: stem; norm1; conv1, norm1, conv2, norm2 of each block; conv3, norm2; conv4. Biases follow
    # their weights.
    parameters: list[Tensor]
    running: list[Tensor]  # running mean and variance of each norm that uses them
    slopes: list[float]  # of the stem, then of each block
    eps: list[float]  # of each norm
    # Of each norm: whether it uses those of the batch, 0 or 1. torch.jit.trace takes lists neither of bools nor of
    # strings.
    batch_statistics: list[int]
    groups: str  # lines, of each norm: process group that shares its statistics, or none; "" without any
    interpolation: str
    antialias: bool


class Resizer(NamedTuple):
    """Arguments of ``resizer``."""

    # Each (C, H_i, W_i), or (b_i, C, H_i, W_i) of one size, any strides; uint8 or a float dtype. Of all, B images.
    images: list[Tensor]
    boxes: Tensor | None  # (N, 4) float64 on the CPU, a row per tensor of images; None: whole images
    flip: Tensor | None  # (N,) bool on the CPU
    base: Tensor  # (B, C, h, w), their resampling
    layers: Layers
    dtype: torch.dtype  # of the features
    keep: bool  # return what the backward needs
    # (C,), for uint8 images.
    image_mean: Tensor | None = None
    image_std: Tensor | None = None


class ResizerBackward(NamedTuple):
    """Arguments of ``resizer_backward``: a gradient, two results, the forward's arguments."""

    grad: Tensor  # (B, C, h, w)
    features: Tensor
    statistics: Tensor
    images: list[Tensor]
    boxes: Tensor | None
    flip: Tensor | None
    layers: Layers
    dtype: torch.dtype
    image_grads: list[int]  # of each tensor of images, whether its gradient is wanted, 0 or 1
    image_mean: Tensor | None = None
    image_std: Tensor | None = None


class _Step(NamedTuple):
    """A stage after the stem.

    Features are numbered: 0 is z, i + 1 the result of 3×3 convolution i; after those come the inputs of the second and
    later blocks, which are sums of two features.
    """

    stage: str  # "conv", "add" or "head"
    input: int  # feature
    skip: int | None  # feature
    slope: int | None  # index; None: no activation
    out: int  # feature; -1 for the head
    unused: tuple[int, ...]  # features that no later step reads


@cache
def _program(num_blocks: int) -> list[_Step]:
    """Stages after the stem, in order."""
    steps, convs = [], 2 * num_blocks + 1
    last, skip = 0, None
    for block in range(num_blocks):
        if skip is not None:
            # A convolution adds at most two features as it loads: two of the three are added here.
            steps.append(_Step("add", last, skip, None, convs + block, ()))
            last, skip = convs + block, None
        steps.append(_Step("conv", last, None, None, 2 * block + 1, ()))
        steps.append(_Step("conv", 2 * block + 1, None, block + 1, 2 * block + 2, ()))
        last, skip = 2 * block + 2, last
    steps.append(_Step("conv", last, skip, None, convs, ()))
    steps.append(_Step("head", convs, 0, None, -1, ()))
    later: set[int] = set()
    for index in reversed(range(len(steps))):
        step = steps[index]
        read = {step.input} if step.skip is None else {step.input, step.skip}
        steps[index] = step._replace(unused=tuple(read - later))
        later |= read
    return steps


# len() of a tensor costs three times as much as its shape; this file and the launchers are on the path of every call.
class _Run:
    """Common part of forward and backward: parameters by layer, features, stages.

    Args:
        op: name of the op, for errors.
        a: its arguments.
        like: ``(B, C, h, w)``, the base or the gradient of the result.
        statistics: ``(norms with batch statistics, 3, n)``: mean, biased and unbiased variance; ``(…, 5, n)`` with
            process groups: then also the mean of this process and its share of all values.
        features: memory of all feature maps, one after another; None: each is a tensor of its own.
    """

    def __init__(
        self, op: str, a: Resizer | ResizerBackward, like: Tensor, statistics: Tensor, features: Tensor | None
    ) -> None:
        # Native kernels run on at least one pixel.
        self.native = _native(op, a, like) and like.numel() > 0
        layers = _dense_vectors(a.layers) if self.native else a.layers
        self.a, self.layers, self.like = a, layers, like
        batch, self.size = like.shape[0], (like.shape[2], like.shape[3])
        self.images = [image if image.dim() == 4 else image.unsqueeze(0) for image in a.images]
        self.regions = regions([image.shape[2:] for image in self.images], a.boxes, a.flip)
        pixels = [len(image) * r.height * r.width for image, r in zip(self.images, self.regions, strict=True)]
        # Values per channel of the first norm's statistics, and of the others'.
        self.counts = sum(pixels), batch * self.size[0] * self.size[1]
        self.program = _program(len(layers.slopes) - 1)
        self.groups = layers.groups.split("\n") if layers.groups else [""] * len(layers.eps)
        self._num_filters = layers.parameters[0].shape[0]
        self._features = features
        self._shape = (batch, *self.size, _channels(like, self._num_filters, self.native))
        self.norms: list[Any] = []  # GivenNorm, None for sums of features
        self.statistics: list[Tensor | None] = []
        batch, running = iter(statistics), iter(layers.running)
        for index, (eps, from_batch) in enumerate(zip(layers.eps, layers.batch_statistics, strict=True)):
            own = next(batch) if from_batch else None
            mean, var = (own[0], own[1]) if own is not None else (next(running), next(running))
            self.statistics.append(own)
            weight, bias = layers.parameters[4 + 3 * index : 6 + 3 * index]
            self.norms.append(GivenNorm(mean, var, weight, bias, eps))
        self.norms += [None] * len(self.program)

    def stage(self, module: Any, name: str) -> Callable[..., Any]:
        """A stage's implementation: native, or the module's in pure torch."""
        if self.native:
            module = backend.kernel_module(name.removesuffix("_backward"))
        return getattr(module, name)  # type: ignore[no-any-return]

    @property
    def is_padded(self) -> bool:
        return self._shape[-1] != self._num_filters

    def feature(self, index: int) -> Tensor:
        """Map ``(B, n, h, w)``, channels_last; for native kernels with its padding."""
        if self._features is None:
            raw = self.like.new_empty(self._shape, dtype=self.a.dtype)
        else:
            batch, height, width, channels = self._shape
            elements = batch * height * width * channels
            raw = self._features[index * elements : (index + 1) * elements].view(self._shape)
        raw = raw.permute(0, 3, 1, 2)
        return raw if self.native else raw[:, : self._num_filters]

    def weight(self, step: _Step) -> Tensor:
        return self.layers.parameters[3 + 3 * step.out]

    def prologue(self, step: _Step, features: dict[int, Tensor]) -> Prologue:
        skip = step.skip
        return Prologue(
            features[step.input],
            self.norms[step.input],
            None if skip is None else features[skip],
            None if skip is None else self.norms[skip],
            1.0 if step.slope is None else self.layers.slopes[step.slope],
        )

    def stem(self) -> Stem:
        layers = self.layers
        options = StemOptions(*self.size, layers.interpolation, layers.antialias, layers.slopes[0])
        weights = StemWeights._make(layers.parameters[:4])
        return Stem(self.images, self.regions, weights, options, self.a.dtype, self.a.image_mean, self.a.image_std)

    def count(self, norm: int) -> int:
        """Values per channel of a norm's statistics."""
        return self.counts[norm > 0]

    def merge(self, norm: int) -> None:
        """Make a norm's statistics those of all processes of its group."""
        own, group = self.statistics[norm], self.groups[norm]
        if own is not None and group:
            own[3] = own[0]
            own[0], own[1], own[2], own[4] = merge(own[3], own[1], self.count(norm), group)

    def statistics_grad(self, norm: int, grad: NormGrad | None) -> StatisticsGrad | None:
        """Gradient of this process's statistics from that of a norm.

        None if the norm uses running statistics.
        """
        own, group = self.statistics[norm], self.groups[norm]
        if own is None or grad is None:
            return None
        if group:
            local = local_gradients(grad.mean, grad.var, own[3] - own[0], own[4], group)
            return StatisticsGrad(own[3], *local, self.count(norm))
        return StatisticsGrad(own[0], grad.mean, grad.var, self.count(norm))


def _native(op: str, a: Resizer | ResizerBackward, like: Tensor) -> bool:
    """Whether all stages run native.

    The dtype of the features decides.
    """
    refuse = partial(refusal, a.layers.parameters[0].shape[0], like.shape[1], like.device, a.dtype)
    return backend.runs_native(op, like.device, a.dtype, refuse)


def _channels(like: Tensor, num_filters: int, native: bool) -> int:
    """Channels of a map in memory.

    On CUDA always those of the native kernels: a compiled backward may run under another backend than its forward.
    """
    return map_channels(num_filters) if native or like.is_cuda else num_filters


def _readable(image: Tensor, dtype: torch.dtype) -> Tensor:
    """An image as the head reads it: float32 or the features' dtype."""
    return image if image.dtype in (dtype, torch.float32) else image.float()


def _like(base: Tensor, out: Tensor) -> Tensor:
    """A result in the dtype of the base that was given."""
    return out if out.dtype == base.dtype else out.to(base.dtype)


def _resizer(a: Resizer) -> tuple[Tensor, Tensor, Tensor]:
    memory, statistics = _saved(a)
    run = _Run("resizer", a, a.base, statistics, memory if a.keep else None)
    if not run.native and run.is_padded:
        memory.zero_()  # the padding
    base = _readable(a.base, a.dtype) if run.native else a.base
    features = {0: run.feature(0)}
    run.stage(stem, "stem")(run.stem(), features[0], _rows(run.statistics[0]))
    run.merge(0)
    if run.native and not a.keep and _fits_trunk(a):
        return _like(a.base, _trunk(run, features[0], base)), memory, statistics
    out = base
    for step in run.program:
        p = run.prologue(step, features)
        if step.stage == "head":
            weight, bias = run.layers.parameters[-2:]
            out = run.stage(head, "head")(Head(p, weight, bias, base))
            continue
        features[step.out] = raw = run.feature(step.out)
        if step.stage == "conv":
            run.stage(conv, "conv")(Conv(p, run.weight(step)), raw, _rows(run.statistics[step.out]))
            run.merge(step.out)
        else:
            add(p, raw)
        for index in step.unused:
            del features[index]
    return _like(a.base, out), memory, statistics


def _resizer_backward(a: ResizerBackward) -> list[Tensor]:
    run = _Run("resizer_backward", a, a.grad, a.statistics, a.features)
    features = {index: run.feature(index) for index in range(_count(a.layers))}
    weight, bias = run.layers.parameters[-2:]
    grad = _readable(a.grad, a.dtype) if run.native else a.grad
    grads: list[Any] = [None] * len(a.layers.parameters)
    # Of features with uses to come; and of those without, which the stage that made them takes.
    so_far: dict[int, FeatureGrad] = {}
    whole: dict[int, tuple[Tensor, NormGrad | None]] = {}
    for step in reversed(run.program):
        p = run.prologue(step, features)
        skip_grad = None if step.skip is None else so_far.pop(step.skip, None)
        if step.stage == "head":
            use, *grads[-2:] = run.stage(head, "head_backward")(HeadBackward(grad, p, weight, bias, skip_grad))
        elif step.stage == "conv":
            grad_raw, grad_norm = whole.pop(step.out)
            statistics_grad, forward = run.statistics_grad(step.out, grad_norm), Conv(p, run.weight(step))
            given = statistics_grad, features[step.out], forward, so_far.pop(step.input, None), skip_grad
            use, grads[3 + 3 * step.out] = run.stage(conv, "conv_backward")(ConvBackward(grad_raw, *given))
        else:
            use = add_backward(whole.pop(step.out)[0], p, skip_grad)
        whole[step.input] = use.input, use.norm
        if use.norm is not None:
            grads[4 + 3 * step.input : 6 + 3 * step.input] = use.norm.weight, use.norm.bias
        if step.skip is not None and use.skip is not None:
            so_far[step.skip] = use.skip
    grad_z, grad_norm = whole.pop(0)
    wanted = [bool(flag) for flag in a.image_grads]
    last = StemBackward(grad_z, run.statistics_grad(0, grad_norm), run.stem(), wanted)
    dxs, grads[:4] = run.stage(stem, "stem_backward")(last)
    return [dx.view(image.shape) for dx, image in zip(dxs, a.images, strict=True) if dx is not None] + grads


def _dense_vectors(layers: Layers) -> Layers:
    """Layers with dense vectors, as native kernels read them.

    Weights may have any strides.
    """
    tensors = [*layers.parameters, *layers.running]
    if all(map(Tensor.is_contiguous, tensors)):
        return layers
    dense = [tensor if tensor.dim() == 4 else tensor.contiguous() for tensor in tensors]
    count = len(layers.parameters)
    return layers._replace(parameters=dense[:count], running=dense[count:])


def _fits_trunk(a: Resizer) -> bool:
    """Whether two kernels do the rest: one-block inference in 16 bits."""
    return (
        len(a.layers.slopes) == 2
        and not any(a.layers.batch_statistics)
        and a.layers.parameters[0].shape[0] <= FUSED_TRUNK_FILTERS
        and backend.refusal("trunk", a.base.device, a.dtype) is None
    )


def _trunk(run: _Run, z: Tensor, base: Tensor) -> Tensor:
    """The layers after the stem with running statistics, two convolutions per kernel."""
    kernels, p = backend.kernel_module("trunk"), run.layers.parameters
    norm1, inner1, inner2, norm2 = run.norms[:4]
    raw = kernels.trunk_block(TrunkBlock(TrunkInput(z, norm1, None, None, p[6], inner1), run.layers.slopes[1], p[9]))
    return kernels.trunk_tail(TrunkTail(TrunkInput(raw, inner2, z, norm1, p[12], norm2), p[-2], p[-1], base))


def _rows(statistics: Tensor | None) -> Tensor | None:
    """Rows that a stage writes: those of this process's batch."""
    return statistics if statistics is None or len(statistics) == 3 else statistics[:3]


def _count(layers: Layers) -> int:
    """Number of feature maps."""
    blocks = len(layers.slopes) - 1
    return 2 * blocks + 2 + max(blocks - 1, 0)


def _saved(a: Resizer) -> tuple[Tensor, Tensor]:
    """Uninitialised memory of features and statistics."""
    layers, base = a.layers, a.base
    n = layers.parameters[0].shape[0]
    rows = 5 if layers.groups else 3
    dtype = accumulation_dtype(a.dtype)
    statistics = base.new_empty((sum(layers.batch_statistics), rows, n), dtype=dtype)
    channels = _channels(base, n, a.keep and not base.is_cuda and _native("resizer", a, base))
    batch, _, height, width = base.shape
    elements = _count(layers) * batch * height * width * channels if a.keep else 0
    return base.new_empty(elements, dtype=a.dtype), statistics


def _fake(a: Resizer) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(a.base, memory_format=torch.preserve_format), *_saved(a)


def _fake_backward(a: ResizerBackward) -> list[Tensor]:
    images = [image for image, wanted in zip(a.images, a.image_grads, strict=True) if wanted]
    return [torch.empty_like(t) for t in (*images, *a.layers.parameters)]


def _inputs(a: Resizer) -> list[Tensor]:
    return [*a.images, a.base, *a.layers.parameters]


def _setup_context(ctx: Any, a: Resizer, output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, features, statistics = output
    ctx.mark_non_differentiable(features, statistics)
    # Zeros for them would be as large as they are.
    ctx.set_materialize_grads(False)
    layers = a.layers
    ctx.counts = len(a.images), len(layers.parameters)
    ctx.save_for_backward(
        features, statistics, a.boxes, a.flip, a.image_mean, a.image_std,
        *a.images, *layers.parameters, *layers.running,
    )  # fmt: skip
    ctx.settings, ctx.dtype = layers[2:], a.dtype


def _autograd(ctx: Any, grad: Tensor | None, _features: None, _statistics: None) -> list[Tensor | None]:
    features, statistics, boxes, flip, image_mean, image_std, *rest = ctx.saved_tensors
    num_images, count = ctx.counts
    images, parameters, running = rest[:num_images], rest[num_images:][:count], rest[num_images + count :]
    if grad is None:
        return [None] * (num_images + 1 + count)
    *image_grads, base_grad = ctx.inputs_need_grad[: num_images + 1]
    grads = iter(
        torch.ops.learned_resizer.resizer_backward(
            grad, features, statistics, images, boxes, flip, parameters, running, *ctx.settings, ctx.dtype,
            [int(wanted) for wanted in image_grads], image_mean, image_std,
        )
    )  # fmt: skip
    return [*(next(grads) if wanted else None for wanted in image_grads), grad if base_grad else None, *grads]


def _autocast(dtype: torch.dtype, a: Resizer) -> tuple[Any, ...]:
    # Every tensor is converted as it is read. The image skip keeps its precision, as torch's type promotion does.
    images, boxes, flip, base, layers, of_features, *rest = a
    return images, boxes, flip, base, *layers, of_features if of_features == torch.float64 else dtype, *rest


define("resizer", Resizer, "(Tensor, Tensor, Tensor)", run=_resizer, fake=_fake)
define("resizer_backward", ResizerBackward, "Tensor[]", run=_resizer_backward, fake=_fake_backward)
register_autograd("resizer", _inputs, _setup_context, _autograd)
register_no_second_derivative("resizer_backward", lambda a: [a.grad, *a.images, *a.layers.parameters])
register_autocast("resizer", _autocast)
register_autocast("resizer_backward")
