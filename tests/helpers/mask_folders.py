"""Shared by the tests of masks: folders of images and masks, small and no two alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learned_resizer_cuda.data.masks import MaskFolderSource
from learned_resizer_cuda.data.source import IGNORED
from tests.helpers.photo_folders import save

HEIGHT, WIDTH = 32, 40
# fit="crop" of these: the side is 0.875 · 32 = 28, two rows and six columns from the edge
CENTRE = (slice(2, 30), slice(6, 34))


def mask(number: int, height: int = HEIGHT, width: int = WIDTH, classes: int = 5) -> np.ndarray:
    """Class indices without a pattern, and some pixels that are not labelled."""
    generator = np.random.default_rng((1, number))
    values = generator.integers(0, classes, (height, width), dtype=np.uint8)
    values[generator.random((height, width)) < 0.1] = IGNORED
    return values


def save_mask(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([255 - level // 3 for level in range(768)])
    image.save(path)
    return path


def pair(folder: Path, name: str, number: int) -> None:
    """An image and its mask, of the same size."""
    save(folder / "images" / f"{name}.png", number, HEIGHT, WIDTH)
    save_mask(folder / "masks" / f"{name}.png", mask(number))


def number_of(path: Path) -> int:
    return int(path.stem)


def names(source: MaskFolderSource, split: str) -> list[str]:
    files = getattr(source, split)
    return [files.path(index).relative_to(files.root).as_posix() for index in range(len(files))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images to train on, numbered 0 to 7, some in folders, and three to test on; five classes."""
    folder = tmp_path / "data"
    for number in range(8):
        pair(folder / "train", f"{'deep/er/' if number % 3 else ''}{number}", number)
    for number in range(8, 11):
        pair(folder / "val", str(number), number)
    (folder / "classes.txt").write_text("sky\nroad\ncar\nküche\ntree\n\n", encoding="utf-8")
    return folder


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Twenty images, without folders that split them."""
    for number in range(20):
        pair(tmp_path / "flat", f"{'deep/' if number % 3 else ''}{number}", number)
    return tmp_path / "flat"


def mask_folder(root: Path, count: int = 8) -> Path:
    """``count`` photographs with masks of three classes, the left part of the image, the right, and a border of 255."""
    for number in range(count):
        height, width = 20 + number, 30 - number
        save(root / f"images/{number}.png", number, height, width)
        mask = np.ones((height, width), np.uint8)
        mask[:, : width // 2], mask[0] = 2, 255
        path = root / f"masks/{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)
    return root


def rgb(path: Path) -> None:
    save(path, 0, HEIGHT, WIDTH)


def one_pixel(value: int, path: Path) -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint16 if value > 255 else np.uint8)
    values[3, 5] = values[9, 1] = value
    save_mask(path, values)
