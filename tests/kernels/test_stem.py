"""The native stem on the host: values and gradients, strides, edges, lists, blocks, slopes, shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from learned_resizer_cuda.kernels import device, stem
from learned_resizer_cuda.kernels.arguments import memory_refusal
from learned_resizer_cuda.ops import stem as pure_torch
from learned_resizer_cuda.ops.prologue import empty_features
from learned_resizer_cuda.ops.regions import regions
from learned_resizer_cuda.ops.statistics import StatisticsGrad
from learned_resizer_cuda.ops.stem import Stem, StemBackward, StemOptions, StemWeights
from tests.helpers.arithmetic import ARITHMETICS, BOUND, Draw, close, tf32_flag  # noqa: F401
from tests.helpers.calls import Calls
from tests.helpers.native_host import native_on_host

# The bounds are those of tests/helpers/arithmetic.py and have its reasons: one rounding of operands and results for the
# 16-bit types and tf32, a sum of some hundred float32 terms for float32.
STATISTICS, GRADS = "mean var unbiased_var", "dw0 db0 dw1 db1"


def _weights(draw: Draw, n: int, channels: int, dtype: torch.dtype = torch.float32) -> StemWeights:
    weights = [draw.weight(n, channels, 7, 7), draw.vector(n), draw.weight(n, n, 1, 1), draw.vector(n)]
    return StemWeights(*(w.to(dtype) for w in weights))


def _stem(draw: Draw, image: Tensor, weights: StemWeights, *options: Any) -> Stem:
    return _stem_of_list(draw, [image], None, None, weights, *options)


def _stem_of_list(
    draw: Draw, images: list[Tensor], boxes: Tensor | None, flip: Tensor | None, weights: StemWeights, *options: Any
) -> Stem:
    where = regions([image.shape[2:] for image in images], boxes, flip)
    return Stem(images, where, weights, StemOptions(*options), draw.dtype, None, None)


def _batch(a: Stem) -> int:
    return sum(len(image) for image in a.images)


def _backward(draw: Draw, forward: Stem, statistics: bool = True, image_grad: bool = True) -> StemBackward:
    """With random gradients, zero in the padding of z."""
    n = len(forward.weights.b0)
    grad_z = _empty_z(forward).zero_()
    grad_z[:, :n] = draw.features(_batch(forward), n, *forward.options[:2])
    pixels = sum(len(image) * r.height * r.width for image, r in zip(forward.images, forward.regions, strict=True))
    given = StatisticsGrad(draw.vector(n), draw.vector(n), draw.vector(n), pixels)
    return StemBackward(grad_z, given if statistics else None, forward, [image_grad] * len(forward.images))


def _empty_z(a: Stem) -> Tensor:
    """As the caller of the stem makes it: with 16 or 32 channels."""
    shape = (_batch(a), 16 if len(a.weights.b0) <= 16 else 32, *a.options[:2])
    return empty_features(torch.empty(shape, dtype=a.dtype)).fill_(torch.nan)


def _double(value: Any) -> Any:
    """The same in float64, but for uint8 images."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, torch.dtype):
        return torch.float64
    if isinstance(value, list):
        return [*map(_double, value)]
    return type(value)(*map(_double, value)) if isinstance(value, tuple) else value


def _exact(a: Stem) -> tuple[Tensor, Tensor]:
    """z and the statistics in float64."""
    n = len(a.weights.b0)
    z, statistics = torch.empty(_batch(a), n, *a.options[:2], dtype=torch.float64), torch.empty(3, n).double()
    pure_torch.stem(_double(a), z, statistics)
    return z, statistics


def _run(a: Stem) -> tuple[Tensor, Tensor]:
    """z without its padding and the statistics, natively."""
    z, statistics = _empty_z(a), torch.full((3, len(a.weights.b0)), torch.nan)
    stem.stem(a, z, statistics)
    n = statistics.shape[1]
    assert not z[:, n:].any()
    without = _empty_z(a)
    stem.stem(a, without, None)
    assert torch.equal(z, without)
    return z[:, :n], statistics


def _check(a: Stem, bound: float) -> None:
    (z, statistics), (exact_z, exact_statistics) = _run(a), _exact(a)
    close([z, *statistics], [exact_z, *exact_statistics], bound, f"z {STATISTICS}")


