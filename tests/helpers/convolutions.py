"""Every convolution that the stages call on a CPU, over shapes, dtypes and layouts, against float64.

oneDNN picks its code by the shape, dtype and layout of a convolution and by the processor, and some of that code has
returned garbage without an error (docs/onednn.md). Run as a script, this prints the result of ``sweep``.
"""

from __future__ import annotations

import json
import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from learned_resizer_cuda.ops import conv, head, stem
from learned_resizer_cuda.ops.conv import Conv, ConvBackward
from learned_resizer_cuda.ops.head import Head, HeadBackward
from learned_resizer_cuda.ops.prologue import GivenNorm, Prologue, empty_features
from learned_resizer_cuda.ops.regions import regions
from learned_resizer_cuda.ops.stem import Stem, StemBackward, StemOptions, StemWeights

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STAGES = ("stem", "conv", "head")

# Significant bits of each type.
BITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}


class Case(NamedTuple):
    stage: str
    dtype: torch.dtype
    batch: int
    channels: int
    filters: int
    height: int
    width: int
    channels_last: bool = True
    threads: int = 1
    tiles: bool = False


def draw(stage: str, dtype: torch.dtype, generator: random.Random, **fixed: int) -> Case:
    """A case with what is not fixed drawn."""
    choice = generator.choice
    shape = {
        "batch": choice((1, 3)),
        "channels": generator.randint(1, 8),
        # One to four filters, which oneDNN has code of its own for, in half of the cases.
        "filters": choice((choice((1, 1, 2, 3, 4)), generator.randint(1, 33))),
        "height": choice((1, 2, 3, 4, 5, 7, 8, 13, 16, 20, 33, 40)),
        "width": generator.randint(1, 40),
    }
    # Tiles of rows, which a stem of large images works on, or whole images.
    layout = {"channels_last": choice((False, True)), "threads": choice((1, 1, 1, 2)), "tiles": choice((False, True))}
    return Case(stage, dtype, **{**shape, **layout, **fixed})


def some(stage: str) -> list[Case]:
    """A few random cases of a stage."""
    generator = random.Random(1)
    return [draw(stage, dtype, generator, threads=1) for dtype in DTYPES for _ in range(12)]


def sweep() -> list[Case]:
    """For each stage and dtype all widths with all channels, and all channels with all filters at ordinary sizes."""
    generator = random.Random(0)
    cases = []
    for stage in STAGES:
        for dtype in DTYPES:
            cases += [
                draw(stage, dtype, generator, width=width, channels=channels)
                for width in range(1, 41)
                for channels in range(1, 9)
                for _ in range(2)
            ]
            cases += [
                draw(stage, dtype, generator, channels=channels, filters=filters, height=32, width=choice)
                for channels in range(1, 9)
                for filters in range(1, 34)
                for choice in (generator.choice((28, 32)),)
            ]
    # Sorted, because changing the number of threads starts new ones.
    return sorted(cases, key=lambda case: case.threads)


