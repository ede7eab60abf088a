"""`transforms.Resize` beside torchvision's `v2.Resize`: shapes, types and pixels; what stays torchvision's."""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import pickle
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from PIL.Image import Resampling
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from learned_resizer_cuda import resize as resize_image
from learned_resizer_cuda import transforms
from tests.helpers import photographs

PILLOW = int(PIL.__version__.split(".")[0])

SHAPE = (32, 41)
# (size, max_size): enlarged, shrunk, one side only, limited by max_size, not limited by it, unchanged.
SIZES: list[tuple[Any, int | None]] = [
    (20, None), (50, None), ([20], None), ((20,), None), ((17, 23), None), ([64, 30], None), ((32, 20), None),
    (20, 22), ([30], 33), (20, 60), (None, 30), (None, 50), (32, None), (SHAPE, None),
]  # fmt: skip
FEW_SIZES = [SIZES[0], SIZES[1], SIZES[4], SIZES[-1]]
ANTIALIAS = (True, False, None)
MODES = (
    InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT, InterpolationMode.BILINEAR, InterpolationMode.BICUBIC,
    InterpolationMode.LANCZOS,
)  # fmt: skip
FORMS: list[tuple[Any, InterpolationMode]] = [
    *((mode, mode) for mode in InterpolationMode),
    *((mode.value, mode) for mode in InterpolationMode),
    # Pillow 13 has constants that torchvision does not know.
    *((form(Resampling[mode.name]), mode) for form in (Resampling, int) for mode in InterpolationMode
      if mode is not InterpolationMode.NEAREST_EXACT),
]  # fmt: skip
"""Forms of an interpolation with torchvision's enumeration."""


@functools.cache
def has_kernel(mode: InterpolationMode, antialias: bool | None) -> bool:
    """Whether torchvision resizes tensors so: older ones have no lanczos, none has box and Hamming."""
    try:
        v2.Resize((2, 2), mode, antialias=antialias)(torch.rand(1, 3, 3))
    except (NotImplementedError, ValueError):
        return False
    return True


def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
    """An image over the dtype's range, or as much of it as int32 has in float32."""
    generator = torch.Generator().manual_seed(sum(shape))
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)
    # Not to the ends of the range, where bicubic and lanczos overflow in torchvision.
    low, high = {torch.bool: (0, 2), torch.uint8: (0, 256)}.get(dtype, (-20_000, 20_000))
    return torch.randint(low, high, shape, generator=generator).to(dtype)


def tolerance(dtype: torch.dtype) -> float:
    """Distance allowed between ours and torchvision's."""
    if dtype in (torch.float32, torch.float64):
        return 1e-5
    # Two sums in float32 may round to neighbours: one unit in the last place of values below 2.
    if dtype in (torch.float16, torch.bfloat16):
        return torch.finfo(dtype).eps
    if dtype == torch.bool:
        return 0
    # One level; torchvision's fixed-point weights of 16 bits cost another on noise (see the test on noise).
    return 2 if dtype == torch.uint8 else 1


def check_same(got: Any, expected: Any, source: Any) -> None:
    """The same type, shape, dtype, layout, and pixels within the tolerance."""
    assert type(got) is type(expected) and got.shape == expected.shape and got.dtype == expected.dtype
    assert (got.data_ptr() == source.data_ptr()) == (expected.data_ptr() == source.data_ptr())
    assert torch.equal(torch.isnan(got), torch.isnan(expected))
    # torch gives a single channel in channels_last other strides than we, of the same places in memory.
    assert got.is_contiguous() == expected.is_contiguous()
    if got.numel():
        assert (got.double() - expected.double()).abs().max() <= tolerance(got.dtype)


ours = functools.partial(transforms.Resize, parity="pillow-12")
"""As on a GPU, where torchvision has no kernels for bytes."""

Case = tuple[Tensor, tuple[Any, int | None], InterpolationMode, bool | None]


def cases() -> Iterator[Case]:
    """Images with the arguments of a resize."""
    # All arguments, with the two dtypes people have.
    for dtype in (torch.float32, torch.uint8):
        yield from itertools.product([tensor(dtype, 3, *SHAPE)], SIZES, MODES, ANTIALIAS)
    # Dtypes: they meet the filters, not the rule for sizes.
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int16, torch.int32):
        yield from itertools.product([tensor(dtype, 3, *SHAPE)], FEW_SIZES, MODES, ANTIALIAS)
    # Classes, leading dimensions and memory formats.
    for dtype in (torch.float32, torch.uint8):
        images = [tv_tensors.Image(tensor(dtype, 3, *SHAPE)), tv_tensors.Video(tensor(dtype, 2, 4, 3, *SHAPE))]
        for shape in ((1,), (2,), (4,), (5,), (2, 3), (2, 4), (2, 1, 3), (0, 3), (2, 0), (0, 3, 4)):
            images.append(tensor(dtype, *shape, *SHAPE))
        for channels in (2, 3, 4):
            images.append(tensor(dtype, 2, channels, *SHAPE).contiguous(memory_format=torch.channels_last))
        images.append(tensor(dtype, *SHAPE, 3).permute(2, 0, 1))
        images.append(tensor(dtype, 3, 2 * SHAPE[0], 2 * SHAPE[1])[:, ::2, 1::2])
        yield from itertools.product(images, FEW_SIZES, MODES, (True,))


