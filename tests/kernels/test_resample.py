"""Production's band tables through the real CUDA source, compiled for the host, against the float64 answer.

The launcher's own tests on a GPU are at the end.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda.kernels.resample import axis_arguments, layout_of, resample
from learned_resizer_cuda.ops.band_matmul import empty_image
from learned_resizer_cuda.ops.bands import Bands, get_bands
from tests.helpers import kernels_host
from tests.helpers.arithmetic import OPS, Draw, close
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


@dataclass(frozen=True)
class Facts:
    """What the planner chose."""

    form: str
    slots: int
    vectors: bool
    pieces: int
    group_planes: int
    group_channels: int


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.fixture(scope="session")
def run_host() -> Callable[[Tensor, Bands, Bands], tuple[Tensor, Facts]]:
    """The launcher's call, on the host's build of the kernel."""
    library = ctypes.CDLL(str(kernels_host.build() / "csrc" / "tests" / "libresample_host.so"))
    library.resample_host.restype = ctypes.c_char_p

    def run(image: Tensor, bands_h: Bands, bands_w: Bands) -> tuple[Tensor, Facts]:
        out = empty_image(image, bands_h.out_size, bands_w.out_size)
        layout = layout_of(image)
        sizes = np.array([bands_h.in_size, bands_w.in_size, bands_h.out_size, bands_w.out_size], np.int64)
        strides = np.array(layout.strides, np.int64)
        facts = np.zeros(6, np.int32)
        rows = [np.ascontiguousarray(a) for a in axis_arguments(bands_h)[1:]]
        columns = [np.ascontiguousarray(a) for a in axis_arguments(bands_w)[1:]]
        error = library.resample_host(
            DTYPES.index(image.dtype),
            ctypes.c_int64(layout.planes),
            ctypes.c_int64(layout.planes_per_image),
            ctypes.c_int64(layout.channels),
            _pointer(sizes),
            *map(_pointer, rows),
            *map(_pointer, columns),
            ctypes.c_void_p(image.data_ptr()),
            _pointer(strides),
            ctypes.c_void_p(out.data_ptr()),
            132,
            _pointer(facts),
        )
        assert error is None, error.decode()
        form, slots, vectors, pieces, group_planes, group_channels = facts.tolist()
        return out, Facts(("fold", "gather")[form], slots, bool(vectors), pieces, group_planes, group_channels)

    return run


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


def _tables(sizes: tuple[int, int, int, int], filter: tuple[str, bool], dtype: torch.dtype) -> tuple[Bands, Bands]:
    height, width, out_height, out_width = sizes
    return (
        get_bands(height, out_height, None, *filter, dtype, "cpu"),
        get_bands(width, out_width, None, *filter, dtype, "cpu"),
    )


@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "sizes", [(64, 96, 32, 48), (40, 56, 80, 112), (37, 53, 17, 91), (30, 31, 30, 31), (5, 640, 7, 4)], ids=str
)
def test_production_tables_give_the_float64_answer(run_host, sizes, dtype, filter) -> None:
    for channels_last in (False, True):
        image = _image((2, 3, *sizes[:2]), dtype, seed=sum(sizes))
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        out, facts = run_host(image, *_tables(sizes, filter, dtype))
        assert out.is_contiguous(memory_format=torch.channels_last) == channels_last
        exact = lr.resize(image.double(), sizes[2:], interpolation=filter[0], antialias=filter[1])
        _check(out, exact)
        assert facts.vectors == (sizes[1] * (3 if channels_last else 1) % (8 if dtype.itemsize < 4 else 4) == 0)


@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=lambda d: str(d).removeprefix("torch.")
)
@pytest.mark.parametrize("sizes", [(64, 96, 32, 48), (40, 56, 80, 112), (37, 53, 17, 91)], ids=str)
def test_transposed_tables_give_the_adjoint(run_host, sizes, dtype, filter) -> None:
    bands_h, bands_w = _tables(sizes, filter, dtype)
    image = torch.zeros(2, 3, *sizes[:2], dtype=torch.float64, requires_grad=True)
    for channels_last in (False, True):
        grad = _image((2, 3, *sizes[2:]), dtype, seed=sum(sizes))
        if channels_last:
            grad = grad.contiguous(memory_format=torch.channels_last)
        out, _ = run_host(grad, bands_h.transposed(), bands_w.transposed())
        resized = lr.resize(image, sizes[2:], interpolation=filter[0], antialias=filter[1])
        (exact,) = torch.autograd.grad(resized, image, grad.double())
        _check(out, exact)


def test_adjoint_identity(run_host) -> None:
    bands_h, bands_w = _tables((33, 47, 70, 20), ("lanczos", True), torch.float64)
    x, y = _image((1, 2, 33, 47), torch.float64, 1), _image((1, 2, 70, 20), torch.float64, 2)
    forward, _ = run_host(x, bands_h, bands_w)
    adjoint, _ = run_host(y, bands_h.transposed(), bands_w.transposed())
    left, right = (forward * y).sum().item(), (x * adjoint).sum().item()
    # Both sums have 3e3 terms of one sign mostly; 1e-12 relative is 5e3 roundings of float64.
    assert abs(left - right) <= 1e-12 * abs(left)


@pytest.mark.parametrize(
    ("sizes", "form", "slots"),
    [
        ((64, 64, 32, 32), "fold", {"bilinear": 2, "bicubic": 4, "lanczos": 6}),
        ((96, 64, 25, 32), "fold", {"bilinear": 2, "bicubic": 4, "lanczos": 6}),
        ((32, 32, 64, 64), "gather", {"bilinear": 2, "bicubic": 4, "lanczos": 6}),
    ],
)
def test_production_tables_need_no_more_slots_than_the_filter(run_host, sizes, form, slots) -> None:
    for interpolation, expected in slots.items():
        image = _image((1, 1, *sizes[:2]), torch.float32, 3)
        _, facts = run_host(image, *_tables(sizes, (interpolation, True), torch.float32))
        assert (facts.form, facts.slots) == (form, expected), interpolation


@pytest.mark.parametrize("sizes", [(1600, 9, 8, 5), (9, 1600, 5, 8), (8, 5, 1600, 9)], ids=str)
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos"])
def test_ratios_to_200(run_host, sizes, interpolation) -> None:
    image = _image((1, 3, *sizes[:2]), torch.float32, 4)
    out, _ = run_host(image, *_tables(sizes, (interpolation, True), torch.float32))
    _check(out, lr.resize(image.double(), sizes[2:], interpolation=interpolation))


def test_explicit_factors(run_host) -> None:
    image = _image((1, 2, 40, 50), torch.float32, 5)
    for factor, size in ((0.31, (30, 30)), (1.7, (60, 90)), (0.1, (40, 50))):
        tables = [
            get_bands(n, m, factor, "bicubic", True, torch.float32, "cpu") for n, m in zip((40, 50), size, strict=True)
        ]
        out, _ = run_host(image, *tables)
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
def test_strides_are_read_in_place(run_host, view, dtype) -> None:
    image = _views()[view](_image((2, 4, 48, 64), dtype, 6))
    for size in ((19, 25), (71, 90)):
        sizes = (*image.shape[2:], *size)
        out, _ = run_host(image, *_tables(sizes, ("bicubic", True), dtype))
        _check(out, lr.resize(image.double().contiguous(), size, interpolation="bicubic"))


def test_half_conversions_match_torch(run_host) -> None:
    # Identity tables: only the conversions are left. Every finite half, and the specials.
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = bits.view(dtype).reshape(1, 1, 256, 256)
        table = get_bands(256, 256, None, "bilinear", True, torch.float32, "cpu")
        out, _ = run_host(values, table, table)
        assert torch.equal(out.isnan(), values.isnan())
        finite = ~values.isnan()
        assert torch.equal(out[finite], values[finite])


def test_offsets_beyond_32_bits(run_host) -> None:
    # 3 GiB of addresses of which a few pages are touched.
    memory = torch.empty(3 * 2**30 + 64, dtype=torch.uint8)
    view = memory.as_strided((1, 1, 4, 64), (0, 0, 2**30, 1))
    view.copy_(_image((1, 1, 4, 64), torch.uint8, 8))
    out, _ = run_host(view, *_tables((4, 64, 9, 20), ("bicubic", True), torch.uint8))
    _check(out, lr.resize(view.double(), (9, 20), interpolation="bicubic"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launcher_on_the_host(dtype: torch.dtype) -> None:
    image = Draw("bfloat16").features(2, 3, 19, 40).to(dtype)
    bands = [get_bands(19, 7, None, "lanczos", True, torch.float64, "cpu")]
    bands.append(get_bands(40, 55, None, "lanczos", True, torch.float64, "cpu"))
    exact = OPS.resample(image.double(), 7, 55, None, None, "lanczos", True)
    with native_on_host():
        close([resample(image, *bands)], [exact], 2e-3 if dtype == torch.bfloat16 else 1e-6, "out")


def test_launcher_refuses_an_image_of_another_size() -> None:
    tables = _tables((8, 9, 4, 5), ("bilinear", True), torch.float32)
    with pytest.raises(ValueError, match=r"image: got shape \(1, 1, 9, 9\); expected \(B, C, 8, 9\)"):
        resample(torch.zeros(1, 1, 9, 9), *tables)


def test_binding_names_a_bad_argument() -> None:
    from learned_resizer_cuda.kernels import native

    try:
        module = native.load()
    except native.NativeUnavailable as unavailable:
        pytest.skip(str(unavailable))
    axis = axis_arguments(get_bands(8, 4, None, "bilinear", True))
    arguments = {"planes": 2, "channels": 1, "vectors": False, "multiprocessors": 1, "shared_memory": 227 * 1024}
    arguments |= {"rows": axis, "columns": axis}
    plan = module.plan_resample("float32", **arguments)
    assert len(memoryview(plan)) > 0 and plan.shape["form"] == "fold"
    for change, message in (
        ({"planes": 0}, "planes is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"rows": axis[:3]}, "rows: expected"),
        ({"rows": (8, axis[1].astype("int64"), *axis[2:])}, "rows.start: got a buffer of format"),
        ({"columns": (8, axis[1], axis[2][:-1], axis[3])}, "columns.offset: got 4 elements; expected 5"),
        ({"columns": (3, *axis[1:])}, "row 1 reads inputs"),
    ):
        with pytest.raises(ValueError, match=message):
            module.plan_resample("float32", **(arguments | change))
    with pytest.raises(ValueError, match="dtype: got 'int8'"):
        module.plan_resample("int8", **arguments)
    # The kernel reads vectors at 32-bit multiples of a row.
    rows_apart = {
        apart: module.resample_vectors("float32", 16, 8, 1, (0, 0, 0, apart, 1)) for apart in (1 << 28, 1 << 29)
    }
    assert rows_apart == {1 << 28: True, 1 << 29: False}
    strides = (64, 64, 0, 8, 1)
    for positional, message in (
        ((plan, 8, 16, 2, strides, 16, 0, 0), "tables: got address 8"),
        ((plan, 16, 0, 2, strides, 16, 0, 0), "image: got a null address"),
        ((plan, 16, 16, 2, strides, 12, 0, 0), "output: got address 12; expected one aligned to 16 bytes"),
        ((plan, 16, 16, 3, strides, 16, 0, 0), "planes_per_image: got 3"),
        ((plan, 16, 16, 2, strides[:4], 16, 0, 0), "strides: got 4"),
        ((plan, 16, 16, 2, strides, 16, -1, 0), "device: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            module.resample(*positional)


@pytest.mark.gpu
@pytest.mark.parametrize("filter", FILTERS, ids=lambda f: f"{f[0]}{'' if f[1] else '-plain'}")
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(
    "sizes", [(448, 448, 224, 224), (224, 224, 448, 448), (375, 500, 224, 299), (9, 6400, 5, 32)], ids=str
)
def test_the_gpu_gives_the_host_bits(run_host, sizes, dtype, filter) -> None:
    tables = _tables(sizes, filter, dtype)
    for channels_last in (False, True):
        image = _image((2, 3, *sizes[:2]), dtype, 7)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        expected, _ = run_host(image, *tables)
        # Same source, same order of fused operations: the same bits, whatever the number of multiprocessors.
        assert torch.equal(resample(image.cuda(), *tables).cpu(), expected)


@pytest.mark.gpu
def test_the_gpu_launches_on_the_current_stream_and_in_graphs() -> None:
    tables = _tables((64, 64, 32, 32), ("bicubic", True), torch.float32)
    image = torch.rand(2, 3, 64, 64, device="cuda")
    expected = resample(image, *tables)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out = resample(image, *tables)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(out, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = resample(image, *tables)
    image.copy_(torch.rand_like(image))
    graph.replay()
    assert torch.equal(captured, resample(image, *tables))
