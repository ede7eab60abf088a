"""Launcher of the fixed-point resampling, on the host: the bytes of the op on a CPU, and of Pillow."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

import learned_resizer_cuda as lr
from learned_resizer_cuda.kernels import device, native
from learned_resizer_cuda.kernels.resample_fixed import resample_fixed
from learned_resizer_cuda.ops.bands import INTERPOLATIONS, get_fixed_bands
from tests.helpers.arithmetic import OPS
from tests.helpers.native_host import native_on_host, native_ops_on_host

PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# The order of the axes: since 13.0 as `takes_rows_first` says, earlier the rows first.
PARITY = "pillow" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow-12"

LAYOUTS = {
    "planar": lambda x: x.contiguous(),
    "interleaved": lambda x: x.contiguous(memory_format=torch.channels_last),
    "crop": lambda x: _padded(x)[:, :, 2:-1, 3:-2],
    "interleaved crop": lambda x: _padded(x).contiguous(memory_format=torch.channels_last)[:, :, 2:-1, 3:-2],
    "every second": lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3)[:, :, ::2, ::3],
    "transposed": lambda x: x.mT.contiguous().mT,
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "batch and channels swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.fixture
def host() -> Iterator[None]:
    with native_on_host():
        yield


def _padded(image: Tensor) -> Tensor:
    return torch.nn.functional.pad(image, (3, 2, 2, 1), value=99)


def _bytes(*shape: int, seed: int = 0) -> Tensor:
    """A third black, a third white: sums beyond both ends, and ordinary ones."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.rand(shape, generator=generator) * 3 - 1).clamp(0, 1).mul(255).round().to(torch.uint8)


def _native(image: Tensor, size: tuple[int, int], interpolation: str, antialias: bool, rows_first: bool) -> Tensor:
    bands = [get_fixed_bands(i, o, interpolation, antialias) for i, o in zip(image.shape[2:], size, strict=True)]
    return resample_fixed(image, *bands, rows_first)


def _check(image: Tensor, size: tuple[int, int], interpolation: str, antialias: bool = True) -> None:
    """Both orders of the axes, against the op on a CPU, which has one channel at a time: no alpha."""
    for rows_first in (True, False):
        found = _native(image, size, interpolation, antialias, rows_first)
        arguments = (*size, interpolation, antialias, rows_first)
        expected = torch.cat([OPS.resample_fixed(c, *arguments) for c in image.split(1, 1)], 1)
        assert torch.equal(found, expected), rows_first
        assert found.stride() == OPS.resample_fixed(image.to("meta"), *arguments).stride()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "sizes", [(32, 48, 13, 24), (11, 16, 25, 33), (20, 9, 20, 31), (9, 20, 31, 20), (40, 7, 2, 5)], ids=str
)
def test_the_bytes_of_the_op_on_a_cpu(host: None, sizes: tuple[int, int, int, int], interpolation: str) -> None:
    for layout, channels in (("planar", 3), ("interleaved", 3), ("interleaved", 4)):
        image = LAYOUTS[layout](_bytes(2, channels, *sizes[:2]))
        for antialias in (True, False) if interpolation in ("box", "bilinear", "bicubic") else (True,):
            _check(image, sizes[2:], interpolation, antialias)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_strides_are_read_in_place(host: None, layout: str, channels: int) -> None:
    image = LAYOUTS[layout](_bytes(2, channels, 17, 23))
    for size in ((9, 12), (26, 30)):
        _check(image, size, "bicubic")


@pytest.mark.parametrize("interpolation", ["nearest", "box", "lanczos"])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1), (1, 1, 3, 2), (9, 7, 1, 1), (2, 3000, 3, 1), (3000, 2, 1, 3), (2, 2, 1000, 3), (2, 2, 3, 1000)],
    ids=str,
)
def test_extreme_sizes(host: None, sizes: tuple[int, int, int, int], interpolation: str) -> None:
    _check(_bytes(2, 2, *sizes[:2]), sizes[2:], interpolation)


