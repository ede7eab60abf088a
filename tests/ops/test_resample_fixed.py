"""``parity="pillow"``: every byte as Pillow has it, in every layout, and under what traces, exports and transforms."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from PIL import Image
from PIL.Image import Resampling
from sklearn.datasets import load_sample_image
from torch import Tensor, func, nn

from learned_resizer_cuda import Resize, resize, use_backend
from learned_resizer_cuda.export import decompositions, to_onnx
from learned_resizer_cuda.ops.bands import INTERPOLATIONS
from tests.helpers import oracle

OP = torch.ops.learned_resizer.resample_fixed
VERSION = tuple(int(part) for part in PIL.__version__.split(".")[:2])
# The installed Pillow's order of passes.
INSTALLED = "pillow" if VERSION[0] >= 13 else "pillow-12"
Size = tuple[int, int]


def _noise(channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Black and white, the strongest overshoot; alpha is 0 or 255, too."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (channels, height, width), generator=generator, dtype=torch.uint8) * 255


@cache
def _photograph() -> Tensor:
    """``(4, 427, 640)``: a photograph, and another's green as alpha."""
    china, flower = (torch.from_numpy(load_sample_image(f"{name}.jpg").copy()) for name in ("china", "flower"))
    return torch.cat((china, flower[..., 1:2]), -1).permute(2, 0, 1).contiguous()


def _crop(channels: int, height: int, width: int, draw: random.Random) -> Tensor:
    whole = _photograph()
    top, left = draw.randint(0, 427 - height), draw.randint(0, 640 - width)
    colours = whole[: channels - 1 if channels in (2, 4) else channels]
    return torch.cat((colours, whole[3:]) if channels in (2, 4) else (colours,))[
        :, top : top + height, left : left + width
    ]


