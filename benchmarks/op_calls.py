"""Calls of ``resample`` and of every stage of ``resizer``, with arguments suited to comparisons.

One builder for the tests, the sanitizer's exerciser and the timing of single kernels, so that all three call them in
the same way. Arguments are made in float64 on the CPU from a seed; `placed` rounds them to a dtype and moves them. A
call runs native kernels or pure torch as `use_backend` and the device say, as within ``resizer``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learned_resizer_cuda import backend
from learned_resizer_cuda.ops import conv, head, stem
from learned_resizer_cuda.ops.conv import Conv, ConvBackward
from learned_resizer_cuda.ops.head import Head, HeadBackward
from learned_resizer_cuda.ops.native_shapes import refusal
from learned_resizer_cuda.ops.prologue import FeatureGrad, GivenNorm, Prologue, PrologueGrads, empty_features, norm_grad
from learned_resizer_cuda.ops.regions import regions
from learned_resizer_cuda.ops.statistics import StatisticsGrad, accumulation_dtype
from learned_resizer_cuda.ops.stem import Stem, StemBackward, StemOptions, StemWeights
from learned_resizer_cuda.ops.trunk import TrunkBlock, TrunkInput, TrunkTail

OPS = ("resample", "stem", "conv", "head", "trunk_block", "trunk_tail")
# Inference only: without gradients.
NO_GRADIENT = ("trunk_block", "trunk_tail")
SLOPE = 0.2
# The least distance of a LeakyReLU's input from its kink under `clear`.
MARGIN = 0.05

# Float32 with half-precision features: statistics and sums.
_VECTOR = re.compile("(mean|var|sums)$")
_PARAMETER = re.compile("norm\\d?_(weight|bias)$|^(w0|b0|w1|b1|weight\\d?|bias)$")
_NORM = ("mean", "var", "weight", "bias", "eps")


@dataclass(frozen=True)
class OpCall:
    """One call of an op.

    Attributes:
        op: one of `OPS`.
        sizes: (height, width) in and out; ops at output resolution take the second.
        batch, channels, filters: of the image and of the features.
        layout: of the image, "NCHW" or "channels_last"; features are always channels_last.
        interpolation, antialias: of the resampling.
        statistics: whether the op writes statistics.
        norm: whether a normalisation is pending on the input.
        skip, skip_norm: whether the prologue adds a second feature, and whether a normalisation is pending on that.
        earlier: whether the backward adds to gradients from other uses of its features.
        clear: keep every LeakyReLU's input at least `MARGIN` from zero. An input within rounding of zero has slope 1
            in one implementation and 0.2 in the other; both are right, and a gradient cannot be compared there.
        seed: of the values.
    """

    op: str
    sizes: tuple[int, int, int, int] = (37, 29, 17, 13)
    batch: int = 2
    channels: int = 3
    filters: int = 16
    layout: str = "NCHW"
    interpolation: str = "bilinear"
    antialias: bool = True
    statistics: bool = True
    norm: bool = True
    skip: bool = True
    skip_norm: bool = True
    earlier: bool = False
    clear: bool = True
    seed: int = 0

    def __str__(self) -> str:
        h, w, oh, ow = self.sizes
        words = [self.op, f"{h}x{w}-{oh}x{ow}", f"c{self.channels}", f"n{self.filters}", self.layout]
        words.append(self.interpolation if self.antialias else f"{self.interpolation}-plain")
        flags = [name for name in ("statistics", "norm", "skip", "skip_norm", "clear") if not getattr(self, name)]
        return "-".join(words + ["earlier"] * self.earlier + [f"no-{name}" for name in flags])

    def with_(self, **changes: Any) -> OpCall:
        return replace(self, **changes)


def arguments(call: OpCall) -> dict[str, Any]:
    """Arguments of the call by name: float64 tensors on the CPU, numbers, None."""
    random = _Random(call.seed)
    make = {
        "resample": _resample,
        "stem": _stem,
        "conv": _conv,
        "head": _head,
        "trunk_block": _trunk_block,
        "trunk_tail": _trunk_tail,
    }[call.op]
    return make(call, random)


def placed(
    values: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    layout: str,
    parameters: torch.dtype | None = None,
) -> dict[str, Any]:
    """The arguments rounded to a dtype, on a device.

    Args:
        values: of `arguments`.
        dtype: of images and features; statistics are float32 at least.
        device: of all tensors.
        layout: of images.
        parameters: dtype of weights and biases, if another one, as under autocast.
    """

    def place(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if _PARAMETER.search(name):
            return value.to(device, parameters or dtype)
        if _VECTOR.search(name):
            return value.to(device, accumulation_dtype(dtype))
        of_image = layout == "NCHW" and name in ("image", "base")
        memory_format = torch.contiguous_format if of_image else torch.channels_last
        return value.to(dtype).contiguous(memory_format=memory_format).to(device)

    return {name: place(name, value) for name, value in values.items()}


def run(op: str, values: dict[str, Any], seed: int | None = 1) -> dict[str, Tensor]:
    """Call an op and, with a seed, its backward along random directions.

    Args:
        op: one of `OPS`.
        values: as `placed` returns them.
        seed: of the directions, which lie in [0.5, 1.5]: sums of them do not cancel. None: forward only.

    Returns:
        Outputs as "out0", …, gradients as "grad <argument>".
    """
    outputs = forward(op, values)
    found = {f"out{index}": out for index, out in enumerate(outputs)}
    if op in NO_GRADIENT or seed is None:
        return found
    return {**found, **gradients(op, values, outputs, directions(outputs, seed))}


def forward(op: str, values: dict[str, Any]) -> list[Tensor]:
    """Outputs of an op; of one with statistics the map, mean, biased and unbiased variance."""
    v = values
    if op == "resample":
        return [torch.ops.learned_resizer.resample(*v.values())]
    if op == "head":
        return [_stage(op, v)(Head(_given_prologue(v), v["weight"], v["bias"], v["base"]))]
    if op in NO_GRADIENT:
        return [_trunk(op, v)]
    if op == "stem":
        image, like = v["image"], v["w0"]
        out = empty_features(image.new_empty(len(image), len(like), v["height"], v["width"]))
    else:
        out = empty_features(v["input"])
    statistics = out.new_empty((3, out.shape[1]), dtype=accumulation_dtype(out.dtype)) if v["statistics"] else None
    _stage(op, v)(_given_stem(v) if op == "stem" else Conv(_given_prologue(v), v["weight"]), out, statistics)
    return [out, *(() if statistics is None else statistics)]


def directions(outputs: list[Tensor], seed: int) -> list[Tensor]:
    """A direction for each output that has a gradient: not for the unbiased variance."""
    return [direction(out, seed + index) for index, out in enumerate(outputs[:3])]


def gradients(op: str, values: dict[str, Any], outputs: list[Tensor], along: list[Tensor]) -> dict[str, Tensor]:
    """Gradients by "grad <argument>", from the op's own backward."""
    # A backward may overwrite the gradient of earlier uses of the skip.
    given = {name: v.clone() if name == "skip_grad_raw" and v is not None else v for name, v in values.items()}
    found = _backward(op, given, outputs, along, True)
    if op == "resample":
        named = {"image": found}
    elif op == "stem":
        named = {"image": found[0][0], **found[1]._asdict()}
    else:
        use, *rest = found
        named = {**_named(values, use), **dict(zip(("weight", "bias"), rest, strict=False))}
    return {f"grad {name}": grad for name, grad in named.items() if grad is not None}


