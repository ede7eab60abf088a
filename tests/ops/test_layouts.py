"""One rule for an output's strides: eager, fake and compiled agree on every input, and interleaved channels stay so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from learned_resizer_cuda import FusedResizer, resize
from learned_resizer_cuda.ops.bands import RESIZER_INTERPOLATIONS

# The others take the tables, as lanczos does, or select pixels.
FILTERS = [(name, antialias) for name in RESIZER_INTERPOLATIONS for antialias in (True, False)] + [("nearest", True)]
RESAMPLE = torch.ops.learned_resizer.resample


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _interleaved(batch: int, channels: int, height: int, width: int) -> Tensor:
    return _rand(batch, height, width, channels).permute(0, 3, 1, 2)


# Whether its channels are interleaved, and the image: 4-D, 21 x 17 pixels but for the last five.
LAYOUTS: dict[str, tuple[bool, Callable[[], Tensor]]] = {
    "planes": (False, lambda: _rand(2, 3, 21, 17)),
    "interleaved": (True, lambda: _interleaved(2, 3, 21, 17)),
    "decoded, batch of one": (True, lambda: _rand(21, 17, 3).permute(2, 0, 1)[None]),
    "decoded, batch stride of 7": (True, lambda: _rand(1072)[:1071].as_strided((1, 3, 21, 17), (7, 1, 51, 3))),
    "decoded, expanded": (True, lambda: _rand(21, 17, 3).permute(2, 0, 1)[None].expand(3, -1, -1, -1)),
    "cropped": (False, lambda: _rand(2, 3, 31, 27)[:, :, 3:24, 5:22]),
    "interleaved, cropped": (True, lambda: _interleaved(2, 3, 31, 27)[:, :, 3:24, 5:22]),
    "interleaved, flipped": (True, lambda: _interleaved(2, 3, 21, 17).flip(-1)),
    "one channel": (False, lambda: _rand(2, 1, 21, 17)),
    "one channel, last": (False, lambda: _interleaved(2, 1, 21, 17)),
    "one channel, expanded": (False, lambda: _rand(2, 1, 21, 17).expand(-1, 3, -1, -1)),
    "every other channel": (False, lambda: _interleaved(2, 6, 21, 17)[:, ::2]),
    "transposed": (False, lambda: _rand(2, 3, 17, 21).mT),
    "interleaved, transposed": (True, lambda: _interleaved(2, 3, 17, 21).mT),
    "every other pixel": (False, lambda: _rand(2, 3, 42, 34)[:, :, ::2, ::2]),
    "interleaved, every other pixel": (True, lambda: _interleaved(4, 3, 42, 34)[::2, :, ::2, ::2]),
    "channels outside the batch": (False, lambda: _rand(3, 21, 17, 2).permute(3, 0, 1, 2)),
    "batch inside the channels": (False, lambda: _rand(21, 17, 3, 2).permute(3, 2, 0, 1)),
    "one row, interleaved": (True, lambda: _interleaved(2, 3, 1, 17)),
    "one column, interleaved": (True, lambda: _interleaved(2, 3, 21, 1)),
    "one pixel": (False, lambda: _rand(2, 3, 1, 1)),
    "one pixel of every other image": (True, lambda: _rand(4, 3, 1, 1)[::2]),
    "no image": (False, lambda: _rand(0, 3, 21, 17)),
}
# Scales that torch's kernels take and that the tables take; one axis and both.
SIZES = ((9, 8), (30, 40), (21, 5), (7, 17), (42, 34), (50, 1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eager_and_fake_agree(layout: str) -> None:
    interleaved, make = LAYOUTS[layout]
    image = make()
    meta = torch.empty_strided(image.shape, image.stride(), device="meta")
    for size in SIZES:
        for interpolation, antialias in FILTERS:
            out = resize(image, size, interpolation=interpolation, antialias=antialias)
            promised = RESAMPLE(meta, *size, None, None, interpolation, antialias)
            assert out.stride() == promised.stride() and out.shape == promised.shape
            expected_format = torch.channels_last if interleaved else torch.contiguous_format
            assert out.is_contiguous(memory_format=expected_format)
            # The same sums in another order: some roundings of 2^-24 of values below 2, summed over at most 13 taps.
            planes = resize(image.clone(memory_format=torch.contiguous_format), size, interpolation=interpolation,
                            antialias=antialias)  # fmt: skip
            torch.testing.assert_close(out, planes, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16])
def test_other_dtypes_have_the_same_layouts(dtype: torch.dtype) -> None:
    for name, (interleaved, make) in LAYOUTS.items():
        floats = make()
        image = (floats * 255).to(dtype)
        # Of the same strides; where elements share memory, their type's own size decides nothing.
        shared = floats.untyped_storage().nbytes() < floats.numel() * 4
        if not shared:
            image = torch.empty_strided(floats.shape, floats.stride(), dtype=dtype).copy_(image)
        for interpolation in ("bilinear", "nearest"):
            out = resize(image, (9, 8), interpolation=interpolation)
            expected_format = torch.channels_last if interleaved else torch.contiguous_format
            assert out.is_contiguous(memory_format=expected_format), (name, interpolation)
            planes = resize(image.clone(memory_format=torch.contiguous_format), (9, 8), interpolation=interpolation)
            # Sums in another order may round to the type's next value, of 255 levels.
            torch.testing.assert_close(out, planes, rtol=2**-7, atol=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck(layout: str) -> None:
    image = LAYOUTS[layout][1]()
    for rest in (((9, 8), "bilinear", True), ((9, 8), "bicubic", False)):
        size, interpolation, antialias = rest
        torch.library.opcheck(
            RESAMPLE.default,
            (image, *size, None, None, interpolation, antialias),
            test_utils=("test_schema", "test_faketensor"),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.uint8])
def test_any_rank(dtype: torch.dtype) -> None:
    decoded = (_rand(21, 17, 3) * 255).to(dtype).permute(2, 0, 1)
    video = (_rand(2, 4, 21, 17, 3) * 255).to(dtype).permute(0, 1, 4, 2, 3)
    swapped = video.transpose(0, 1)
    for image in (decoded, video, swapped, video[:, ::2], decoded.expand(2, 2, -1, -1, -1)):
        out = resize(image, (9, 8))
        assert out.stride()[-3:] == (1, 24, 3)
        torch.testing.assert_close(out, resize(image.clone(memory_format=torch.contiguous_format), (9, 8)))
    planes = (_rand(2, 4, 3, 21, 17) * 255).to(dtype)
    for image in (planes[0, 0], planes, planes.transpose(0, 1)):
        assert resize(image, (9, 8)).is_contiguous()


# --- compiled ---------------------------------------------------------------------------------------------------

DECODED = ((48, 64), (64, 48), (33, 47), (224, 18), (1, 30))
OUTPUTS = ((22, 22), (24, 32), (22, 31), (100, 18), (7, 13))


def _decoded(size: tuple[int, int]) -> Tensor:
    """As an image decoder leaves it: rows of interleaved pixels, seen as channels first."""
    return _rand(*size, 3).permute(2, 0, 1)


def _check(run: Callable[[Tensor], Tensor], eager: Callable[[Tensor], Tensor], image: Tensor, atol: float) -> None:
    got, expected = run(image), eager(image)
    assert got.stride() == expected.stride()
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("batched", [False, True])
def test_resize_of_decoded_images_compiles(batched: bool) -> None:
    for in_size, size in zip(DECODED, OUTPUTS, strict=True):
        # torch's kernels, with and without antialiasing, and the tables.
        for interpolation, antialias in (("bilinear", True), ("bicubic", False), ("lanczos", True)):

            def run(image: Tensor) -> Tensor:
                return resize(image, size, interpolation=interpolation, antialias=antialias)  # noqa: B023

            torch._dynamo.reset()
            image = _decoded(in_size)[None] if batched else _decoded(in_size)
            # Inductor checks strides; it takes too long for all. The same op on the same image.
            backend = "inductor" if (interpolation, antialias) == ("bilinear", True) else "aot_eager"
            _check(torch.compile(run, fullgraph=True, backend=backend), run, image, 0.0)


@pytest.mark.parametrize("batched", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_follows_a_resize_reads_the_strides_that_were_promised(batched: bool) -> None:
    image, conv = _decoded((480, 640)), nn.Conv2d(3, 4, 3)

    def run(image: Tensor) -> Tensor:
        return conv(resize(image, 224) * 2)

    # Sums of 27 products of numbers below 2, in float32.
    _check(torch.compile(run, fullgraph=True), run, image[None] if batched else image, 1e-5)


def _module() -> FusedResizer:
    torch.manual_seed(0)
    return FusedResizer(8, num_filters=4).eval()


def test_fused_resizer_on_decoded_images_compiles() -> None:
    module = _module()
    for in_size, size in zip((*DECODED, (480, 640)), (*OUTPUTS, (224, 224)), strict=True):
        torch._dynamo.reset()
        with torch.no_grad():
            compiled = torch.compile(lambda x: module(x, size), fullgraph=True)  # noqa: B023
            # The same ops; vector operations around them may round in another order.
            _check(compiled, lambda x: module(x, size), _decoded(in_size)[None], 1e-5)  # noqa: B023


_RGB = [name for name, (_, make) in LAYOUTS.items() if make().shape[1] == 3 and len(make())]


@pytest.mark.parametrize("layout", _RGB)
def test_fused_resizer_keeps_the_format(layout: str) -> None:
    interleaved, make = LAYOUTS[layout]
    with torch.no_grad():
        out = _module()(make(), (9, 8))
    assert out.is_contiguous(memory_format=torch.channels_last if interleaved else torch.contiguous_format)