def _pillow(image: Tensor, size: Size, interpolation: str) -> Tensor:
    """``Image.resize`` of one image of one to four channels."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    theirs = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    assert theirs.mode == ("L", "LA", "RGB", "RGBA")[pixels.shape[2] - 1]
    out = np.asarray(theirs.resize(size[::-1], Resampling[interpolation.upper()]))
    return torch.from_numpy(out.reshape(*size, -1).copy()).permute(2, 0, 1)


def _compares(in_size: Size) -> bool:
    """Whether the installed Pillow has one of the two orders: 12.2 and 12.3 turn it for the very tall only."""
    return not ((12, 2) <= VERSION < (13, 0) and in_size[0] > 100 * in_size[1])


def _check(image: Tensor, size: Size, interpolation: str) -> int:
    """Number of bytes compared with Pillow, all of them equal."""
    got = resize(image, size, interpolation=interpolation, parity=INSTALLED)
    expected = _pillow(image, size, interpolation)
    different = int((got != expected).sum())
    assert different == 0, f"{different} bytes: {tuple(image.shape)} -> {size}, {interpolation}"
    return expected.numel()


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_cases_equal_pillow(count: int) -> None:
    draw, checked = random.Random(count), 0
    for case in range(count):
        channels = draw.randint(1, 4)
        # Any direction on either axis, small sizes more often.
        height, width, out_h, out_w = (draw.randint(1, draw.choice((12, 60, 400))) for _ in range(4))
        image = draw.choice(
            (
                lambda c, h, w: _noise(c, h, w, case),  # noqa: B023
                lambda c, h, w: torch.randint(0, 256, (c, h, w), dtype=torch.uint8),
                lambda c, h, w: _crop(c, h, w, draw),
            )
        )(channels, height, width)
        layout = draw.choice(("planes", "interleaved", "flipped"))
        if layout == "interleaved":
            image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        elif layout == "flipped":
            image = image.flip(-1).mT.contiguous().mT
        if _compares((height, width)):
            checked += _check(image, (out_h, out_w), draw.choice(INTERPOLATIONS))
    print(f"{count} cases, {checked} bytes, 0 different from Pillow {PIL.__version__}")


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_extreme_sizes_equal_pillow(interpolation: str) -> None:
    sizes = [
        ((1, 90), (1, 7)), ((1, 7), (5, 90)), ((90, 1), (7, 1)), ((7, 1), (90, 5)), ((1, 1), (1, 1)), ((1, 1), (9, 4)),
        ((50, 40), (1, 1)), ((3000, 2), (7, 2)), ((2, 3000), (2, 7)), ((7, 7), (3000, 3)), ((3, 2), (2, 3000)),
        # Tall images, on both sides of where Pillow 13 takes the columns first.
        ((300, 60), (40, 50)),
        ((100, 50), (60, 30)), ((101, 50), (60, 30)), ((100, 20), (50, 20)), ((90, 30), (80, 9)),
        # Only one axis changes; and none.
        ((40, 30), (40, 11)), ((40, 30), (13, 30)), ((40, 30), (40, 30)),
    ]  # fmt: skip
    for in_size, out_size in sizes:
        for channels in (1, 4):
            if _compares(in_size):
                _check(_noise(channels, *in_size), out_size, interpolation)


@pytest.mark.parametrize("parity", ["pillow-12", "pillow"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_both_orders_equal_whole_numbers(interpolation: str, parity: str) -> None:
    """Pillow up to 12 takes the rows first, Pillow 13 the columns of tall images: which of them is installed or not."""
    orders = set()
    for number, (in_size, out_size) in enumerate([((90, 31), (20, 17)), ((31, 90), (20, 17)), ((12, 9), (25, 40))]):
        rows_first = parity == "pillow-12" or not (0 < in_size[0] - out_size[0] > 2 * (in_size[1] - out_size[1]))
        orders.add(rows_first)
        for channels in (1, 2, 3, 4, 5, 6):
            image = _noise(channels, *in_size, seed=number)
            got = resize(image, out_size, interpolation=interpolation, parity=parity)
            expected = oracle.resize_fixed(image.numpy(), out_size, interpolation, rows_first)
            assert torch.equal(got, torch.from_numpy(expected)), (in_size, out_size, channels)
    assert len(orders) == (1 if parity == "pillow-12" else 2)


def test_other_channels_are_planes() -> None:
    """Five and more channels, and none, as images of mode L each."""
    for channels in (5, 6, 7):
        image = _noise(channels, 40, 30)
        got = resize(image, (11, 13), interpolation="lanczos", parity=INSTALLED)
        for plane, out in zip(image, got, strict=True):
            assert torch.equal(out[None], _pillow(plane[None], (11, 13), "lanczos"))
    assert resize(torch.empty(2, 0, 5, 4, dtype=torch.uint8), 3, parity="pillow").shape == (2, 0, 3, 3)
    assert resize(torch.empty(0, 4, 5, 4, dtype=torch.uint8), 3, parity="pillow").shape == (0, 4, 3, 3)


def test_same_size_is_a_copy() -> None:
    image = torch.randint(0, 256, (2, 4, 9, 7), dtype=torch.uint8)
    before = image.clone()
    out = resize(image, (9, 7), interpolation="lanczos", parity="pillow")
    assert torch.equal(out, image)
    out.zero_()
    assert torch.equal(image, before)


def _batch(channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, channels, height, width), generator=generator, dtype=torch.uint8)


def _interleaved(channels: int, height: int, width: int) -> Tensor:
    return _batch(channels, height, width).contiguous(memory_format=torch.channels_last)


LAYOUTS: dict[str, Callable[[int], Tensor]] = {
    "planes": lambda c: _batch(c, 21, 17),
    "interleaved": lambda c: _interleaved(c, 21, 17),
    "decoded, batch of one": lambda c: _interleaved(c, 21, 17)[:1],
    "decoded, expanded": lambda c: _interleaved(c, 21, 17)[:1].expand(3, -1, -1, -1),
    "cropped": lambda c: _batch(c, 31, 27)[:, :, 3:24, 5:22],
    "interleaved, cropped": lambda c: _interleaved(c, 31, 27)[:, :, 3:24, 5:22],
    "interleaved, flipped": lambda c: _interleaved(c, 21, 17).flip(-1),
    "one channel, expanded": lambda c: _batch(1, 21, 17).expand(-1, c, -1, -1),
    "every other channel": lambda c: _interleaved(2 * c, 21, 17)[:, ::2],
    "transposed": lambda c: _batch(c, 17, 21).mT,
    "interleaved, every other pixel": lambda c: _interleaved(c, 42, 34)[..., ::2, ::2],
    "one row": lambda c: _interleaved(c, 1, 17),
    "one pixel": lambda c: _batch(c, 1, 1),
    "no image": lambda c: _batch(c, 21, 17)[:0],
}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, channels: int) -> None:
    """Bytes of the plain image's, in the layout that fake tensors promise: that of every other output."""
    image = LAYOUTS[layout](channels)
    meta = torch.empty_strided(image.shape, image.stride(), dtype=torch.uint8, device="meta")
    for size in ((9, 8), (30, 40), (21, 5), (7, 17)):
        for interpolation in ("lanczos", "nearest", "box"):
            out = resize(image, size, interpolation=interpolation, parity="pillow")
            promised = resize(meta, size, interpolation=interpolation, parity="pillow")
            assert (out.shape, out.stride()) == (promised.shape, promised.stride()), (size, interpolation)
            assert out.stride() == resize(image, size).stride()
            for one, expected in zip(out, image.contiguous(), strict=True):
                assert torch.equal(one, resize(expected, size, interpolation=interpolation, parity="pillow"))


