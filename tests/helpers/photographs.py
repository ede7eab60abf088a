"""Photographs that other packages ship, as PIL images and as tensors of bytes."""

from __future__ import annotations

import functools

import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from learned_resizer_cuda.data.package_files import package_file

FILES = (
    ("skimage", "scikit-image", "data/astronaut.png"),
    ("skimage", "scikit-image", "data/coffee.png"),
    ("sklearn", "scikit-learn", "datasets/images/china.jpg"),
    ("sklearn", "scikit-learn", "datasets/images/flower.jpg"),
)


@functools.cache
def pictures() -> tuple[PIL.Image.Image, ...]:
    """Four photographs, RGB, of 400 to 512 rows and 512 to 640 columns."""
    return tuple(PIL.Image.open(package_file(*file)).convert("RGB") for file in FILES)


def crops(height: int, width: int) -> Tensor:
    """Bytes ``(4, 3, height, width)``: the middles of the photographs."""
    tensors = (functional.center_crop(functional.pil_to_tensor(picture), [height, width]) for picture in pictures())
    return torch.stack(list(tensors))