def _check_backward(a: StemBackward, bound: float) -> None:
    n, weights = len(a.forward.weights.b0), a.forward.weights
    exact_dxs, exact = pure_torch.stem_backward(_double(a._replace(grad_z=a.grad_z[:, :n])))
    dxs, found = stem.stem_backward(a)
    assert all(g.dtype == w.dtype and g.stride() == w.stride() for g, w in zip(found, weights, strict=True))
    close(found, exact, bound, GRADS)
    for dx, exact_dx, image in zip(dxs, exact_dxs, a.forward.images, strict=True):
        assert (dx is None) == (exact_dx is None)
        if dx is not None:
            assert dx.stride() == torch.empty_like(image).stride() and dx.dtype == image.dtype
            close([dx], [exact_dx], bound, "dx")


@pytest.fixture(autouse=True)
def host(tf32_flag: None) -> Any:  # noqa: F811
    with native_on_host():
        yield


STEMS = [
    # filters, channels, image, output, interpolation, antialias, channels_last
    (16, 3, (15, 21), (7, 11), "bilinear", True, False),
    (16, 1, (9, 7), (13, 17), "bicubic", True, True),
    (32, 4, (9, 11), (4, 18), "lanczos", True, True),
    (16, 3, (19, 11), (5, 4), "lanczos", False, False),
    (32, 3, (1, 24), (3, 9), "bilinear", False, True),
]


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("n, channels, size, out, interpolation, antialias, last", STEMS)
def test_stem(
    arithmetic: str,
    n: int,
    channels: int,
    size: tuple[int, int],
    out: tuple[int, int],
    interpolation: str,
    antialias: bool,
    last: bool,
) -> None:
    draw = Draw(arithmetic)
    image = draw.features(2, channels, *size)
    if not last:
        image = image.contiguous(memory_format=torch.contiguous_format)
    # A sum that changes its sign by rounding changes its slope: what 16 bits do to a gradient at 0.1 has nothing to do
    # with the kernel (csrc/tests/test_stem_backward.cpp holds it against a formula that rounds at the same places).
    slope = 0.1 if arithmetic == "float32" else 0.97
    a = _stem(draw, image, _weights(draw, n, channels), *out, interpolation, antialias, slope)
    _check(a, BOUND[arithmetic])
    _check_backward(_backward(draw, a), BOUND[arithmetic])


@pytest.mark.parametrize(
    "arithmetic, parameters", [("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("float16", "float16")]
)
@pytest.mark.parametrize("n", [5, 31, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8, 24))])
def test_any_number_of_filters_with_parameters_in_their_own_dtype(arithmetic: str, parameters: str, n: int) -> None:
    draw, dtype = Draw(arithmetic), getattr(torch, parameters)
    w0, b0, w1, b1 = _weights(draw, n, 3, dtype)
    # As module.to(memory_format=torch.channels_last) leaves it; and biases in float32, as under another policy.
    weights = StemWeights(w0.contiguous(memory_format=torch.channels_last), b0.float(), w1, b1)
    a = _stem(draw, draw.features(2, 3, 13, 19), weights, 6, 9, "bilinear", True, 0.97)
    bound = max(BOUND[arithmetic], BOUND[parameters])
    _check(a, BOUND[arithmetic])
    _check_backward(_backward(draw, a), bound)