def test_any_rank() -> None:
    image = torch.randint(0, 256, (2, 3, 4, 21, 17), dtype=torch.uint8)
    for video in (image, image.transpose(0, 1), image.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)):
        out = resize(video, (9, 8), interpolation="bicubic", parity="pillow")
        assert out.shape == (*video.shape[:2], 4, 9, 8)
        for index in np.ndindex(*video.shape[:2]):
            assert torch.equal(out[index], resize(video[index], (9, 8), interpolation="bicubic", parity="pillow"))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_close_to_torchs_kernels_for_bytes(interpolation: str, antialias: bool) -> None:
    """They take the rows first, with weights of 16 bits, and are what torchvision uses."""
    draw, pixels, beyond = random.Random(0), 0, 0
    for make in (lambda h, w: _noise(3, h, w), lambda h, w: _crop(3, h, w, draw)):
        for _ in range(40):
            height, width, out_h, out_w = (draw.randint(2, 200) for _ in range(4))
            image = make(height, width)[None]
            options: dict[str, Any] = {"interpolation": interpolation, "antialias": antialias}
            got = resize(image, (out_h, out_w), parity="pillow-12", **options)
            theirs = F.interpolate(image, (out_h, out_w), mode=interpolation, antialias=antialias)
            difference = (got.int() - theirs.int()).abs()
            # A level where a pass rounds to the other side, which the second pass may amplify to two.
            assert difference.max() <= 2, (height, width, out_h, out_w)
            pixels, beyond = pixels + difference.numel(), beyond + int((difference > 1).sum())
    # Up to 16 in a million were measured in black and white noise, 3 in photographs.
    assert beyond <= 1e-4 * pixels


def test_without_antialiasing_as_torchs_taps() -> None:
    """Half a level from the exact resampling, and rounding between the passes: a level and a half at most."""
    image = _crop(3, 90, 70, random.Random(0))
    for interpolation in INTERPOLATIONS:
        got = resize(image, (31, 100), interpolation=interpolation, antialias=False, parity="pillow")
        exactly = oracle.resize(image.numpy(), (31, 100), (None, None), interpolation, False)
        assert np.abs(got.numpy() - np.clip(exactly, 0, 255)).max() <= 1.5, interpolation


# --- traced, exported, transformed ------------------------------------------------------------------------------------

CASES: list[tuple[str, bool]] = [(name, True) for name in INTERPOLATIONS] + [("bicubic", False)]


@pytest.mark.parametrize("channels", [3, 4])
def test_opcheck(channels: int) -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        image = _batch(channels, 11, 9).contiguous(memory_format=layout)
        for interpolation, antialias, rows_first in (("lanczos", True, True), ("nearest", True, False)):
            torch.library.opcheck(OP.default, (image, 4, 6, interpolation, antialias, rows_first))


@pytest.mark.parametrize("parity", ["pillow-12", "pillow"])
def test_compiles_whole_with_dynamic_sizes(parity: str) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend=counter)
    def run(image: Tensor) -> Tensor:
        return resize(image, (9, 7), interpolation="box", parity=parity)

    for size in ((24, 20), (9, 7), (3, 2), (50, 20), (64, 7), (100, 33)):
        image = _batch(4, *size)
        assert torch.equal(run(image), resize(image, (9, 7), interpolation="box", parity=parity))
    torch._dynamo.reset()
    # A graph for each order of passes, and of an image that does not shrink.
    assert counter.frame_count <= (1 if parity == "pillow-12" else 3)


class _Side(nn.Module):
    """Several filters on one image: one export for all of them."""

    def __init__(self, size: Size, parity: str, cases: list[tuple[str, bool]]) -> None:
        super().__init__()
        arms = [Resize(size, interpolation=name, antialias=antialias, parity=parity) for name, antialias in cases]
        self.arms = nn.ModuleList(arms)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [arm(image) for arm in self.arms]


# Those with formulas of their own in a graph.
FEW = [("nearest", True), ("box", True), ("lanczos", True)]


