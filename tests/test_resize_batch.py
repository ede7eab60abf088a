"""`resize_batch` against the loop of single calls, bit for bit, and against the float64 oracle."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from learned_resizer_cuda import resize, resize_batch, use_backend
from learned_resizer_cuda.ops.bands import CACHE_BYTES, INTERPOLATIONS, TABLES
from tests.helpers import oracle

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# As in test_resample_random.py, for sides of up to 500 pixels instead of 60: errors of coordinates and sums grow with
# them. Half types round the result once more; bytes to a level, at halves to either.
TOLERANCE = {
    torch.float64: 500 / 60 * 1e-13,
    torch.float32: 500 / 60 * 3e-5,
    torch.float16: 500 / 60 * 1e-5 + 2**-11,
    torch.bfloat16: 500 / 60 * 1e-5 + 2**-8,
}


@dataclass(frozen=True)
class Case:
    """A call of `resize_batch`; its seed is enough to run it again."""

    images: list[Tensor]
    size: tuple[int, int]
    boxes: list[tuple[float, float, float, float]] | None
    flip: list[bool] | None
    interpolation: str
    antialias: bool

    def crops(self) -> list[Tensor]:
        """For boxes of whole pixels."""
        found = []
        for index, image in enumerate(self.images):
            if self.boxes is not None:
                top, left, height, width = map(int, self.boxes[index])
                image = image[:, top : top + height, left : left + width]
            found.append(image.flip(-1) if self.flip and self.flip[index] else image)
        return found

    def options(self) -> dict[str, object]:
        return {"interpolation": self.interpolation, "antialias": self.antialias}

    def expected(self) -> list[np.ndarray]:
        """By the oracle, in float64, and without rounding."""
        found = []
        for index, image in enumerate(self.images):
            height, width = image.shape[1:]
            box = (0.0, 0.0, float(height), float(width)) if self.boxes is None else self.boxes[index]
            mirror = bool(self.flip and self.flip[index])
            rest = self.interpolation, self.antialias
            rows = oracle.region_matrix(height, self.size[0], box[0], box[2], False, *rest)
            columns = oracle.region_matrix(width, self.size[1], box[1], box[3], mirror, *rest)
            found.append(rows @ image.double().numpy() @ columns.T)
        return found


def make(seed: int, *, sub_pixel: bool, dtype: torch.dtype | None = None, largest: int = 500) -> Case:
    rng = random.Random(seed)
    dtype = dtype or rng.choice([*FLOATS, torch.uint8])
    channels = rng.choice([1, 2, 3, 3, 4])
    count = rng.randint(1, 17)
    images = [_image(rng, channels, dtype, largest) for _ in range(count)]
    boxes = [_box(rng, image, sub_pixel) for image in images] if sub_pixel or rng.random() < 0.5 else None
    flip = [rng.random() < 0.5 for _ in images] if rng.random() < 0.5 else None
    size = rng.randint(1, 40), rng.randint(1, 40)
    return Case(images, size, boxes, flip, rng.choice(INTERPOLATIONS), rng.random() < 0.7)


def _image(rng: random.Random, channels: int, dtype: torch.dtype, largest: int) -> Tensor:
    height, width = (rng.choice([rng.randint(1, 8), rng.randint(1, largest)]) for _ in range(2))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def new(*shape: int) -> Tensor:
        if dtype == torch.uint8:
            return torch.randint(0, 256, shape, dtype=dtype, generator=generator)
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    kind = rng.choice(["planes", "interleaved", "sliced", "transposed", "expanded"])
    if kind == "interleaved":
        return new(height, width, channels).permute(2, 0, 1)
    if kind == "sliced":
        return new(channels, 2 * height, width + 5)[:, ::2, 3 : width + 3]
    if kind == "transposed":
        return new(channels, width, height).mT
    if kind == "expanded":
        return new(1, height, width).expand(channels, -1, -1)
    return new(channels, height, width)


def _box(rng: random.Random, image: Tensor, sub_pixel: bool) -> tuple[float, float, float, float]:
    sides = []
    for size in image.shape[1:]:
        if sub_pixel and rng.random() < 0.8:
            # Sixteenths of a pixel: sums are exact, and a region may be narrower than a pixel.
            begin = rng.randint(0, 16 * size - 1) / 16
            extent = rng.randint(1, int(16 * (size - begin))) / 16
        else:
            begin = float(rng.randint(0, size - 1))
            extent = float(rng.randint(1, size - int(begin)))
        sides.append((begin, extent))
    (top, height), (left, width) = sides
    return top, left, height, width


def check_loop(case: Case) -> None:
    images = [image.detach().requires_grad_(image.is_floating_point()) for image in case.images]
    loop = Case(images, case.size, case.boxes, case.flip, case.interpolation, case.antialias)
    found = resize_batch(images, case.size, boxes=case.boxes, flip=case.flip, **case.options())
    expected = torch.stack([resize(crop, case.size, **case.options()) for crop in loop.crops()])
    assert torch.equal(found, expected)
    if expected.requires_grad:
        grad = torch.rand_like(expected)
        for one, other in zip(
            torch.autograd.grad(found, images, grad), torch.autograd.grad(expected, images, grad), strict=True
        ):
            assert torch.equal(one, other)


def check_oracle(case: Case) -> None:
    found = resize_batch(case.images, case.size, boxes=case.boxes, flip=case.flip, **case.options())
    for index, (one, expected) in enumerate(zip(found, case.expected(), strict=True)):
        # The sums of absolute weights are at most 1.55 an axis away from borders, at borders below 2 (math.md, 1.6).
        value = 4 * max(1.0, np.abs(expected).max())
        if found.dtype == torch.uint8:
            clipped = np.clip(np.floor(expected + 0.5), 0, 255)
            near_half = np.abs(expected + 0.5 - np.round(expected + 0.5)) < 500 / 60 * 3e-5 * 255
            assert ((one.numpy() == clipped) | near_half).all(), index
        else:
            np.testing.assert_allclose(
                one.double().numpy(), expected, rtol=0, atol=value * TOLERANCE[found.dtype], err_msg=str(index)
            )


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_loop_in_every_bit(seed: int) -> None:
    check_loop(make(seed, sub_pixel=False, largest=120))


@pytest.mark.parametrize("seed", range(20))
def test_oracle(seed: int) -> None:
    check_oracle(make(seed, sub_pixel=True, largest=60))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 2000))
def test_random_lists(seed: int) -> None:
    check_loop(make(seed, sub_pixel=False))
    check_oracle(make(seed, sub_pixel=seed % 4 > 0))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_derivatives(interpolation: str) -> None:
    torch.manual_seed(0)
    images = [torch.rand(2, *size, dtype=torch.float64, requires_grad=True) for size in ((5, 7), (3, 4), (6, 1))]
    boxes = [(0.5, 1.25, 4, 5), (0, 0, 3, 4), (1, 0.25, 3.5, 0.5)]

    def run(*images: Tensor) -> Tensor:
        return resize_batch(images, (4, 3), boxes=boxes, flip=[True, False, True], interpolation=interpolation)

    assert torch.autograd.gradcheck(run, images)
    assert torch.autograd.gradgradcheck(run, images)


@pytest.mark.parametrize("antialias", [True, False])
def test_adjoint_identity(antialias: bool) -> None:
    case = make(7, sub_pixel=True, dtype=torch.float64)
    images = [image.detach().requires_grad_() for image in case.images]
    out = resize_batch(images, (30, 20), boxes=case.boxes, flip=case.flip, interpolation="lanczos", antialias=antialias)
    weights = torch.rand_like(out)
    grads = torch.autograd.grad(out, images, weights)
    left = (out * weights).sum()
    right = sum((image * grad).sum() for image, grad in zip(images, grads, strict=True))
    # Sums of at most 17 · 4 · 500² products of numbers up to 1.55².
    torch.testing.assert_close(left, torch.as_tensor(right), rtol=1e-12, atol=1e-9)
    assert [grad.shape for grad in grads] == [image.shape for image in images]


def test_only_the_gradients_that_are_needed() -> None:
    images = [torch.rand(3, 9, 8), torch.rand(3, 5, 6, requires_grad=True), torch.rand(3, 4, 4, requires_grad=True)]
    boxes = [(0, 0, 9, 8), (1, 1, 3, 3), (0, 0, 4, 4)]
    weights = torch.rand(3, 3, 4, 4)
    (resize_batch(images, 4, boxes=boxes, flip=[False, True, False]) * weights).sum().backward()
    assert images[0].grad is None
    assert images[1].grad is not None and images[1].grad[:, 0].eq(0).all() and images[1].grad[:, 2].ne(0).any()
    assert images[2].grad is not None


def test_normalised_bytes() -> None:
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in ((40, 30), (17, 61))]
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    for dtype in (None, *FLOATS):
        found = resize_batch(images, (9, 8), mean=mean, std=std, dtype=dtype, interpolation="bicubic")
        assert found.dtype == (dtype or torch.float32)
        shift, scale = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
        expected = torch.stack(
            [resize((image.double() / 255 - shift) / scale, (9, 8), interpolation="bicubic") for image in images]
        )
        # Normalised bytes are below 3; float32 keeps bytes and weights to 2^-24.
        torch.testing.assert_close(
            found.double(),
            expected,
            rtol=0,
            atol={torch.float64: 1e-13}.get(found.dtype, 1e-5 + 3 * _unit(found.dtype)),
        )


def _unit(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def test_bytes_as_floats_are_not_rounded() -> None:
    images = [torch.tensor([[[0, 255, 0, 255]]], dtype=torch.uint8)]
    found = resize_batch(images, (1, 8), dtype=torch.float32, interpolation="bicubic")
    expected = resize(images[0].float(), (1, 8), interpolation="bicubic")
    assert torch.equal(found[0], expected) and found.min() < 0 and found.max() > 255


def test_dtype_of_floats() -> None:
    image = torch.rand(3, 12, 10, requires_grad=True)
    found = resize_batch([image], 5, dtype=torch.bfloat16)
    assert torch.equal(found[0], resize(image, 5).bfloat16())
    found.sum().backward()
    assert image.grad is not None and image.grad.dtype == torch.float32


def test_regions_as_numpy_arrays() -> None:
    images = [torch.rand(3, 9, 8), torch.rand(3, 5, 6)]
    boxes, flip = [(0.5, 1, 8, 6), (1, 0, 4, 5.5)], [True, False]
    expected = resize_batch(images, 4, boxes=boxes, flip=flip)
    for flips in (np.array(flip), list(np.array(flip))):
        assert torch.equal(resize_batch(images, 4, boxes=np.array(boxes), flip=flips), expected)


def test_layout_and_batches() -> None:
    interleaved = [torch.rand(h, w, 3).permute(2, 0, 1) for h, w in ((9, 8), (5, 7))]
    assert resize_batch(interleaved, 4).is_contiguous(memory_format=torch.channels_last)
    assert resize_batch([*interleaved, torch.rand(3, 4, 5)], 4).is_contiguous()
    batch = torch.rand(2, 3, 9, 8)
    assert torch.equal(resize_batch(batch, 4), resize(batch, 4))
    image = tv_tensors.Image(torch.rand(3, 9, 8))
    assert type(resize_batch([image], 4)) is Tensor


def test_a_group_of_equal_images_in_the_op() -> None:
    group, single = torch.rand(2, 3, 9, 8, requires_grad=True), torch.rand(3, 7, 5, requires_grad=True)
    op = torch.ops.learned_resizer.resample_batch
    found = op([group, single], None, None, 4, 5, "lanczos", True, torch.float32, [], [])
    expected = resize_batch([*group, single], (4, 5), interpolation="lanczos")
    assert torch.equal(found, expected)
    weights = torch.rand_like(found)
    for one, other in zip(
        torch.autograd.grad(found, (group, single), weights),
        torch.autograd.grad(expected, (group, single), weights),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_opcheck() -> None:
    images = [torch.rand(2, 3, 5, 6, dtype=torch.float64, requires_grad=True), torch.rand(3, 4, 3, dtype=torch.float64)]
    boxes = torch.tensor([[0.5, 1, 4, 3], [0, 0, 4, 3]], dtype=torch.float64)
    flip = torch.tensor([True, False])
    op = torch.ops.learned_resizer
    sampling = 3, 2, "bicubic", True
    torch.library.opcheck(op.resample_batch, (images, boxes, flip, *sampling, torch.float64, [], []))
    grad = torch.rand(3, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    sizes, interleaved = [2, 5, 6, 0, 4, 3], [0, 1]
    torch.library.opcheck(op.resample_batch_backward, (grad, sizes, interleaved, boxes, flip, *sampling))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles(dynamic: bool) -> None:
    def run(images: list[Tensor], boxes: Tensor) -> Tensor:
        return resize_batch(images, (6, 5), boxes=boxes, flip=[True, False], interpolation="bicubic") * 2

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for sides in ((9, 12), (10, 14)):
        images = [torch.rand(3, sides[0], 8, requires_grad=True), torch.rand(3, 7, sides[1], requires_grad=True)]
        boxes = torch.tensor([[0.5, 0, 8, 8], [1, 2, 5, 6.25]], dtype=torch.float64)
        found, expected = compiled(images, boxes), run(images, boxes)
        assert torch.equal(found, expected)
        for one, other in zip(
            torch.autograd.grad(found.sum(), images), torch.autograd.grad(expected.sum(), images), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return resize_batch([first, second], 4, interpolation="lanczos")

    images = torch.rand(3, 9, 12), torch.rand(3, 7, 8)
    height = torch.export.Dim("height", min=2, max=500)
    program = torch.export.export(Module(), images, dynamic_shapes=({1: height}, None), strict=strict)
    other = torch.rand(3, 31, 12), images[1]
    assert torch.equal(program.module()(*other), Module()(*other))


def test_transforms() -> None:
    images = [torch.rand(3, 9, 8, dtype=torch.float64), torch.rand(3, 5, 6, dtype=torch.float64)]
    boxes = [(0.5, 0, 8, 7.5), (0, 0, 5, 6)]

    def run(image: Tensor) -> Tensor:
        return resize_batch([image, images[1]], (4, 3), boxes=boxes, flip=[True, False], interpolation="lanczos")

    tangent = torch.rand_like(images[0])
    value, derivative = torch.func.jvp(run, (images[0],), (tangent,))
    torch.testing.assert_close(value, run(images[0]), rtol=0, atol=1e-13)
    torch.testing.assert_close(derivative[0], run(tangent)[0], rtol=0, atol=1e-13)
    with pytest.raises(NotImplementedError, match=r"resize_batch: got images under torch.vmap"):
        torch.vmap(lambda image: resize_batch([image], 4))(torch.rand(2, 3, 8, 8))
    with pytest.raises(NotImplementedError, match=r"torch.vmap: resample_batch takes images of different sizes"):
        op = torch.ops.learned_resizer.resample_batch
        torch.vmap(lambda x: op([x], None, None, 4, 4, "bilinear", True, torch.float32, [], []))(torch.rand(2, 3, 8, 8))


def test_modes() -> None:
    images = [torch.rand(3, 9, 8), torch.rand(3, 5, 6)]
    expected = resize_batch(images, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resize_batch(images, 4), expected)
    with torch.inference_mode():
        assert torch.equal(resize_batch(images, 4), expected)
    assert resize_batch([image.to("meta") for image in images], 4).shape == (2, 3, 4, 4)
    with use_backend("native"), pytest.raises(RuntimeError, match=r"resample_batch cannot run natively"):
        resize_batch(images, 4)


@pytest.mark.parametrize("threads", [1, 3])
def test_same_bits_with_any_threads(threads: int) -> None:
    case = make(11, sub_pixel=True, dtype=torch.float32)
    expected = resize_batch(case.images, 30, boxes=case.boxes, interpolation="bicubic")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = resize_batch(case.images, 30, boxes=case.boxes, interpolation="bicubic")
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, expected)


def run_sizes(first: int, count: int) -> None:
    """Forward and backward of ``count`` images of as many heights, none of which comes twice."""
    for height in range(first, first + count, 8):
        images = [torch.rand(1, height + i, 4, requires_grad=True) for i in range(8)]
        resize_batch(images, (64, 4), interpolation="lanczos").sum().backward()


def test_tables_have_a_bound() -> None:
    TABLES.clear()
    for size in range(30_000, 30_060):
        resize_batch([torch.rand(1, size, 2)], (2000, 2), interpolation="lanczos")
        assert TABLES.size <= CACHE_BYTES
    # Tables of 2,000 · 93 weights and as many in the sparse matrix: 60 of them would take 200 MB.
    assert 10 < len(TABLES) < 60
    TABLES.clear()


@pytest.mark.slow
def test_memory_after_ten_thousand_sizes() -> None:
    ctypes = pytest.importorskip("ctypes")
    libc = ctypes.CDLL("libc.so.6")

    def resident() -> int:
        libc.malloc_trim(0)
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    run_sizes(100, 2000)
    before = resident()
    run_sizes(2100, 10_000)
    # What the allocator keeps; 10,000 tables and what is derived from them would take a gigabyte.
    assert resident() - before < 50e6