def _named(v: dict[str, Any], use: PrologueGrads) -> dict[str, Tensor | None]:
    """Gradients of a prologue's arguments."""
    skip = use.skip
    skip_norm = None if skip is None or v["skip_norm_mean"] is None else norm_grad(_norm(v, "skip_norm"), skip.sums)
    named = {"input": use.input, "skip": None if skip is None else skip.raw}
    for prefix, grads in (("norm", use.norm), ("skip_norm", skip_norm)):
        named |= {} if grads is None else {f"{prefix}_{name}": grad for name, grad in grads._asdict().items()}
    return named


def _backward(op: str, v: dict[str, Any], outputs: list[Tensor], along: list[Tensor], image_grad: bool) -> Any:
    if op == "resample":
        size = v["image"].shape[2:]
        return torch.ops.learned_resizer.resample_backward(along[0], *size, *list(v.values())[3:])
    backward = _stage(op, v, "_backward")
    statistics = None
    if len(outputs) > 1:
        source = v["image"] if op == "stem" else v["input"]
        statistics = StatisticsGrad(outputs[1], along[1], along[2], source.numel() // source.shape[1])
    if op == "stem":
        return backward(StemBackward(along[0], statistics, _given_stem(v), [image_grad]))
    skip_grad = _earlier(v, "skip_grad")
    if op == "head":
        return backward(HeadBackward(along[0], _given_prologue(v), v["weight"], v["bias"], skip_grad))
    given = Conv(_given_prologue(v), v["weight"])
    return backward(ConvBackward(along[0], statistics, outputs[0], given, _earlier(v, "input_grad"), skip_grad))


def _stage(op: str, v: dict[str, Any], suffix: str = "") -> Callable[..., Any]:
    """A stage's implementation, native or in pure torch."""
    image, weight = v.get("image"), v.get("w0", v.get("weight"))
    like = v["input"] if image is None else image
    channels = weight.shape[1] if op == "stem" else weight.shape[0] if op == "head" else 1
    refuse = partial(refusal, weight.shape[0 if op == "stem" else 1], channels, like.device, like.dtype)
    native = backend.runs_native(op + suffix, like.device, like.dtype, refuse)
    module = backend.kernel_module(op) if native else {"stem": stem, "conv": conv, "head": head}[op]
    return getattr(module, op + suffix)  # type: ignore[no-any-return]


def _trunk(op: str, v: dict[str, Any]) -> Tensor:
    """The trunk natively; elsewhere the convolutions that it consists of."""
    start = TrunkInput(v["input"], _norm(v, "norm"), v["skip"], _norm(v, "skip_norm"), v["weight1"], _norm(v, "norm1"))
    if backend.runs_native("trunk", v["input"].device, v["input"].dtype):
        kernels = backend.kernel_module("trunk")
        if op == "trunk_block":
            return kernels.trunk_block(TrunkBlock(start, v["negative_slope"], v["weight2"]))  # type: ignore[no-any-return]
        return kernels.trunk_tail(TrunkTail(start, v["weight"], v["bias"], v["base"]))  # type: ignore[no-any-return]
    inner = empty_features(start.input)
    conv.conv(Conv(Prologue(*start[:4], 1.0), start.weight1), inner, None)
    if op == "trunk_block":
        raw = empty_features(inner)
        conv.conv(Conv(Prologue(inner, start.norm1, None, None, v["negative_slope"]), v["weight2"]), raw, None)
        return raw
    last = Prologue(inner, start.norm1, start.skip, start.skip_norm, 1.0)
    return head.head(Head(last, v["weight"], v["bias"], v["base"]))


def _norm(v: dict[str, Any], prefix: str) -> Any:
    """A normalisation of `values`, or None."""
    return None if v[f"{prefix}_mean"] is None else GivenNorm(*(v[f"{prefix}_{name}"] for name in _NORM))


def _earlier(v: dict[str, Any], name: str) -> FeatureGrad | None:
    raw = v[f"{name}_raw"]
    return None if raw is None else FeatureGrad(raw, v[f"{name}_sums"])


def _given_prologue(v: dict[str, Any]) -> Prologue:
    return Prologue(v["input"], _norm(v, "norm"), v["skip"], _norm(v, "skip_norm"), v["negative_slope"])


def _given_stem(v: dict[str, Any]) -> Stem:
    options = StemOptions(*(v[name] for name in StemOptions._fields))
    weights = StemWeights(*(v[name] for name in StemWeights._fields))
    # Normalisation is for uint8 images, which have tests of their own.
    image = v["image"]
    return Stem([image], regions([image.shape[2:]], None, None), weights, options, image.dtype, None, None)


def direction(like: Tensor, seed: int) -> Tensor:
    """Uniform in [0.5, 1.5], rounded to bfloat16, so that every dtype holds the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    return torch.empty_like(like).copy_(values.bfloat16())


class _Random:
    """Reproducible float64 values."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self._generator, dtype=torch.float64) * (high - low) + low

    def signed(self, *shape: int, low: float, high: float) -> Tensor:
        """Magnitudes in [low, high], signs at random."""
        sign = torch.rand(shape, generator=self._generator) < 0.5
        return torch.where(sign, -1.0, 1.0) * self.uniform(*shape, low=low, high=high)


def _sampling(call: OpCall) -> dict[str, Any]:
    _, _, height, width = call.sizes
    return {"height": height, "width": width, "interpolation": call.interpolation, "antialias": call.antialias}


def _resample(call: OpCall, random: _Random) -> dict[str, Any]:
    image = random.uniform(call.batch, call.channels, *call.sizes[:2], low=0.0)
    height, width, interpolation, antialias = _sampling(call).values()
    # In the order of the op's schema.
    sampling = {"height": height, "width": width, "scale_h": None, "scale_w": None}
    return {"image": image, **sampling, "interpolation": interpolation, "antialias": antialias}


def _stem(call: OpCall, random: _Random) -> dict[str, Any]:
    n, channels = call.filters, call.channels
    if call.clear:
        # Each filter follows the sign of one pixel: the centre tap is 1 on values of 0.5 to 1, all others together
        # at most 0.25. So |W0 x + b0| is at least 0.2; a is above 0.2 or below -0.04. Around the middle of that gap
        # stands -b1, and the other entries of a row of W1 add up to 0.02 at most.
        image = random.signed(call.batch, channels, *call.sizes[:2], low=0.5, high=1.0)
        w0 = random.uniform(n, channels, 7, 7) * (0.25 / (49 * channels))
        w0[torch.arange(n), torch.arange(n) % channels, 3, 3] = random.signed(n, low=1.0, high=1.0)
        b0 = random.uniform(n) * 0.05
        w1 = random.uniform(n, n, 1, 1) * (0.02 / (1.3 * n))
        w1[torch.arange(n), torch.arange(n)] = 1.0
        b1 = random.uniform(n) * 0.005 - 0.12
    else:
        image = random.uniform(call.batch, channels, *call.sizes[:2])
        w0, b0 = random.uniform(n, channels, 7, 7) / (49 * channels) ** 0.5, random.uniform(n) * 0.3
        w1, b1 = random.uniform(n, n, 1, 1) / n**0.5, random.uniform(n) * 0.3
    rest = {"negative_slope": SLOPE, "statistics": call.statistics}
    return {"image": image, "w0": w0, "b0": b0, "w1": w1, "b1": b1, **_sampling(call), **rest}


def _prologue(call: OpCall, random: _Random, slope: float) -> dict[str, Any]:
    n, shape = call.filters, (call.batch, call.filters, *call.sizes[2:])
    norm = _vectors("norm", n, random, call.norm)
    skip = random.uniform(*shape) if call.skip else None
    skip_norm = _vectors("skip_norm", n, random, call.skip and call.skip_norm)
    if call.clear:
        # Chosen from what comes out of the prologue, so that its sign is safe. The skip is rounded first: in bfloat16
        # the error of two terms would eat the margin.
        wanted = random.signed(*shape, low=0.25, high=1.25)
        skip = None if skip is None else skip.bfloat16().double()
        others = _normed(torch.zeros(()), _norm(norm, "norm")) + _normed(skip, _norm(skip_norm, "skip_norm"))
        features = (wanted - others) / _scale(_norm(norm, "norm"))
    else:
        features = random.uniform(*shape)
    earlier = {}
    for name, used in (("input_grad", call.op == "conv"), ("skip_grad", call.skip)):
        given = call.earlier and used
        earlier[f"{name}_raw"] = random.uniform(*shape) if given else None
        earlier[f"{name}_sums"] = random.uniform(2, n) if given else None
    return {"input": features, **norm, "skip": skip, **skip_norm, "negative_slope": slope, **earlier}


def _scale(norm: GivenNorm | None) -> Tensor:
    return torch.ones(()) if norm is None else _along(norm.fold(torch.float64)[0])


def _normed(x: Tensor | None, norm: GivenNorm | None) -> Tensor:
    if x is None:
        return torch.zeros(())
    return x if norm is None else x * _scale(norm) + _along(norm.fold(torch.float64)[1])


def _along(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def _conv(call: OpCall, random: _Random) -> dict[str, Any]:
    n = call.filters
    weight = random.uniform(n, n, 3, 3) / (9 * n) ** 0.5
    return {**_prologue(call, random, SLOPE), "weight": weight, "statistics": call.statistics}


def _last(call: OpCall, random: _Random) -> dict[str, Any]:
    n, channels = call.filters, call.channels
    return {
        "weight": random.uniform(channels, n, 7, 7) / (49 * n) ** 0.5,
        "bias": random.uniform(channels),
        "base": random.uniform(call.batch, channels, *call.sizes[2:]),
    }


def _head(call: OpCall, random: _Random) -> dict[str, Any]:
    return {**_prologue(call, random, 1.0), **_last(call, random)}


def _vectors(prefix: str, n: int, random: _Random, given: bool = True) -> dict[str, Any]:
    """A normalisation; None for each part if it is not given."""
    if not given:
        return {f"{prefix}_{name}": None for name in _NORM}
    # Parameters that every dtype holds: the scale, by which `clear` divides, is the same in all.
    return {
        f"{prefix}_mean": random.uniform(n) * 0.3,
        f"{prefix}_var": random.uniform(n, low=0.5, high=1.5),
        f"{prefix}_weight": random.signed(n, low=0.5, high=1.5).bfloat16().double(),
        f"{prefix}_bias": (random.uniform(n) * 0.3).bfloat16().double(),
        f"{prefix}_eps": 1e-5,
    }


def _trunk_start(call: OpCall, random: _Random, skip: bool) -> dict[str, Any]:
    n, shape = call.filters, (call.batch, call.filters, *call.sizes[2:])
    return {
        "input": random.uniform(*shape),
        **_vectors("norm", n, random),
        "skip": random.uniform(*shape) if skip else None,
        **_vectors("skip_norm", n, random, skip),
        "weight1": random.uniform(n, n, 3, 3) / (9 * n) ** 0.5,
        **_vectors("norm1", n, random),
    }


def _trunk_block(call: OpCall, random: _Random) -> dict[str, Any]:
    weight2 = random.uniform(call.filters, call.filters, 3, 3) / (9 * call.filters) ** 0.5
    return {**_trunk_start(call, random, call.skip), "negative_slope": SLOPE, "weight2": weight2}


def _trunk_tail(call: OpCall, random: _Random) -> dict[str, Any]:
    # The tail adds its skip a second time, after the first convolution: it always has one.
    return {**_trunk_start(call, random, True), **_last(call, random)}


def margin(call: OpCall, values: dict[str, Any]) -> float:
    """Least distance of any LeakyReLU's input from zero, for arguments as `placed` in float64; inf without one."""
    if call.op == "stem":
        before = F.conv2d(values["image"], values["w0"], values["b0"], padding=3)
        behind = F.conv2d(F.leaky_relu(before, SLOPE), values["w1"], values["b1"])
        return float(min(before.abs().min(), behind.abs().min()))
    if call.op == "conv":
        v = _normed(values["input"], _norm(values, "norm")) + _normed(values["skip"], _norm(values, "skip_norm"))
        return float(v.abs().min())
    return float("inf")


def backward_call(call: OpCall, values: dict[str, Any]) -> Callable[[], Any]:
    """The op's backward as a call; the stem's without an image gradient.

    Raises:
        KeyError: for an op without one.
    """
    if call.op in NO_GRADIENT:
        raise KeyError(call.op)
    outputs = forward(call.op, values)
    return partial(_backward, call.op, values, outputs, directions(outputs, 1), False)


def least_bytes(call: OpCall, values: dict[str, Any], results: Any, backward: bool) -> int:
    """Least bytes that a call moves: its inputs read once, its results written once.

    Args:
        call, values: of the op.
        results: of the op, or of its backward.
        backward: which of the two.
    """

    def size(tensors: Any) -> int:
        if isinstance(tensors, Tensor):
            return tensors.nbytes
        return sum(map(size, tensors)) if isinstance(tensors, Iterable) and not isinstance(tensors, str) else 0

    written = size(results)
    if not backward:
        return size(values.values()) + written
    outputs = size(forward(call.op, values))
    # Read beside the outputs' gradients: nothing by the resampling; the convolution's own result for the statistics;
    # all of the head's arguments but those that are only added.
    read = {
        "resample": 0,
        "stem": size(values.values()),
        "conv": size(values.values()) + (outputs if call.statistics else 0),
        "head": size(v for name, v in values.items() if name not in ("bias", "base")),
    }
    return read[call.op] + outputs + written


def flop(call: OpCall) -> int:
    """Floating-point operations of the op's products, forward; two for each multiply-add."""
    in_h, in_w, height, width = call.sizes
    n, channels = call.filters, call.channels
    small = call.batch * height * width
    square, last = 2 * 9 * n * n * small, 2 * 49 * n * channels * small
    support = {"bilinear": 1, "bicubic": 2, "lanczos": 3}[call.interpolation]
    taps = 2 * support * max(in_h / height, 1.0)
    per_channel = int(2 * taps * call.batch * (height * in_w + height * width))
    features = call.batch * in_h * in_w * (2 * 49 * channels * n + 2 * n * n)
    return {
        "resample": channels * per_channel,
        "stem": features + n * per_channel,
        "conv": square,
        "head": last,
        "trunk_block": 2 * square,
        "trunk_tail": square + last,
    }[call.op]
