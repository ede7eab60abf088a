"""Every convolution that the ops call on a CPU, over shapes, dtypes, layouts and instruction sets, against float64.

oneDNN picks its code by the shape, dtype and layout of a convolution and by the processor, and some of that code has
returned garbage without an error (docs/onednn.md). So the ops are called, forward and backward, on thousands of shapes,
once for each of oneDNN's instruction sets that the processor has.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learned_resizer_cuda.ops import head, stem
from learned_resizer_cuda.ops.library import packed

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPS = ("stem", "conv", "head", "trunk_block", "trunk_tail")
TRAINABLE = ("stem", "conv", "head")

# Significant bits of each type.
BITS = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}

# oneDNN's instruction sets, with the flags of /proc/cpuinfo that say that the processor has them.
LEVELS = {
    "SSE41": {"sse4_1"},
    "AVX": {"avx"},
    "AVX2": {"avx2"},
    "AVX2_VNNI": {"avx_vnni"},
    "AVX2_VNNI_2": {"avx_vnni_int8", "avx_ne_convert"},
    "AVX512_CORE": {"avx512bw", "avx512vl", "avx512dq"},
    "AVX512_CORE_VNNI": {"avx512_vnni"},
    "AVX512_CORE_BF16": {"avx512_bf16"},
    "AVX512_CORE_FP16": {"avx512_fp16"},
    "AVX512_CORE_AMX": {"amx_tile", "amx_int8", "amx_bf16"},
    "AVX512_CORE_AMX_FP16": {"amx_fp16"},
    "DEFAULT": set(),
}


class Case(NamedTuple):
    op: str
    dtype: torch.dtype
    batch: int
    channels: int
    filters: int
    height: int
    width: int
    channels_last: bool = True
    threads: int = 1
    tiles: bool = False


def draw(op: str, dtype: torch.dtype, generator: random.Random, **fixed: int) -> Case:
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
    return Case(op, dtype, **{**shape, **layout, **fixed})


def sweep() -> list[Case]:
    """For each op and dtype all widths with all channels, and all channels with all filters at ordinary sizes."""
    generator = random.Random(0)
    cases = []
    for op in OPS:
        for dtype in DTYPES:
            cases += [
                draw(op, dtype, generator, width=width, channels=channels)
                for width in range(1, 41)
                for channels in range(1, 9)
                # Twice what trains: the trunk's ops run on CPUs in tests only.
                for _ in range(2 if op in TRAINABLE else 1)
            ]
            cases += [
                draw(op, dtype, generator, channels=channels, filters=filters, height=32, width=choice)
                for channels in range(1, 9)
                for filters in range(1, 34)
                for choice in (generator.choice((28, 32)),)
            ]
    # Sorted, because changing the number of threads starts new ones.
    return sorted(cases, key=lambda case: case.threads)


def fast() -> list[Case]:
    """A head for every case that was wrong on some processor, and a few of every op."""
    cases = []
    # float32, few pixels in a row; bfloat16, up to 4 pixels in a row.
    for dtype in DTYPES:
        for width in range(1, 7):
            for channels, filters in ((3, 1), (1, 1), (3, 16), (4, 2), (6, 5)):
                for height in (4, 20):
                    cases.append(Case("head", dtype, 2, channels, filters, height, width))
    # bfloat16, 6 to 8 channels with 8 or 12 filters.
    cases += [
        Case("head", dtype, 2, channels, filters, 32, 32)
        for dtype in DTYPES[:2]
        for channels in (6, 7, 8)
        for filters in (8, 12)
    ]
    generator = random.Random(1)
    cases += [draw(op, dtype, generator, threads=1) for op in OPS for dtype in DTYPES for _ in range(12)]
    return cases


def arguments(case: Case) -> dict[str, Tensor]:
    """Tensors of a case by name, what autograd may ask for as leaves."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        tensor = torch.randn(*shape, generator=generator).to(dtype) / 4
        if not case.channels_last or len(shape) != 4:
            return tensor
        # Interleaved with one channel too, where torch's memory format would leave the strides of planes.
        return tensor.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).permute(0, 3, 1, 2)

    batch, c, n, size = case.batch, case.channels, case.filters, (case.height, case.width)
    if case.op == "stem":
        return {"image": normal(batch, c, *size), "w0": normal(n, c, 7, 7), "b0": normal(n),
                "w1": normal(n, n, 1, 1), "b1": normal(n), "grad": normal(batch, n, *size)}  # fmt: skip
    tensors = {"input": normal(batch, n, *size)}
    if case.op in TRAINABLE:
        tensors |= {name: normal(n, dtype=torch.float32) for name in ("scale", "shift")}
    else:
        tensors["weight1"] = normal(n, n, 3, 3)
    if case.op in ("conv", "trunk_block"):
        return tensors | {"weight": normal(n, n, 3, 3), "grad": normal(batch, n, *size)}
    last = {"weight": normal(c, n, 7, 7), "bias": normal(c), "base": normal(batch, c, *size)}
    return tensors | last | {"grad": normal(batch, c, *size)}