@pytest.mark.parametrize("image_grad", [False, True])
def test_a_float32_image_beside_half_precision_features_is_read_in_place(image_grad: bool) -> None:
    draw = Draw("bfloat16")
    image = draw.features(2, 3, 13, 19).float()
    a = _stem(draw, image, _weights(draw, 16, 3), 6, 9, "bilinear", True, 0.97)
    _check(a, BOUND["bfloat16"])
    _check_backward(_backward(draw, a, image_grad=image_grad), BOUND["bfloat16"])


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("last", [False, True])
def test_stem_of_uint8_images(arithmetic: str, last: bool) -> None:
    """Converted as they load, with mean and std in dtypes of their own."""
    draw = Draw(arithmetic)
    image = torch.randint(0, 256, (2, 3, 13, 18), dtype=torch.uint8)
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    a = _stem(draw, image, _weights(draw, 16, 3, draw.dtype), 7, 9, "bilinear", True, 0.97)
    a = a._replace(
        image_mean=torch.tensor([0.485, 0.456, 0.406], dtype=draw.dtype), image_std=torch.tensor([0.229, 0.224, 0.225])
    )
    _check(a, BOUND[arithmetic])
    _check_backward(_backward(draw, a, image_grad=False), BOUND[arithmetic])
    with pytest.raises(ValueError, match="uint8 image without image_mean and image_std"):
        stem.stem(a._replace(image_std=None), _empty_z(a), None)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "crop": lambda x: x[:, :, 2:13, 3:22],
    "every second": lambda x: x[:, :, ::2, 1::2],
    "transposed": lambda x: x.transpose(2, 3),
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "crop of channels_last": lambda x: x.contiguous(memory_format=torch.channels_last)[:, 1:, 2:13, 3:22],
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
def test_images_of_any_strides_are_read_in_place(arithmetic: str, view: str) -> None:
    draw = Draw(arithmetic)
    image = VIEWS[view](draw.features(2, 4, 17, 25).contiguous())
    a = _stem(draw, image, _weights(draw, 16, image.shape[1]), 7, 9, "bicubic", True, 0.1)
    _check(a, BOUND[arithmetic])


EDGES = [
    # One pixel, up and not; a row, a column; columns of one output beyond a block; tiles; what no output reads.
    ((1, 1), (1, 1), "bilinear", True),
    ((1, 1), (3, 4), "bicubic", True),
    ((1, 400), (1, 2), "bilinear", True),
    ((2, 150), (3, 70), "lanczos", True),
    ((31, 1), (9, 1), "lanczos", True),
    ((12, 17), (2, 3), "bilinear", False),
    ((4, 32), (4, 32), "bicubic", False),
]


@pytest.mark.parametrize("size, out, interpolation, antialias", EDGES)
@pytest.mark.parametrize("arithmetic, n", [("float16", 16), ("float32", 32)])
def test_edges(
    arithmetic: str, n: int, size: tuple[int, int], out: tuple[int, int], interpolation: str, antialias: bool
) -> None:
    draw, bound = Draw(arithmetic), BOUND[arithmetic]
    image = draw.features(1, 3, *size)
    a = _stem(draw, image, _weights(draw, n, 3), *out, interpolation, antialias, 1.0)
    (z, statistics), (exact_z, exact_statistics) = _run(a), _exact(a)
    close([z, statistics[0]], [exact_z, exact_statistics[0]], bound, "z mean")
    # One pixel has no variance, and no relative error either.
    if image.shape[2:].numel() > 1:
        close(statistics[1:], exact_statistics[1:], bound, "var unbiased_var")
    _check_backward(_backward(draw, a), bound)


