"""Shared by the tests of image data: folders of image files, small and no two images alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def photograph(number: int, height: int = 20, width: int = 24) -> np.ndarray:
    """Smooth random colours, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height)))


def save(path: Path, number: int = 0, height: int = 20, width: int = 24) -> Path:
    """A photograph as the file format of its name; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(number, height, width)).save(path)
    return path


def class_folder(root: Path, classes: tuple[str, ...] = ("ant", "bee"), train: int = 5, val: int = 2) -> Path:
    """``root/train/<class>/<n>.png`` and ``root/val/<class>/<n>.png``, sizes and images all different."""
    number = 0
    for split, count in (("train", train), ("val", val)):
        for name in classes:
            for index in range(count):
                number += 1
                save(root / split / name / f"{index}.png", number, 16 + number, 40 - number)
    return root


def alike(first: Tensor, second: Tensor) -> float:
    """Mean distance of two uint8 images in levels."""
    return float((first.float() - second.float()).abs().mean())
