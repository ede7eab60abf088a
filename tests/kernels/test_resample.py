"""The launcher with the real CUDA source, compiled for the host, against the float64 answer.

Tests on a GPU are at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda.kernels import native
from learned_resizer_cuda.kernels.resample import resample
from learned_resizer_cuda.ops.bands import INTERPOLATIONS
from learned_resizer_cuda.ops.resample import Resample, ResampleBackward, Sampling
from tests.helpers.native_host import native_on_host

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8)
FILTERS = (
    ("bilinear", True),
    ("bicubic", True),
    ("lanczos", True),
    ("nearest", True),
    ("box", True),
    ("hamming", True),
    ("bilinear", False),
    ("bicubic", False),
)

# Bounds on |kernel - float64 answer| as a multiple of the largest |answer|, for images in [0, 1] or 0 ... 255.
# float32 accumulation: at most ~1200 terms here, whose rounding errors grow like sqrt(terms)·2^-24 = 2e-6; half
# types: half a spacing of the stored result (2^-11, 2^-8) on top. Lanczos weights' absolute sum is below 1.5.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 3e-6,
    torch.float16: 2**-11 + 3e-6,
    torch.bfloat16: 2**-8 + 3e-6,
}


def _run(image: Tensor, size: tuple[int, int], filter: tuple[str, bool], factor: float | None = None) -> Tensor:
    with native_on_host():
        return resample(Resample(image, Sampling(*size, factor, factor, *filter)))


def _run_adjoint(grad: Tensor, size: tuple[int, int], filter: tuple[str, bool]) -> Tensor:
    with native_on_host():
        return resample(ResampleBackward(grad, Sampling(*size, None, None, *filter)))


def _plan(**changes: Any) -> Any:
    """Of one float32 image of 8 x 8 pixels to 4 x 4."""
    arguments = {"dtype": "float32", "out_dtype": "float32", "transposed": False, "tensors": [_tensor((8, 4), (8, 4))]}
    arguments |= {"interpolation": 2, "antialias": True, "multiprocessors": 132, "shared_memory": 227 * 1024}
    return native.load().plan_resample(**(arguments | {"images": [], "norm": []} | changes))


def _tensor(rows: tuple[int, int], columns: tuple[int, int], images: int = 1, channels: int = 1) -> tuple[Any, ...]:
    return images, channels, False, True, (*rows, 0.0, 0.0, 0.0), (*columns, 0.0, 0.0, 0.0), None, False


def _image(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        # Mostly black and white: every overshoot of a filter is there, and saturates.
        return (torch.rand(shape, generator=generator) * 3 - 1).clamp(0, 1).mul(255).round().to(dtype)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def _check(out: Tensor, exact: Tensor) -> None:
    if out.dtype == torch.uint8:
        # A tie in float64 may round either way in float32; nothing else may differ.
        near_tie = ((exact + 0.5) - (exact + 0.5).round()).abs() < 255 * TOLERANCE[torch.float32]
        expected = (exact + 0.5).floor().clamp(0, 255)
        difference = (out.double() - expected).abs()
        assert difference[~near_tie].max().item() == 0 if (~near_tie).any() else True
        assert difference.max().item() <= 1
        return
    error = (out.double() - exact).abs().max().item()
    assert error <= TOLERANCE[out.dtype] * max(1.0, exact.abs().max().item()), f"error {error}"


@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "sizes", [(64, 96, 32, 48), (40, 56, 80, 112), (37, 53, 17, 91), (30, 31, 30, 31), (5, 640, 7, 4)], ids=str
)
def test_the_float64_answer(sizes, dtype, filter) -> None:
    for channels_last in (False, True):
        image = _image((2, 3, *sizes[:2]), dtype, seed=sum(sizes))
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        out = _run(image, sizes[2:], filter)
        assert out.is_contiguous(memory_format=torch.channels_last) == channels_last
        exact = lr.resize(image.double(), sizes[2:], interpolation=filter[0], antialias=filter[1])
        _check(out, exact)


@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda d: str(d).removeprefix("torch.")
)
@pytest.mark.parametrize("sizes", [(64, 96, 32, 48), (40, 56, 80, 112), (37, 53, 17, 91)], ids=str)
def test_the_adjoint(sizes, dtype, filter) -> None:
    image = torch.zeros(2, 3, *sizes[:2], dtype=torch.float64, requires_grad=True)
    for channels_last in (False, True):
        grad = _image((2, 3, *sizes[2:]), dtype, seed=sum(sizes))
        if channels_last:
            grad = grad.contiguous(memory_format=torch.channels_last)
        out = _run_adjoint(grad, sizes[:2], filter)
        resized = lr.resize(image, sizes[2:], interpolation=filter[0], antialias=filter[1])
        (exact,) = torch.autograd.grad(resized, image, grad.double())
        _check(out, exact)


def test_adjoint_identity() -> None:
    filter = ("lanczos", True)
    x, y = _image((1, 2, 33, 47), torch.float64, 1), _image((1, 2, 70, 20), torch.float64, 2)
    forward, adjoint = _run(x, (70, 20), filter), _run_adjoint(y, (33, 47), filter)
    left, right = (forward * y).sum().item(), (x * adjoint).sum().item()
    # Both sums have 3e3 terms of one sign mostly; 1e-12 relative is 5e3 roundings of float64.
    assert abs(left - right) <= 1e-12 * abs(left)


@pytest.mark.parametrize(
    ("sizes", "outputs", "slots"),
    [
        ((64, 32), 1, {"bilinear": 2, "bicubic": 4, "lanczos": 6}),
        ((96, 25), 1, {"bilinear": 2, "bicubic": 4, "lanczos": 6}),
        # Twice as many outputs are open at a pixel; of lanczos' 12, eight at a time.
        ((32, 64), 4, {"bilinear": 4, "bicubic": 8, "lanczos": 8}),
    ],
)
def test_no_more_slots_than_the_filter_needs(sizes: tuple[int, int], outputs: int, slots: dict[str, int]) -> None:
    with native_on_host():
        for interpolation, expected in slots.items():
            plan = _plan(tensors=[_tensor(sizes, sizes)], interpolation=INTERPOLATIONS.index(interpolation))
            assert (plan.shape["outputs"], plan.shape["slots"]) == (outputs, expected), interpolation
            assert (plan.shape["tensors"][0]["unit_rows"] == 8) == (interpolation == "lanczos" and outputs == 4)


@pytest.mark.parametrize("sizes", [(1600, 9, 8, 5), (9, 1600, 5, 8), (8, 5, 1600, 9)], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_ratios_to_200(sizes, interpolation) -> None:
    image = _image((1, 3, *sizes[:2]), torch.float32, 4)
    out = _run(image, sizes[2:], (interpolation, True))
    _check(out, lr.resize(image.double(), sizes[2:], interpolation=interpolation))


def test_explicit_factors() -> None:
    image = _image((1, 2, 40, 50), torch.float32, 5)
    for factor, size in ((0.31, (30, 30)), (1.7, (60, 90)), (0.1, (40, 50))):
        out = _run(image, size, ("bicubic", True), factor)
        _check(out, lr.resize(image.double(), size, scale_factor=factor, interpolation="bicubic"))


def _views() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "crop": lambda x: x[:, :, 3:41, 5:60],
        "aligned crop": lambda x: x[:, :, 2:40, 8:56],
        "every second": lambda x: x[:, :, ::2, ::3],
        "transposed": lambda x: x.transpose(2, 3),
        "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
        "one value": lambda x: x[:1, :1, :1, :1].expand(2, 3, 40, 44),
        "batch and channels swapped": lambda x: x.transpose(0, 1),
        "crop of channels_last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, :, 1:40, 7:61],
        "some channels of channels_last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:3],
    }


@pytest.mark.parametrize("view", _views())
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=["float32", "uint8"])
def test_strides_are_read_in_place(view, dtype) -> None:
    image = _views()[view](_image((2, 4, 48, 64), dtype, 6))
    for size in ((19, 25), (71, 90)):
        out = _run(image, size, ("bicubic", True))
        _check(out, lr.resize(image.double().contiguous(), size, interpolation="bicubic"))


def test_half_conversions_match_torch() -> None:
    # The same size: only the conversions are left. Every finite half, and the specials.
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = bits.view(dtype).reshape(1, 1, 256, 256)
        out = _run(values, (256, 256), ("bilinear", True))
        assert torch.equal(out.isnan(), values.isnan())
        finite = ~values.isnan()
        assert torch.equal(out[finite], values[finite])


def test_offsets_beyond_32_bits() -> None:
    # 3 GiB of addresses of which a few pages are touched.
    memory = torch.empty(3 * 2**30 + 64, dtype=torch.uint8)
    view = memory.as_strided((1, 1, 4, 64), (0, 0, 2**30, 1))
    view.copy_(_image((1, 1, 4, 64), torch.uint8, 8))
    out = _run(view, (9, 20), ("bicubic", True))
    _check(out, lr.resize(view.double(), (9, 20), interpolation="bicubic"))


def test_binding_names_a_bad_argument() -> None:
    with native_on_host():
        module, tensor, plan = native.load(), _tensor((8, 4), (8, 4)), _plan()
        assert 0 < len(plan.stored) < plan.table_bytes and plan.shape["outputs"] == 1
        for change, message in (
            ({"tensors": []}, "got no images"),
            ({"tensors": [_tensor((8, 4), (8, 4), images=0)]}, "images is 0"),
            ({"tensors": [_tensor((8, 4), (8, 4), channels=0)]}, "channels is 0"),
            ({"tensors": [_tensor((8, 0), (8, 4))]}, "8 pixels and 0 outputs"),
            ({"tensors": [tensor[:7]]}, r"tensors\[0\]: got 7 values; expected \(images, channels, "),
            (
                {"tensors": [(*tensor[:4], (8, 4), *tensor[5:])]},
                r"tensors\[0\].rows: got 2 values; expected \(in, out, offset, extent, factor\)",
            ),
            ({"transposed": True, "tensors": [(*tensor[:6], (8, 8, 1, 0), False)]}, "outside its image"),
            ({"dtype": "int8"}, "dtype: got 'int8'"),
            ({"interpolation": 6}, "interpolation: got 6; expected 0 to 5"),
            ({"out_dtype": "bfloat16"}, "out_dtype is 3"),
        ):
            with pytest.raises(ValueError, match=message):
                _plan(**change)
        # The kernel reads vectors at 32-bit multiples of a row.
        rows_apart = {
            apart: module.resample_vectors("float32", 16, 8, 1, (0, 0, 0, apart, 1)) for apart in (1 << 28, 1 << 29)
        }
        assert rows_apart == {1 << 28: True, 1 << 29: False}
        image = (16, (64, 64, 0, 8, 1), 16)
        enlarging = _plan(tensors=[_tensor((4, 8), (4, 8))])
        for of, at, images, number, message in (
            (plan, 8, [image], 0, "tables: got address 8"),
            (plan, 16, [(0, *image[1:])], 0, "image: got address 0"),
            (plan, 16, [(*image[:2], 6)], 0, "output: got address 6; expected one aligned to 4 bytes"),
            (enlarging, 16, [(*image[:2], 12)], 0, "output: got address 12; expected one aligned to 16 bytes"),
            (plan, 16, [(16, (8, 1), 16)], 0, "strides: got 2 values"),
            (plan, 16, [image, image], 0, "images: got 2; expected as many as the plan has, 1"),
            (plan, 16, [image], -1, "device: got -1"),
        ):
            positional = of, at, images, False, number, 0
            with pytest.raises(ValueError, match=message):
                module.resample(*positional)


@pytest.mark.gpu
@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "sizes", [(448, 448, 224, 224), (224, 224, 448, 448), (375, 500, 224, 299), (9, 6400, 5, 32)], ids=str
)
def test_the_gpu_gives_the_host_bits(sizes, dtype, filter) -> None:
    for channels_last in (False, True):
        image = _image((2, 3, *sizes[:2]), dtype, 7)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        expected = _run(image, sizes[2:], filter)
        # Same source, same order of fused operations: the same bits, whatever the number of multiprocessors.
        a = Resample(image.cuda(), Sampling(*sizes[2:], None, None, *filter))
        assert torch.equal(resample(a).cpu(), expected)


@pytest.mark.gpu
def test_the_gpu_launches_on_the_current_stream_and_in_graphs() -> None:
    image = torch.rand(2, 3, 64, 64, device="cuda")
    a = Resample(image, Sampling(32, 32, None, None, "bicubic", True))
    expected = resample(a)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out = resample(a)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(out, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = resample(a)
    image.copy_(torch.rand_like(image))
    graph.replay()
    assert torch.equal(captured, resample(a))