def test_tensors_beside_torchvision() -> None:
    count = 0
    for image, (size, max_size), mode, antialias in cases():
        if has_kernel(mode, antialias):
            expected = v2.Resize(size, mode, max_size, antialias)(image)
            check_same(ours(size, mode, max_size, antialias)(image), expected, image)
            count += 1
            if image.dtype == torch.uint8:  # by default torchvision's own on a CPU
                assert torch.equal(transforms.Resize(size, mode, max_size, antialias)(image), expected)
    print(f"{count} cases of tensors")
    assert count > 900


@pytest.mark.parametrize(("interpolation", "mode"), FORMS, ids=repr)
def test_forms_of_interpolation(interpolation: Any, mode: InterpolationMode) -> None:
    image = tensor(torch.float32, 3, *SHAPE)
    transform = transforms.Resize(20, interpolation)
    assert transform.interpolation is mode
    got = transform(image)
    assert torch.equal(got, transforms.functional.resize(image, 20, interpolation)) and got.shape == (3, 20, 25)
    if mode in MODES and has_kernel(mode, True):
        check_same(got, v2.Resize(20, mode)(image), image)
    else:  # torchvision has them for PIL images only
        assert torch.equal(got, resize_image(image, (20, 25), interpolation=mode.value))
    picture = photographs.pictures()[0]
    constant = Resampling[mode.name.removesuffix("_EXACT")]
    assert np.array_equal(transform(picture), picture.resize((20, 20), constant))


def levels(a: Tensor, b: Tensor) -> int:
    """Largest difference of two tensors of bytes."""
    return int((a.int() - b.int()).abs().max())


def test_bytes_of_photographs() -> None:
    """Within a level of torchvision's, but for a few bytes in a million.

    torch's weights have 16 bits and ours, Pillow's, 22. Over 17 photographs, eight sizes and all filters 529 of
    217 million bytes differed by 2 and none by more.
    """
    photos = photographs.crops(300, 401)
    alpha = torch.linspace(0, 255, 401).round().to(torch.uint8).expand(4, 1, 300, 401)
    count, total, beyond = 0, 0, 0
    for image in (photos, torch.cat((photos, alpha), 1), torch.cat((photos[:, :1], alpha), 1)):
        for size, mode, antialias in itertools.product((97, (350, 130), (420, 500)), MODES[1:], (True, False)):
            if has_kernel(mode, antialias):
                got, torchs = (kind(size, mode, antialias=antialias)(image) for kind in (ours, v2.Resize))
                assert levels(got, torchs) <= 2, (size, mode, antialias)
                count, total = count + 1, total + got.numel()
                beyond += int(((got.int() - torchs.int()).abs() > 1).sum())
    print(f"{count} cases of photographs: {beyond} of {total} bytes differ by 2, the others by at most 1")
    assert count >= 54 and beyond <= 1e-5 * total


def test_noise_no_farther_than_pillow() -> None:
    """Binary noise, where torch's weights of 16 bits weigh most: Pillow itself is this far from torch."""
    noise = tensor(torch.bool, 1, 300, 401).to(torch.uint8) * 255
    picture = F.to_pil_image(noise)
    for size, mode in itertools.product(((97, 130), (350, 130), (420, 500), (31, 17)), MODES[2:]):
        if has_kernel(mode, True):
            got, torchs = (kind(size, mode)(noise) for kind in (ours, v2.Resize))
            pillows = F.pil_to_tensor(v2.Resize(size, mode)(picture))
            assert levels(got, torchs) <= max(2, levels(pillows, torchs)), (size, mode)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_parity(channels: int) -> None:
    """Every channel an L image of Pillow's, whose version decides which axis comes first."""
    image = tensor(torch.uint8, channels, 90, 31)
    pillow = "pillow" if PILLOW >= 13 else "pillow-12"
    for mode in (mode for mode in InterpolationMode if mode is not InterpolationMode.NEAREST):
        got = transforms.Resize((17, 23), mode, parity=pillow)(image)
        bands = [v2.Resize((17, 23), mode)(F.to_pil_image(band)) for band in image]
        assert torch.equal(got, torch.cat([F.pil_to_tensor(band) for band in bands]))
        exact = transforms.Resize((17, 23), mode, parity="exact")(image)
        assert torch.equal(exact, resize_image(image, (17, 23), interpolation=mode.value.removesuffix("-exact")))
    nearest = transforms.Resize((17, 23), "nearest", parity="pillow")(image)
    assert torch.equal(nearest, transforms.Resize((17, 23), "nearest-exact", parity="pillow")(image))