@pytest.mark.parametrize("arithmetic", BOUND)
@pytest.mark.parametrize("statistics, image_grad", [(True, True), (False, True), (True, False)])
def test_gradients_of_both_slopes(arithmetic: str, statistics: bool, image_grad: bool) -> None:
    """Half of the channels of a and c are positive everywhere and half negative.

    A sum near zero may change its sign by a rounding, and its slope with it; here none is near, so that the slope can
    be far from 1 in every arithmetic.
    """
    draw, n = Draw(arithmetic), 16
    image = draw.features(2, 3, 11, 19)
    sign = torch.tensor([1.0, -1.0]).repeat(n // 2)
    w0, _, w1, _ = _weights(draw, n, 3)
    weights = StemWeights(w0, 6 * sign, w1, 16 * sign.flip(0))
    a = _backward(draw, _stem(draw, image, weights, 6, 9, "bicubic", True, 0.2), statistics, image_grad)
    if a.statistics_grad is not None:
        mean = a.statistics_grad.mean + 16 * sign.flip(0)
        # The count of several processes' images.
        a = a._replace(statistics_grad=a.statistics_grad._replace(mean=mean, pixels=2 * a.statistics_grad.pixels))
    _check_backward(a, BOUND[arithmetic])


@pytest.mark.parametrize("n", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_results_do_not_depend_on_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """With one multiprocessor blocks take several images, and add them up themselves."""
    draw = Draw("bfloat16")
    a = _stem(draw, draw.features(9, 3, 8, 9), _weights(draw, n, 3), 4, 5, "bilinear", True, 0.2)
    backward = _backward(draw, a)
    found = []
    for multiprocessors in (132, 1):
        monkeypatch.setattr(device, "multiprocessors", lambda gpu, count=multiprocessors: count)
        found.append((*_run(a), *stem.stem_backward(backward)))
    (z, statistics, (dx,), grads), (other_z, other_statistics, (other_dx,), other_grads) = found
    assert torch.equal(z, other_z)
    assert dx is not None and other_dx is not None and torch.equal(dx, other_dx)
    # Sums of float32, grouped differently.
    close(other_statistics, statistics.double(), 1e-5, STATISTICS)
    close(other_grads, [t.double() for t in grads], 1e-5, GRADS)


def _list(draw: Draw, channels: int = 3) -> tuple[list[Tensor], Tensor, Tensor]:
    """Images of several sizes and strides, in groups and alone; parts of them, in whole pixels and not; mirrored."""
    images = [
        draw.features(1, channels, 9, 13),
        draw.features(2, channels, 6, 8).contiguous(memory_format=torch.contiguous_format),
        draw.features(1, channels, 12, 140)[:, :, ::2],
        draw.features(0, channels, 5, 5),
        draw.features(1, channels, 4, 3),
        draw.features(1, channels, 11, 8).transpose(2, 3),
    ]
    boxes = [[0, 0, 9, 13], [1, 2, 5, 6], [0.5, 1.25, 5.25, 138], [0, 0, 5, 5], [1.5, 1.5, 0.25, 0.75], [1, 2, 6, 7.5]]
    return images, torch.tensor(boxes, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 0, 1]).bool()


@pytest.mark.parametrize(
    "arithmetic, n, interpolation, antialias",
    [
        ("bfloat16", 16, "bilinear", True),
        ("bfloat16", 16, "bicubic", False),
        ("float32", 5, "lanczos", True),
        pytest.param("float32", 24, "bilinear", True, marks=pytest.mark.slow),
        pytest.param("float16", 24, "lanczos", True, marks=pytest.mark.slow),
    ],
)
def test_lists_of_images(arithmetic: str, n: int, interpolation: str, antialias: bool) -> None:
    """Values, statistics over all pixels and gradients; and each image's z, bit for bit, as alone."""
    draw = Draw(arithmetic)
    images, boxes, flip = _list(draw)
    options = _weights(draw, n, 3), 4, 7, interpolation, antialias, 0.97
    a = _stem_of_list(draw, images, boxes, flip, *options)
    _check(a, BOUND[arithmetic])
    _check_backward(_backward(draw, a), BOUND[arithmetic])
    z = _run(a)[0]
    alone = [_run(_stem_of_list(draw, [images[i]], boxes[i : i + 1], flip[i : i + 1], *options))[0] for i in range(6)]
    assert torch.equal(z, torch.cat(alone))


def test_dx_of_a_part_is_zero_around_it_and_only_made_where_wanted() -> None:
    draw = Draw("bfloat16")
    images, boxes, flip = _list(draw)
    a = _stem_of_list(draw, images, boxes, flip, _weights(draw, 16, 3), 4, 7, "bilinear", True, 0.97)
    backward = _backward(draw, a)
    everything, grads = stem.stem_backward(backward)
    wanted = [False, True, True, False, False, True]
    some, other_grads = stem.stem_backward(backward._replace(image_grads=wanted))
    for dx, other, flag, region in zip(everything, some, wanted, a.regions, strict=True):
        assert dx is not None and (other is not None) == flag
        assert other is None or torch.equal(dx, other)
        rest = dx.clone()
        region.view(rest).zero_()
        assert not rest.any()
    assert all(torch.equal(g, h) for g, h in zip(grads, other_grads, strict=True))


def test_dx_wanted_only_of_a_tensor_without_images() -> None:
    draw = Draw("bfloat16")
    images = [draw.features(1, 3, 5, 6), draw.features(0, 3, 4, 4)]
    a = _backward(draw, _stem_of_list(draw, images, None, None, _weights(draw, 16, 3), 3, 4, "bilinear", True, 0.97))
    (none, empty), _ = stem.stem_backward(a._replace(image_grads=[False, True]))
    assert none is None and empty is not None and empty.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("arithmetic", ["bfloat16", "float32"])
def test_whole_boxes_and_flips_are_crops_and_mirrored_images(arithmetic: str) -> None:
    """In every bit: z, statistics and gradients."""
    draw = Draw(arithmetic)
    image = draw.features(2, 3, 10, 15)
    options = _weights(draw, 16, 3), 4, 6, "bicubic", True, 0.2
    box = torch.tensor([[2, 3, 6, 9]], dtype=torch.float64)
    a = _stem_of_list(draw, [image], box, torch.tensor([True]), *options)
    b = _stem(draw, image[:, :, 2:8, 3:12].flip(-1).contiguous(), *options)
    for one, other in zip(_run(a), _run(b), strict=True):
        assert torch.equal(one, other)
    backward = _backward(draw, a)
    (dx,), grads = stem.stem_backward(backward)
    (other_dx,), other_grads = stem.stem_backward(backward._replace(forward=b))
    assert dx is not None and other_dx is not None
    assert torch.equal(dx[:, :, 2:8, 3:12].flip(-1), other_dx)
    assert all(torch.equal(g, h) for g, h in zip(grads, other_grads, strict=True))


def test_a_list_of_uint8_images() -> None:
    draw = Draw("bfloat16")
    images = [torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8) for size in ((13, 18), (6, 40))]
    boxes = torch.tensor([[0.5, 0.5, 12, 17], [0, 0, 6, 40]], dtype=torch.float64)
    a = _stem_of_list(draw, images, boxes, None, _weights(draw, 16, 3, draw.dtype), 7, 9, "bilinear", True, 0.97)
    a = a._replace(image_mean=torch.tensor([0.485, 0.456, 0.406]), image_std=torch.tensor([0.229, 0.224, 0.225]))
    _check(a, BOUND["bfloat16"])
    _check_backward(_backward(draw, a, image_grad=False), BOUND["bfloat16"])