@pytest.mark.parametrize(
    ("cases", "channels", "parity", "in_size", "size"),
    [
        (FEW, 4, "pillow", (64, 21), (9, 17)),
        pytest.param(CASES, 3, "pillow-12", (64, 21), (9, 17), marks=pytest.mark.slow),
        pytest.param(CASES, 4, "pillow-12", (12, 13), (30, 8), marks=pytest.mark.slow),
    ],
)
def test_exports(
    cases: list[tuple[str, bool]], channels: int, parity: str, in_size: Size, size: Size, tmp_path: Path
) -> None:
    """Decomposed programs and ONNX models of one size: the same bytes."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, image = _Side(size, parity, cases).eval(), _batch(channels, *in_size)
    traced = torch.export.export(module, (image,))
    assert sum(node.target is OP.default for node in traced.graph.nodes) == len(cases)
    program = traced.run_decompositions(decompositions())
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(target.startswith("aten.") for target in targets)
    to_onnx(module, tmp_path / "fixed.onnx", image)
    session = onnxruntime.InferenceSession(tmp_path / "fixed.onnx", providers=["CPUExecutionProvider"])
    for got in (program.module()(image), session.run(None, {"image": image.numpy()})):
        for case, value, expected in zip(cases, got, module(image), strict=True):
            assert torch.equal(torch.as_tensor(value), expected), case


@pytest.mark.parametrize("cases", [FEW, pytest.param(CASES, marks=pytest.mark.slow)])
def test_onnx_model_of_every_size(cases: list[tuple[str, bool]], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = _Side((30, 7), "pillow-12", cases).eval()
    to_onnx(module, tmp_path / "any.onnx", _batch(3, 24, 20), dynamic_size=True)
    session = onnxruntime.InferenceSession(tmp_path / "any.onnx", providers=["CPUExecutionProvider"])
    # 12 rows: some centres of nearest are on edges, where the sum of Pillow's steps decides.
    for size in ((24, 20), (30, 7), (5, 40), (12, 6), (3, 2), (1, 1), (101, 17), (360, 270), (27, 21)):
        image = _batch(3, *size)
        for case, value, expected in zip(
            cases, session.run(None, {"image": image.numpy()}), module(image), strict=True
        ):
            assert np.array_equal(value, expected.numpy()), (size, case)


def test_pillows_order_is_not_exported_for_every_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ValueError, match="parity: got 'pillow' in an export of dynamic height and width; expected"):
        to_onnx(Resize(9, parity="pillow").eval(), tmp_path / "any.onnx", _batch(3, 24, 20), dynamic_size=True)


def test_plain_operations_are_the_op() -> None:
    """In forward mode and under transforms, at random sizes."""
    draw = random.Random(0)
    for _ in range(60):
        channels, height, width, out_h, out_w = (draw.randint(1, n) for n in (4, 90, 90, 90, 90))
        image, interpolation = _batch(channels, height, width), draw.choice(INTERPOLATIONS)

        def run(image: Tensor) -> Tensor:
            return resize(image, (out_h, out_w), interpolation=interpolation, parity="pillow")  # noqa: B023

        expected = run(image)
        assert torch.equal(func.vmap(run)(image), expected)
        assert torch.equal(func.functionalize(run)(image), expected)
        with fwAD.dual_level():
            assert torch.equal(run(image), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(run(image), expected)


def test_vmap_over_other_dimensions_and_in_gradients() -> None:
    image = _batch(3, 20, 16)
    run = Resize((7, 9), interpolation="bicubic", parity="pillow")
    assert torch.equal(func.vmap(run, in_dims=1)(torch.stack((image, 255 - image), 1))[1], run(255 - image))
    planes = func.vmap(lambda plane: run(plane[:, None]), in_dims=1)(image)
    assert torch.equal(planes[1], run(image[:, 1:2]))
    weight = torch.rand((), dtype=torch.float64)
    grad = func.grad(lambda w: (w * run(image).double()).sum())(weight)
    assert grad == run(image).double().sum()


def test_native_refuses_the_cpu_and_transforms() -> None:
    image = _batch(3, 9, 8)
    with use_backend("native"):
        with pytest.raises(RuntimeError, match=r"resample_fixed cannot run natively on a torch\.uint8 tensor on cpu"):
            resize(image, 4, parity="pillow")
        with pytest.raises(RuntimeError, match="natively: forward-mode differentiation is on"), fwAD.dual_level():
            resize(image, 4, parity="pillow")


def test_op_refuses_other_dtypes_and_forward_mode() -> None:
    with pytest.raises(TypeError, match=r"image: got dtype torch\.float32; expected torch\.uint8"):
        OP(torch.rand(1, 3, 8, 8), 4, 4, "bilinear", True, True)
    with pytest.raises(NotImplementedError, match="resample_fixed: forward-mode"), fwAD.dual_level():
        OP(_batch(3, 8, 8), 4, 4, "bilinear", True, True)