def test_integers_saturate() -> None:
    """torchvision's wrap around: a bright edge gets dark fringes."""
    for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8):
        info = torch.iinfo(dtype)
        image = torch.full((1, 8, 8), info.min, dtype=dtype)
        image[..., 4:] = info.max
        real = resize_image(image.double(), (8, 16), interpolation="bicubic")
        got = transforms.Resize((8, 16), "bicubic")(image).double()
        assert real.max() > info.max and real.min() < info.min
        assert (got - real.clamp(info.min, info.max)).abs().max() <= 0.5
    wide = torch.tensor([[[2**30 + 1, 2**30 + 3]]], dtype=torch.int32)  # both have float32's 2**30
    assert transforms.Resize((1, 1))(wide).item() == 2**30 + 2


PIL_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F")


def picture(mode: str) -> PIL.Image.Image:
    grey = photographs.pictures()[0].convert("L").resize((41, 32))
    return PIL.Image.fromarray(np.array(grey).astype(np.uint16) * 200) if mode == "I;16" else grey.convert(mode)


@pytest.mark.parametrize("pil_mode", PIL_MODES)
def test_pil_images_are_torchvisions(pil_mode: str) -> None:
    image = picture(pil_mode)
    assert image.mode == pil_mode
    # Pillow 10 resizes 16-bit images by nearest only.
    modes = list(InterpolationMode) if pil_mode != "I;16" or PILLOW >= 11 else MODES[:2]
    for (size, max_size), mode, antialias in itertools.product(SIZES, modes, (True, None)):
        got, expected = (kind(size, mode, max_size, antialias)(image) for kind in (transforms.Resize, v2.Resize))
        assert type(got) is type(expected) and got.mode == expected.mode and got.size == expected.size
        assert got.tobytes() == expected.tobytes() and (got is image) == (expected is image)
    with pytest.warns(UserWarning, match="Anti-alias option is always applied"):
        got = transforms.Resize(20, modes[0], antialias=False)(image)
    assert got.tobytes() == v2.Resize(20, modes[0])(image).tobytes()


def annotations() -> Iterator[Any]:
    """Masks, and boxes and key points on a canvas of the images' size."""
    labels = torch.randint(0, 200, SHAPE, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.uint8, torch.int64, torch.bool, torch.float32):
        yield tv_tensors.Mask(labels.to(dtype))
        yield tv_tensors.Mask(labels.to(dtype).expand(5, 1, *SHAPE))
    for form in tv_tensors.BoundingBoxFormat:
        numbers = {"XYXY": 4, "XYWH": 4, "CXCYWH": 4, "XYWHR": 5, "CXCYWHR": 5, "XYXYXYXY": 8}[form.name]
        for dtype in (torch.float32, torch.int64):
            if numbers == 4 or dtype.is_floating_point:
                boxes = (torch.arange(3 * numbers).reshape(3, numbers) + 2).to(dtype)
                yield tv_tensors.BoundingBoxes(boxes, format=form, canvas_size=SHAPE)
    if hasattr(tv_tensors, "KeyPoints"):
        yield tv_tensors.KeyPoints(torch.tensor([[3.0, 4.0], [40.5, 31.5]]), canvas_size=SHAPE)


def test_annotations_are_torchvisions() -> None:
    for mark, (size, max_size), mode in itertools.product(annotations(), SIZES, MODES[:3]):
        got, expected = (kind(size, mode, max_size)(mark) for kind in (transforms.Resize, v2.Resize))
        assert type(got) is type(expected) and torch.equal(got, expected) and got.dtype == expected.dtype
        assert vars(got) == vars(expected)  # canvas size, format, clamping


class Depth(tv_tensors.TVTensor):
    """A class with a kernel of its own."""


class Thermal(tv_tensors.Image):
    """An image with a kernel of its own."""


class Label(tv_tensors.TVTensor):
    """A class without a kernel."""


for _kind in (Depth, Thermal):

    @F.register_kernel(F.resize, _kind)
    def _resize_negative(inpt: Any, size: Any, **options: Any) -> Any:
        return tv_tensors.wrap(-F.resize(inpt.as_subclass(Tensor), size, **options), like=inpt)


def test_registered_kernels() -> None:
    image = tensor(torch.float32, 1, *SHAPE)
    expected = -v2.Resize(20, InterpolationMode.BICUBIC)(image)
    for kind in (Depth, Thermal):
        got = transforms.Resize(20, "bicubic")(kind(image))
        assert type(got) is kind and torch.equal(got.as_subclass(Tensor), expected)
    label = Label(image)
    assert transforms.Resize(20)(label) is label
    with pytest.raises(TypeError, match="Label"):
        transforms.functional.resize(label, 20)