def test_launches_no_kernels_of_torch() -> None:
    draw = Draw("bfloat16")
    a = _stem(draw, draw.features(2, 3, 8, 9), _weights(draw, 16, 3, draw.dtype), 4, 5, "bilinear", True, 0.2)
    backward, z, statistics = _backward(draw, a), _empty_z(a), torch.empty(3, 16)
    _run(a)
    stem.stem_backward(backward)  # the tables of these sizes are made on the host
    with Calls() as calls:
        stem.stem(a, z, statistics)
        stem.stem_backward(backward)
    assert calls.all and not calls.launches


def test_an_empty_batch_launches_nothing() -> None:
    draw = Draw("float32")
    a = _stem(draw, draw.features(0, 3, 8, 9), _weights(draw, 16, 3), 4, 5, "bilinear", True, 0.2)
    z, statistics = _empty_z(a), torch.full((3, 16), torch.nan)
    stem.stem(a, z, statistics)
    assert z.shape == (0, 16, 4, 5) and not statistics.any()
    (dx,), grads = stem.stem_backward(_backward(draw, a))
    assert dx is not None and dx.shape == a.images[0].shape
    assert all(g.shape == w.shape and not g.any() for g, w in zip(grads, a.weights, strict=True))


@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("name", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("n", [16, 32])
def test_stem_backward_fits_every_gpu(arithmetic: str, n: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wide image: with fewer warps where a block may have less shared memory, or a reason why not at all."""
    limit = {"sm_80": 163, "sm_90": 227, "sm_120": 99}[name] * 1024  # CUDA C++ Programming Guide, compute capabilities
    draw = Draw(arithmetic)
    monkeypatch.setattr(device, "shared_memory", lambda gpu: limit)
    memory_refusal.cache_clear()
    refused = memory_refusal("stem", arithmetic, n, torch.device("cpu"))
    memory_refusal.cache_clear()
    # 32 filters of 32 bits need more than 99 KiB; everything else has to run everywhere.
    assert (refused is not None) == (n == 32 and name == "sm_120" and "32" in arithmetic), refused
    if refused is not None:
        assert "needs" in refused and "this GPU has 99 KiB" in refused
        return
    a = _stem(draw, draw.features(1, 3, 2, 130), _weights(draw, n, 3), 1, 65, "bilinear", True, 0.97)
    _check_backward(_backward(draw, a, statistics=False), BOUND[arithmetic])