def arguments(case: Case) -> dict[str, Tensor]:
    """Tensors of a case by name; "grad" is the result's gradient."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        tensor = torch.randn(*shape, generator=generator).to(dtype) / 4
        if not case.channels_last or len(shape) != 4:
            return tensor
        # Interleaved with one channel too, where torch's memory format would leave the strides of planes.
        return tensor.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)

    batch, c, n, size = case.batch, case.channels, case.filters, (case.height, case.width)
    if case.stage == "stem":
        return {"image": normal(batch, c, *size), "w0": normal(n, c, 7, 7), "b0": normal(n),
                "w1": normal(n, n, 1, 1), "b1": normal(n), "grad": normal(batch, n, *size)}  # fmt: skip
    tensors = {
        "input": normal(batch, n, *size),
        "scale": normal(n, dtype=torch.float32),
        "shift": normal(n, dtype=torch.float32),
    }
    if case.stage == "conv":
        return tensors | {"weight": normal(n, n, 3, 3), "grad": normal(batch, n, *size)}
    last = {"weight": normal(c, n, 7, 7), "bias": normal(c), "base": normal(batch, c, *size)}
    return tensors | last | {"grad": normal(batch, c, *size)}


def staged(stage: str, t: dict[str, Tensor]) -> list[Tensor]:
    """Result of a stage and the gradients of its arguments.

    Activations have slope 1 and statistics are zeros and ones: what is left are the convolutions.
    """
    grad = t["grad"]
    if stage == "stem":
        weights = StemWeights(t["w0"], t["b0"], t["w1"], t["b1"])
        options = StemOptions(*grad.shape[2:], "bilinear", True, 1.0)
        whole = regions([t["image"].shape[2:]], None, None)
        a = Stem([t["image"]], whole, weights, options, grad.dtype, None, None)
        z = empty_features(grad)
        stem.stem(a, z, None)
        (dx,), grads = stem.stem_backward(StemBackward(grad, None, a, [True]))
        assert dx is not None
        return [z, dx, *grads]
    zeros = torch.zeros_like(t["scale"])
    prologue = Prologue(t["input"], GivenNorm(zeros, zeros + 1, t["scale"], t["shift"], 0.0), None, None, 1.0)
    if stage == "conv":
        forward, raw = Conv(prologue, t["weight"]), empty_features(grad)
        conv.conv(forward, raw, None)
        use, *rest = conv.conv_backward(ConvBackward(grad, None, raw, forward, None, None))
        out = raw
    else:
        out = head.head(Head(prologue, t["weight"], t["bias"], t["base"]))
        use, *rest = head.head_backward(HeadBackward(grad, prologue, t["weight"], t["bias"], None))
        rest.append(grad)
    assert use.norm is not None
    return [out, use.input, use.norm.weight, use.norm.bias, *rest]


def composed(stage: str, t: dict[str, Tensor]) -> list[Tensor]:
    """What ``staged`` computes, in torch's plain convolutions; in float64 oneDNN has no part in them."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in t.items() if name != "grad"}
    if stage == "stem":
        features = F.conv2d(leaves["image"], leaves["w0"], leaves["b0"], padding=3)
        out = F.conv2d(features, leaves["w1"], leaves["b1"])
    else:
        v = leaves["input"] * leaves["scale"].view(-1, 1, 1) + leaves["shift"].view(-1, 1, 1)
        out = F.conv2d(v, leaves["weight"], leaves.get("bias"), padding=leaves["weight"].shape[2] // 2)
        out = out if stage == "conv" else out + leaves["base"]
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), t["grad"])]


def worst(case: Case) -> float:
    """Greatest error of an entry as a part of its bound, over the output and the gradients; infinite for NaN.

    Every entry is a sum of products. A product takes part in at most K additions, each of which rounds to float32: the
    lengths of the sums that it passes through, of 49 terms a channel at most and of all pixels in a weight's gradient.
    In a half type it is rounded up to four times more: an input or feature, the next feature, the convolution's result,
    the op's. So an entry is off by at most ``K 2^-24 + 4 · 2^-p`` of the same sum over absolute values. Below 2^-14
    float16 rounds by up to 2^-25 whatever the value, in each of the up to K features of a sum with weights of up to 1.
    """
    torch.set_num_threads(case.threads)
    tensors = arguments(case)
    before = stem._TILE_ELEMENTS
    stem._TILE_ELEMENTS = case.width * case.filters if case.tiles else before
    try:
        found = staged(case.stage, tensors)
    finally:
        stem._TILE_ELEMENTS = before
    exact = composed(case.stage, {name: t.double() for name, t in tensors.items()})
    terms = composed(case.stage, {name: t.double().abs() for name, t in tensors.items()})
    additions = case.batch * case.height * case.width + 64 * max(case.channels, case.filters) + 32
    part = additions * 2.0**-24 + (0 if case.dtype == torch.float32 else 4 * 2.0 ** -BITS[case.dtype])
    floor = additions * 2.0**-25 if case.dtype == torch.float16 else 0.0
    greatest = 0.0
    for a, b, total in zip(found, exact, terms, strict=True):
        error = float(((a.double() - b).abs() / (part * total + floor + 1e-30)).max())
        greatest = max(greatest, error) if error == error else float("inf")
    return greatest


def wrong(cases: list[Case]) -> list[tuple[Case, float]]:
    before = torch.get_num_threads()
    try:
        return [(case, error) for case in cases if not (error := worst(case)) <= 1]
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        # Large enough for oneDNN to get it; it then says what instructions it uses.
        F.conv2d(torch.ones(2, 16, 9, 9), torch.ones(16, 16, 3, 3))
    cases = sweep()
    print(json.dumps({"cases": len(cases), "wrong": [f"{case}: {error:.1e}" for case, error in wrong(cases)]}))
