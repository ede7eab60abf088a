"""Calls of every op at any size, dtype and layout, with arguments suited to comparisons.

One builder for the tests, the sanitizer's exerciser and the timing of single kernels, so that all three call the ops
in the same way: by the names of their schemas. Arguments are made in float64 on the CPU from a seed; `placed` rounds
them to a dtype and moves them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import learned_resizer_cuda  # noqa: F401  (registers the ops)

OPS = ("resample", "stem", "conv", "head", "trunk_block", "trunk_tail")
# Inference only: without gradients.
NO_GRADIENT = ("trunk_block", "trunk_tail")
SLOPE = 0.2
# The least distance of a LeakyReLU's input from its kink under `clear`.
MARGIN = 0.05

# Arguments that stay float32 with half-precision features: statistics and values computed from them.
_VECTOR = re.compile("norm|(scale|shift|mean|var)$")


@dataclass(frozen=True)
class OpCall:
    """One call of an op.

    Attributes:
        op: one of `OPS`.
        sizes: (height, width) in and out; ops at output resolution take the second.
        batch, channels, filters: of the image and of the features.
        layout: of the image, "NCHW" or "channels_last"; features are channels_last, as the resizer makes them, or
            NCHW under "NCHW features".
        interpolation, antialias: of the resampling.
        statistics: whether the op returns statistics.
        skip: whether the prologue adds a second feature.
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
    skip: bool = True
    clear: bool = True
    seed: int = 0

    def __str__(self) -> str:
        h, w, oh, ow = self.sizes
        words = [self.op, f"{h}x{w}-{oh}x{ow}", f"c{self.channels}", f"n{self.filters}", self.layout.replace(" ", "-")]
        words.append(self.interpolation if self.antialias else f"{self.interpolation}-plain")
        flags = [name for name in ("statistics", "skip", "clear") if not getattr(self, name)]
        return "-".join(words + [f"no-{name}" for name in flags])

    def with_(self, **changes: Any) -> OpCall:
        return replace(self, **changes)


def operator(name: str) -> Any:
    """The registered op, `torch.ops.learned_resizer.<name>.default`."""
    return getattr(torch.ops.learned_resizer, name).default


def names(name: str) -> list[str]:
    """Names of an op's arguments, from its schema."""
    return [argument.name for argument in operator(name)._schema.arguments]


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
    values = make(call, random)
    return {name: values[name] for name in names(call.op)}