@pytest.mark.parametrize("multiprocessors", [1, 4, 132])
def test_strips_of_every_height_give_the_same_bytes(
    host: None, multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "multiprocessors", lambda gpu: multiprocessors)
    for interpolation in ("nearest", "lanczos"):
        _check(_bytes(1, 3, 150, 40), (67, 300), interpolation)
        _check(_bytes(1, 1, 40, 150), (300, 67), interpolation)


def test_offsets_beyond_32_bits(host: None) -> None:
    # 3 GiB of addresses of which a few pages are touched.
    memory = torch.empty(3 * 2**30 + 64, dtype=torch.uint8)
    for strides in ((0, 0, 2**30, 1), (0, 0, 1, 2**30)):
        shape = (1, 1, 4, 64) if strides[3] == 1 else (1, 1, 64, 4)
        view = memory.as_strided(shape, strides)
        view.copy_(_bytes(*shape))
        _check(view, (9, 20), "bicubic")


def test_random_images_have_pillows_bytes() -> None:
    """The whole of ``resize``: alpha, the order of the axes, the kernel."""
    draw = random.Random(1)
    with native_ops_on_host(), lr.use_backend("native"):
        for case in range(150):
            mode = draw.choice(["L", "LA", "RGB", "RGBA"])
            (height, width), size = ([draw.randint(1, 40), draw.randint(1, 40)] for _ in range(2))
            interpolation = draw.choice(INTERPOLATIONS)
            pixels = _bytes(height, width, len(mode), seed=case)
            picture = Image.fromarray(pixels.squeeze(2).numpy())
            assert picture.mode == mode
            resized = np.asarray(picture.resize(size[::-1], PILLOW[interpolation]))
            expected = torch.from_numpy(resized.copy()).view(*size, len(mode))
            image: Tensor = pixels.permute(2, 0, 1)
            if draw.random() < 0.5:
                image = image.contiguous()
            found = lr.resize(image, size, interpolation=interpolation, parity=PARITY)
            assert torch.equal(found.permute(1, 2, 0), expected), (mode, height, width, size, interpolation)


def test_every_sum_fits_into_32_bits() -> None:
    """2 · 255 · 2²² and the half for rounding are below 2³¹."""
    for interpolation in ("box", "bilinear", "hamming", "bicubic", "lanczos"):
        for in_size in (1, 2, 3, 4, 5, 7, 13, 14, 100, 1001):
            for out_size in (1, 2, 3, 4, 5, 13, 61, 448):
                bands = get_fixed_bands(in_size, out_size, interpolation, True)
                magnitudes = np.add.reduceat(bands.weight.abs().numpy(), bands.offset[:-1].numpy())
                assert magnitudes.max() < 2, (interpolation, in_size, out_size)


def test_only_bytes_run_natively(host: None) -> None:
    assert native.load().build_record()["ops"]["resample_fixed"] == ["uint8"]


def test_binding_names_a_bad_argument(host: None) -> None:
    module = native.load()
    strides = (16, 16, 0, 4, 1)
    good: dict[str, Any] = {"tables": [16] * 5, "planes": (1, 1, 1), "size": (4, 4), "taps": 1, "strip_rows": 4}
    good |= {"image": 1, "image_stride": strides, "output": 1, "output_stride": strides, "device": 0, "stream": 0}
    for change, message in (
        ({"tables": [16, 16, 8, 16, 16]}, "tables.strip_begin: got address 8; expected one aligned to 16 bytes"),
        ({"image": 0}, "image: got address 0"),
        ({"output": 0}, "output: got address 0"),
        ({"planes": (1, 0, 1)}, "planes.planes_per_image: got 0; expected at least 1"),
        ({"size": (4, -1)}, "size.width: got -1; expected at least 1"),
        ({"taps": 0}, "taps: got 0; expected at least 1"),
        ({"strip_rows": 65}, "strip_rows: got 65; expected 1 to 64"),
        ({"image_stride": strides[:4]}, r"image_stride: got 4 values; expected \(image, plane, channel, row, column\)"),
    ):
        with pytest.raises(ValueError, match=message):
            module.resample_fixed(**(good | change))
    with pytest.raises(RuntimeError, match="resample_fixed: the launch on cuda:1 failed: cudaErrorInvalidDevice"):
        module.resample_fixed(**(good | {"device": 1}))