def call(op: str, t: dict[str, Tensor]) -> Tensor:
    """The op. Its activations have slope 1 and its normalisations do nothing: what is left are the convolutions."""
    ops = torch.ops.learned_resizer
    if op == "stem":
        size = t["image"].shape[2:]
        return ops.stem(t["image"], t["w0"], t["b0"], t["w1"], t["b1"], *size, "bilinear", True, 1.0, False)[0]
    if op in TRAINABLE:
        prologue = (t["input"], t["scale"], t["shift"], None, None, None, 1.0)
        if op == "conv":
            return ops.conv(*prologue, t["weight"], False)[0]
        return ops.head(*prologue, t["weight"], t["bias"], t["base"])
    zeros = t["input"].new_zeros(t["input"].shape[1], dtype=torch.float32)
    norm, nothing = (zeros, zeros + 1, zeros + 1, zeros, 0.0), (None, None, None, None, 0.0)
    if op == "trunk_block":
        return ops.trunk_block(t["input"], *norm, None, *nothing, t["weight1"], *norm, 1.0, t["weight"])
    tail = (t["weight1"], *norm, t["weight"], t["bias"], t["base"])
    return ops.trunk_tail(t["input"], *norm, t["input"], *norm, *tail)


def composition(op: str, t: dict[str, Tensor]) -> Tensor:
    """What ``call`` computes, in torch's plain convolutions; in float64 oneDNN has no part in them."""
    if op == "stem":
        return F.conv2d(F.conv2d(t["image"], t["w0"], t["b0"], padding=3), t["w1"], t["b1"])
    if op in TRAINABLE:
        v = t["input"] * t["scale"].view(-1, 1, 1) + t["shift"].view(-1, 1, 1)
    else:
        v = F.conv2d(t["input"] * (2 if op == "trunk_tail" else 1), t["weight1"], padding=1)
    if op in ("conv", "trunk_block"):
        return F.conv2d(v, t["weight"], padding=1)
    v = v + t["input"] if op == "trunk_tail" else v
    return F.conv2d(v, t["weight"], t["bias"], padding=3) + t["base"]


def results(function: Callable[[str, dict[str, Tensor]], Tensor], op: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """Output and, of a trainable op, the gradients of every argument."""
    leaves = {name: t.detach().requires_grad_(op in TRAINABLE) for name, t in tensors.items() if name != "grad"}
    out = function(op, leaves)
    if op not in TRAINABLE:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), tensors["grad"])]


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
        found = results(call, case.op, tensors)
    finally:
        stem._TILE_ELEMENTS = before
    exact = results(composition, case.op, {name: t.double() for name, t in tensors.items()})
    terms = results(composition, case.op, {name: t.double().abs() for name, t in tensors.items()})
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


def test_narrow_maps_and_some_of_every_op() -> None:
    cases = fast()
    bad = wrong(cases)
    assert not bad, f"{len(bad)} of {len(cases)} wrong; of those: {bad[:5]}"


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
def test_every_convolution_at_every_instruction_level(level: str, record_property: pytest.RecordProperty) -> None:
    """``pytest -m slow -rP tests/ops/test_convolutions.py`` prints the number of cases."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split("flags", 1)[-1].split("\n", 1)[0].split()) if cpuinfo.exists() else set()
    if missing := LEVELS[level] - flags:
        pytest.skip(f"this processor lacks {', '.join(sorted(missing))}: oneDNN would run a lower level again")
    # Memory that is read before it is written then holds 1.5e16, as float32 and as bfloat16, instead of a lucky zero.
    settings = {"ONEDNN_MAX_CPU_ISA": level, "MALLOC_PERTURB_": "165", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    (isa,) = [line.split("isa:", 1)[1] for line in done.stdout.splitlines() if "isa:" in line]
    print(f"{level} ({isa}): {len(result['wrong'])} wrong of {result['cases']} cases")
    record_property("cases", result["cases"])
    assert not result["wrong"], f"{len(result['wrong'])} of {result['cases']} wrong; of those: {result['wrong'][:5]}"


class Convolutions(TorchDispatchMode):
    """dtype, kernel size and stride of every convolution in a block."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            backward = func is torch.ops.aten.convolution_backward.default
            weight, stride = (args[2], args[4]) if backward else (args[1], args[3])
            self.seen.append((weight.dtype, tuple(weight.shape[2:]), tuple(stride)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("features", [(), ("avx512_bf16",), ("avx512_bf16", "amx_tile")], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_calls_only_what_is_known_to_be_right(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, features: tuple[str, ...]
) -> None:
    monkeypatch.setattr(head, "_has", lambda feature: feature in features)
    for channels in range(1, 18):
        case = Case("head", dtype, 2, channels, 5, 6, 11)
        t = arguments(case)
        prologue = (t["input"], t["scale"], t["shift"], None, None, None, 1.0)
        with Convolutions() as forward:
            packed("head", head._head)(*prologue, t["weight"], t["bias"], t["base"])
        with Convolutions() as backward:
            packed("head_backward", head._head_backward)(t["grad"], *prologue, t["weight"])
        assert len(forward.seen) == 1 and len(backward.seen) == 2
        for seen, kernel, stride in forward.seen + backward.seen:
            assert stride == (1, 1) and kernel in ((7, 3), (7, 5), (7, 7))
            # In bfloat16 with AMX, which has been wrong most often, the plain kernel only.
            assert kernel == (7, 7) or seen == torch.float32 or "amx_tile" not in features
        half = dtype == torch.bfloat16 and "avx512_bf16" in features
        assert forward.seen[0][0] == (dtype if half else torch.float32)
        assert worst(case) <= 1, case


if __name__ == "__main__":
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        # Large enough for oneDNN to get it; it then says what instructions it uses.
        F.conv2d(torch.ones(2, 16, 9, 9), torch.ones(16, 16, 3, 3))
    cases = sweep()
    print(json.dumps({"cases": len(cases), "wrong": [f"{case}: {error:.1e}" for case, error in wrong(cases)]}))