def placed(values: dict[str, Any], dtype: torch.dtype, device: torch.device | str, layout: str) -> dict[str, Any]:
    """The arguments rounded to a dtype, on a device, in a layout; statistics in float32 at least."""
    formats = {"image": layout, "base": layout}

    def place(name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        wide = dtype if dtype == torch.float64 else torch.float32
        rounded = value.to(wide if _VECTOR.search(name) else dtype)
        if value.ndim == 4 and "weight" not in name and name not in ("w0", "w1"):
            kind = formats.get(name, "NCHW" if layout == "NCHW features" else "channels_last")
            rounded = rounded.contiguous(memory_format=_FORMATS[kind])
        return rounded.to(device)

    return {name: place(name, value) for name, value in values.items()}


_FORMATS = {
    "NCHW": torch.contiguous_format,
    "NCHW features": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def run(op: str, values: dict[str, Any], seed: int | None = 1) -> dict[str, Tensor]:
    """Call an op and, with a seed, differentiate it along random directions.

    Args:
        op: one of `OPS`.
        values: as `placed` returns them.
        seed: of the directions, which lie in [0.5, 1.5]: sums of them do not cancel. None: forward only.

    Returns:
        Outputs as "out0", …, gradients as "grad <argument>".
    """
    if op in NO_GRADIENT or seed is None:
        with torch.no_grad():
            return _outputs(operator(op)(**values))
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in values.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    outputs = _outputs(operator(op)(**{**values, **leaves}))
    outputs = {name: out for name, out in outputs.items() if out.numel()}
    directions = [direction(out, seed + index) for index, out in enumerate(outputs.values())]
    grads = torch.autograd.grad(list(outputs.values()), list(leaves.values()), directions)
    found = {name: out.detach() for name, out in outputs.items()}
    return {**found, **{f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}}


def direction(like: Tensor, seed: int) -> Tensor:
    """Uniform in [0.5, 1.5], rounded to bfloat16, so that every dtype holds the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    return torch.empty_like(like).copy_(values.bfloat16())


def _outputs(result: Any) -> dict[str, Tensor]:
    return {f"out{k}": t for k, t in enumerate(result if isinstance(result, (tuple, list)) else [result])}


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
    return {"image": image, "scale_h": None, "scale_w": None, **_sampling(call)}


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
    # Normalisation is for uint8 images, which have tests of their own.
    normalisation = {"image_mean": None, "image_std": None}
    return {"image": image, "w0": w0, "b0": b0, "w1": w1, "b1": b1, **_sampling(call), **rest, **normalisation}


def _prologue(call: OpCall, random: _Random, slope: float) -> dict[str, Any]:
    n, shape = call.filters, (call.batch, call.filters, *call.sizes[2:])
    scale = random.signed(n, low=0.5, high=1.5)
    shift = random.uniform(n) * 0.5
    skip = random.uniform(*shape) if call.skip else None
    skip_scale = random.signed(n, low=0.5, high=1.5) if call.skip else None
    skip_shift = random.uniform(n) * 0.5 if call.skip else None
    if call.clear:
        # Chosen from what comes out of the prologue, so that its sign is safe.
        wanted = random.signed(*shape, low=0.25, high=1.25) - _along(shift)
        if skip is not None and skip_scale is not None and skip_shift is not None:
            # Rounded first: in bfloat16 the error of two terms would eat the margin.
            wanted = wanted - _along(skip_scale) * skip.bfloat16() - _along(skip_shift)
        features = wanted / _along(scale)
    else:
        features = random.uniform(*shape)
    return {
        "input": features,
        "scale": scale,
        "shift": shift,
        "skip": skip,
        "skip_scale": skip_scale,
        "skip_shift": skip_shift,
        "negative_slope": slope,
    }


def _along(vector: Tensor) -> Tensor:
    return vector.view(1, -1, 1, 1)


def _conv(call: OpCall, random: _Random) -> dict[str, Any]:
    n = call.filters
    weight = random.uniform(n, n, 3, 3) / (9 * n) ** 0.5
    return {**_prologue(call, random, SLOPE), "weight": weight, "statistics": call.statistics}


def _head(call: OpCall, random: _Random) -> dict[str, Any]:
    n, channels = call.filters, call.channels
    return {
        **_prologue(call, random, 1.0),
        "weight": random.uniform(channels, n, 7, 7) / (49 * n) ** 0.5,
        "bias": random.uniform(channels),
        "base": random.uniform(call.batch, channels, *call.sizes[2:]),
    }


def _norm(prefix: str, n: int, random: _Random) -> dict[str, Any]:
    return {
        f"{prefix}_mean": random.uniform(n) * 0.3,
        f"{prefix}_var": random.uniform(n, low=0.5, high=1.5),
        f"{prefix}_weight": random.signed(n, low=0.5, high=1.5),
        f"{prefix}_bias": random.uniform(n) * 0.3,
        f"{prefix}_eps": 1e-5,
    }


def _trunk(call: OpCall, random: _Random, skip: bool) -> dict[str, Any]:
    n, shape = call.filters, (call.batch, call.filters, *call.sizes[2:])
    absent = dict.fromkeys([f"skip_norm_{name}" for name in ("mean", "var", "weight", "bias")]) | {"skip_norm_eps": 0.0}
    return {
        "input": random.uniform(*shape),
        **_norm("norm", n, random),
        "skip": random.uniform(*shape) if skip else None,
        **(_norm("skip_norm", n, random) if skip else absent),
        "weight1": random.uniform(n, n, 3, 3) / (9 * n) ** 0.5,
        **_norm("norm1", n, random),
    }


def _trunk_block(call: OpCall, random: _Random) -> dict[str, Any]:
    weight2 = random.uniform(call.filters, call.filters, 3, 3) / (9 * call.filters) ** 0.5
    return {**_trunk(call, random, call.skip), "negative_slope": SLOPE, "weight2": weight2}


def _trunk_tail(call: OpCall, random: _Random) -> dict[str, Any]:
    # The tail adds its skip a second time, after the first convolution: it always has one.
    n, channels = call.filters, call.channels
    return {
        **_trunk(call, random, True),
        "weight": random.uniform(channels, n, 7, 7) / (49 * n) ** 0.5,
        "bias": random.uniform(channels),
        "base": random.uniform(call.batch, channels, *call.sizes[2:]),
    }


def margin(call: OpCall, values: dict[str, Any]) -> float:
    """Least distance of any LeakyReLU's input from zero, for arguments as `placed` in float64; inf without one."""
    if call.op == "stem":
        before = F.conv2d(values["image"], values["w0"], values["b0"], padding=3)
        behind = F.conv2d(F.leaky_relu(before, SLOPE), values["w1"], values["b1"])
        return float(min(before.abs().min(), behind.abs().min()))
    if call.op == "conv":
        v = values["input"] * _along(values["scale"]) + _along(values["shift"])
        if values["skip"] is not None:
            v = v + values["skip"] * _along(values["skip_scale"]) + _along(values["skip_shift"])
        return float(v.abs().min())
    return float("inf")


def backward_call(call: OpCall, values: dict[str, Any]) -> Callable[[], Any]:
    """The op's backward as a call without autograd; the stem's without an image gradient.

    Raises:
        KeyError: for an op without one.
    """
    with torch.no_grad():
        result = operator(call.op)(**values)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    grads = [direction(out, 1 + index) for index, out in enumerate(outputs)]
    op = operator(f"{call.op}_backward")
    given = list(values.values())
    if call.op == "resample":
        return lambda: op(grads[0], *values["image"].shape[2:], *given[3:])
    if call.op == "stem":
        return lambda: op(*grads, *given[:5], outputs[1], *given[5:11], False)
    if call.op == "conv":
        return lambda: op(*grads, outputs[0], outputs[1], *given)
    # The head's gradients do not depend on its bias and base.
    return {"head": lambda: op(*grads, *given[:8])}[call.op]


def least_bytes(call: OpCall, values: dict[str, Any], results: Any, backward: bool) -> int:
    """Least bytes that a call moves: its inputs read once, its results written once.

    Args:
        call, values: of the op.
        results: of the op, or of its backward.
        backward: which of the two.
    """

    def size(tensors: Any) -> int:
        return sum(t.nbytes for t in tensors if isinstance(t, Tensor))

    written = size(results if isinstance(results, (tuple, list)) else [results])
    if not backward:
        return size(values.values()) + written
    with torch.no_grad():
        result = operator(call.op)(**values)
    outputs = size(result if isinstance(result, (tuple, list)) else [result])
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
