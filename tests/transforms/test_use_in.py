"""`transforms.use_in`: pipelines of torchvision and timm, with PIL images as before and with tensors of their bytes."""

from __future__ import annotations

import copy
import functools
import pickle
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import timm.data
import torch
import torchvision.models
from timm.data.transforms import ToTensor as TimmToTensor
from torch import nn
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import learned_resizer_cuda
from learned_resizer_cuda import transforms
from learned_resizer_cuda.transforms import use_in
from tests.helpers import photographs

# The arithmetic of the installed Pillow.
PARITY = "pillow" if int(PIL.__version__.split(".")[0]) >= 13 else "pillow-12"

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.cache
def pictures() -> tuple[PIL.Image.Image, ...]:
    """Landscape, portrait with more than twice as many rows to remove as columns, and one smaller than the outputs."""
    first, second, third, _ = photographs.pictures()
    return first.crop((0, 90, 400, 390)), second.crop((200, 0, 330, 400)), third.resize((50, 70))


def run(transform: Callable[[Any], Any], image: Any, seed: int) -> Any:
    """The transform's result, its random numbers drawn from a seed."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # timm's RandAugment draws from it
    torch.manual_seed(seed)
    return transform(image)


def equal(a: Any, b: Any) -> bool:
    """Whether two results have the same types and bytes."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, PIL.Image.Image):
        a, b = np.array(a), np.array(b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a.dtype == b.dtype and torch.equal(a, b)


def described(transform: Any) -> str:
    """Its repr; of objects without one of their own, the class's name."""
    return re.sub(r"<[\w.]*\b(\w+) object at 0x\w+>", r"\1", repr(transform))


def check(transform: Any, seeds: int = 2, parity: str = PARITY, with_tensors: bool = True) -> None:
    """PIL images give what they gave, and tensors of their bytes the same."""
    ours = use_in(transform, parity=parity)
    assert described(ours).replace(f", parity={parity}", "") == described(transform)
    for image in pictures():
        for seed in range(seeds):
            expected = run(transform, image, seed)
            state = random.getstate(), torch.get_rng_state()
            assert equal(run(ours, image, seed), expected)
            assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
            if with_tensors:
                got = run(ours, F.pil_to_tensor(image), seed)
                assert equal(got, F.pil_to_tensor(expected) if isinstance(expected, PIL.Image.Image) else expected)


EVAL: dict[str, dict[str, Any]] = {
    "default": {},
    "bicubic": {"interpolation": "bicubic", "crop_pct": 1.0},
    "lanczos": {"interpolation": "lanczos"},
    "box": {"interpolation": "box"},
    "hamming": {"interpolation": "hamming"},
    "squash": {"crop_mode": "squash", "interpolation": "bicubic"},
    "border": {"crop_mode": "border", "crop_pct": 0.9},
    "sides of two lengths": {"input_size": (3, 64, 96), "interpolation": "bicubic"},
    "trimmed": {"crop_border_pixels": 4},
    "for a prefetcher": {"use_prefetcher": True},
    "not normalised": {"normalize": False},
    "sequence": {"naflex": True, "max_seq_len": 49, "interpolation": "bicubic"},
    "patches": {"naflex": True, "max_seq_len": 49, "patchify": True},
}
TRAINING: dict[str, dict[str, Any]] = {
    "default": {"interpolation": "random"},
    "one filter": {"interpolation": "bicubic", "scale": (0.3, 1.0), "vflip": 0.5},
    "resized, then cropped": {"train_crop_mode": "rkrc", "interpolation": "random"},
    "resized, then cropped at random": {"train_crop_mode": "rkrr", "interpolation": "random"},
    "without augmentation": {"no_aug": True},
    "erased": {"re_prob": 1.0},
    "for a prefetcher": {"use_prefetcher": True},
    "sequence": {"naflex": True, "max_seq_len": 49, "interpolation": "random"},
    "resized sequence": {"naflex": True, "max_seq_len": 49, "no_aug": True},
}
# Arithmetic for tensors that is not Pillow's, or none: PIL images only.
AUGMENTED: dict[str, dict[str, Any]] = {
    "jitter": {"color_jitter": 0.4},
    "RandAugment": {"auto_augment": "rand-m9-mstd0.5-inc1"},
    "AugMix": {"auto_augment": "augmix-m5-w4-d2"},
    "blur and grey": {"color_jitter_prob": 0.8, "grayscale_prob": 0.5, "gaussian_blur_prob": 0.5},
}


@pytest.mark.parametrize("name", EVAL)
def test_timm_eval(name: str) -> None:
    check(timm.data.create_transform(**{"input_size": 64, **EVAL[name]}), seeds=1)


@pytest.mark.parametrize("name", TRAINING)
def test_timm_training(name: str) -> None:
    arguments = {"input_size": 64, "color_jitter": None, **TRAINING[name]}
    check(timm.data.create_transform(is_training=True, **arguments), seeds=4)


@pytest.mark.parametrize("name", AUGMENTED)
def test_timm_augmentations(name: str) -> None:
    check(timm.data.create_transform(64, is_training=True, **AUGMENTED[name]), with_tensors=False)


def test_timm_nearest() -> None:
    """torchvision's legacy nearest for tensors is not Pillow's: parity decides."""
    check(timm.data.create_transform(64, interpolation="nearest"), parity="pillow")


def test_timm_in_three_parts() -> None:
    parts = timm.data.create_transform(64, is_training=True, separate=True, color_jitter=None)
    check(v1.Compose(parts))
    ours = use_in(parts)
    assert isinstance(ours, tuple) and len(ours) == 3
    assert equal(run(ours[0], pictures()[0], 0), run(parts[0], pictures()[0], 0))


PIPELINES: dict[str, Callable[[], Any]] = {
    "v1": lambda: v1.Compose(
        [v1.Resize(80), v1.CenterCrop(64), v1.RandomHorizontalFlip(), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    ),
    "v1 crop": lambda: v1.Compose([v1.RandomResizedCrop(64, interpolation=3), v1.ToTensor()]),
    "v1 bytes": lambda: v1.Compose([v1.Resize([40], max_size=90), v1.PILToTensor()]),
    "v1 nested": lambda: v1.Compose([v1.Compose([v1.RandomApply([v1.Resize((50, 60))], p=0.5)]), v1.ToTensor()]),
    "v1 choice": lambda: v1.Compose([v1.RandomChoice([v1.Resize(33), v1.RandomResizedCrop(20)]), v1.PILToTensor()]),
    "v1 modules": lambda: nn.Sequential(v1.Resize(40), v1.RandomApply(nn.ModuleList([v1.Resize(30)]))),
    "v2": lambda: v2.Compose(
        [v2.RandomResizedCrop(64), v2.RandomHorizontalFlip(), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "v2 image": lambda: v2.Compose(
        [v2.Resize(40, interpolation=3), v2.ToImage(), v2.ToDtype(torch.float64, scale=True)]
    ),
    "v2 random sizes": lambda: v2.Compose(
        [
            v2.RandomOrder([v2.RandomResize(30, 60), v2.ScaleJitter((50, 60))]),
            v2.RandomShortestSize(40),
            v2.PILToTensor(),
        ]
    ),
    "v2 modules": lambda: nn.Sequential(v2.Resize(40), v2.RandomChoice([v2.Resize(30), v2.RandomResizedCrop(20)])),
    "timm's ToTensor": lambda: v1.Compose([v1.Resize(40), TimmToTensor(torch.float64)]),
    "classification weights": torchvision.models.ResNet50_Weights.DEFAULT.transforms,
    "segmentation weights": torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT.transforms,
}


@pytest.mark.parametrize("name", PIPELINES)
def test_torchvision(name: str) -> None:
    check(PIPELINES[name](), seeds=3)


def test_deprecated_to_tensor() -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        transform = v2.Compose([v2.Resize(40), v2.ToTensor()])
    check(transform)
    boxes = tv_tensors.BoundingBoxes(torch.ones(1, 4, dtype=torch.uint8), format="XYXY", canvas_size=(70, 50))
    image, got, label = use_in(transform)(F.pil_to_tensor(pictures()[2]), boxes, torch.tensor(3))
    assert image.dtype == torch.float32 and type(got) is tv_tensors.BoundingBoxes and label == 3


def test_video_weights() -> None:
    transform = torchvision.models.video.R3D_18_Weights.DEFAULT.transforms()
    clip = photographs.crops(120, 150)
    got, expected = use_in(transform)(clip), transform(clip)
    # Not antialiased, resampled by torchvision in floating point: within a level.
    assert got.shape == expected.shape and (got - expected).abs().max() <= 1.01 / 255 / min(transform.std)


class Views:
    """Two views of an image, as self-supervised training makes them."""

    def __init__(self, base: Any, other: Any) -> None:
        self.base, self.others = base, {"other": [other]}

    def __call__(self, image: Any) -> list[Any]:
        return [self.base(image), self.others["other"][0](image)]

    def __repr__(self) -> str:
        return f"Views({self.base}, {self.others})"


def test_attributes_of_other_transforms() -> None:
    check(Views(PIPELINES["v1 crop"](), v1.Compose([functools.partial(PIPELINES["v2"]())])))


def test_the_original_stays() -> None:
    transform = v1.Compose([v1.Resize(40), v1.ToTensor()])
    ours = use_in(transform)
    assert [type(part) for part in transform.transforms] == [v1.Resize, v1.ToTensor]
    assert isinstance(ours.transforms[0], v1.Resize) and ours.transforms[0].parity == "pillow"
    with pytest.raises(TypeError):
        transform(F.pil_to_tensor(pictures()[0]))


def test_copies_of_copies() -> None:
    transform = timm.data.create_transform(64, is_training=True, color_jitter=None)
    ours, image = use_in(transform, parity=PARITY), pictures()[0]
    expected = run(transform, image, 0)
    for copied in (use_in(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert repr(copied) == repr(ours)
        assert equal(run(copied, image, 0), expected) and equal(run(copied, F.pil_to_tensor(image), 0), expected)


def test_what_it_leaves_alone() -> None:
    """This package's own resizing, floating-point images and functions."""
    own = [transforms.Resize(40, parity="exact"), learned_resizer_cuda.Resize((30, 20))]
    image = F.pil_to_tensor(pictures()[0])
    assert equal(use_in(v1.Compose(own))(image), v1.Compose(own)(image))
    real = image.float() / 255
    got = use_in(PIPELINES["v1"]())(real)
    assert got.dtype == torch.float32 and got.shape == (3, 64, 64)
    negative = use_in(v1.Compose([v1.Resize(40), v1.Lambda(lambda x: -x)]))
    assert torch.equal(negative(real), -v2.Resize(40)(real))


def test_resampling_of_tensors_in_v2() -> None:
    """torchvision's recipe converts first: bytes that torch resized become Pillow's."""
    transform = v2.Compose([v2.ToImage(), v2.Resize(40), v2.ToDtype(torch.float32, scale=True)])
    image = pictures()[0]
    got = use_in(transform, parity=PARITY)(image)
    pillow = v2.Compose([v2.Resize(40), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])(image)
    assert type(got) is tv_tensors.Image and equal(got, pillow)


@pytest.mark.gpu
def test_bytes_on_a_gpu() -> None:
    ours = use_in(timm.data.create_transform(64, interpolation="bicubic", normalize=False))
    for image in pictures():
        tensor = F.pil_to_tensor(image)
        assert torch.equal(ours(tensor.cuda()).cpu(), ours(tensor))