def flat(sample: Any) -> Iterable[Any]:
    return torch.utils._pytree.tree_flatten(sample)[0]


def test_samples() -> None:
    """Dictionaries, tuples and several inputs: torchvision decides what is resized."""
    image, second = tensor(torch.float32, 3, *SHAPE), tensor(torch.float32, 3, 50, 20)
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 30, 20]]), format="XYXY", canvas_size=SHAPE)
    mask = tv_tensors.Mask(torch.ones(1, *SHAPE, dtype=torch.uint8))
    samples: list[tuple[Any, ...]] = [
        (image, second, 7, "cat"),
        (tv_tensors.Image(image), boxes, mask),
        ({"image": tv_tensors.Image(image), "target": {"boxes": boxes, "masks": mask, "labels": torch.arange(3)}},),
        ({"views": [image, (second, None)], "video": tv_tensors.Video(image[None])},),
        ((photographs.pictures()[0], {"mask": mask, "area": torch.rand(3)}),),
        ([tv_tensors.Image(image), tv_tensors.Image(second)], np.ones(3)),
    ]
    for sample in samples:
        got, expected = (kind(20)(*sample) for kind in (transforms.Resize, v2.Resize))
        assert torch.utils._pytree.tree_structure(got) == torch.utils._pytree.tree_structure(expected)
        for a, b, source in zip(flat(got), flat(expected), flat(sample), strict=True):
            assert type(a) is type(b)
            if isinstance(a, Tensor):
                check_same(a, b, source)
            else:
                assert (a is source) == (b is source)


def test_it_is_a_transform_of_torchvisions() -> None:
    transform = transforms.Resize((20, 30), "lanczos", parity="exact")
    assert isinstance(transform, v2.Transform) and isinstance(transform, v2.Resize)
    image = tensor(torch.uint8, 3, *SHAPE)
    for copied in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert type(copied) is transforms.Resize and repr(copied) == repr(transform)
        assert torch.equal(copied(image), transform(image))
    assert repr(transform) == (
        "Resize(size=[20, 30], interpolation=InterpolationMode.LANCZOS, antialias=True, parity=exact)"
    )


@pytest.mark.skipif(not has_kernel(InterpolationMode.LANCZOS, True), reason="this torchvision has no lanczos")
def test_lanczos_of_larger_images() -> None:
    """Beside torchvision's in float64: its float32 coordinates cost it some 1e-5 of the value range here."""
    image = tensor(torch.float32, 1, 303, 397)
    for size in ((97, 130), (450, 499)):
        expected = v2.Resize(size, InterpolationMode.LANCZOS)(image.double())
        # Sums of up to 20 float32 products whose weights' absolute values add up to less than 2.
        assert (transforms.Resize(size, "lanczos")(image) - expected).abs().max() <= 20 * 2**-24


def test_gradients() -> None:
    for mode in MODES:
        gradients = []
        for kind in (transforms.Resize, v2.Resize):
            if has_kernel(mode, True):
                image = tensor(torch.float64, 2, 3, *SHAPE).requires_grad_()
                kind((17, 50), mode)(image).square().sum().backward()
                gradients.append(image.grad)
        assert len(gradients) < 2 or torch.allclose(*gradients, rtol=0, atol=1e-9)


def test_compiled_like_torchvisions() -> None:
    torch._dynamo.reset()
    pipeline = v2.Compose([transforms.Resize(20), v2.CenterCrop(18)])
    compiled = torch.compile(pipeline, fullgraph=True, backend="eager")
    for image in (tensor(torch.float32, 3, *SHAPE), tensor(torch.float32, 3, 50, 20), tensor(torch.uint8, 4, *SHAPE)):
        assert torch.equal(compiled(image), pipeline(image))


def test_scripting_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        with pytest.raises(RuntimeError, match="Resize cannot be JIT scripted"):
            torch.jit.script(transforms.Resize(20))


def test_torchvision_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("learned_resizer_cuda.transforms")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    message = r"torchvision is missing.*pip install torchvision.*learned-resizer-cuda\[train\]"
    with pytest.raises(ImportError, match=message):
        importlib.import_module("learned_resizer_cuda.transforms")


@pytest.mark.gpu
@pytest.mark.parametrize("parity", ["pillow-12", "pillow", "exact"])
def test_bytes_on_a_gpu(parity: str) -> None:
    image = tensor(torch.uint8, 4, 90, 31)
    for mode in MODES[1:]:
        transform = transforms.Resize((17, 23), mode, parity=parity)
        assert torch.equal(transform(image.cuda()).cpu(), transform(image))
