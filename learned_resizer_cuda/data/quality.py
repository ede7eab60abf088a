"""Built-in data for image quality assessment: photographs with distortions of known strength.

Nobody rated these images. In place of human scores they have a **grade**, computed from the level of the distortion;
results on them say nothing about people's opinion.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from .digits import SKIMAGE_FILES, SKLEARN_FILES, TEST_PHOTOGRAPHS
from .distortions import DISTORTIONS, LEVELS, REACH, U8
from .errors import DataError, EmptySplitError
from .image_file import ImageRefused, open_image
from .listing import is_for_testing
from .package_files import package_file
from .source import Batch, Unreadable

NUM_GRADES = 10
"""Bins of a histogram; their grades are 1 (worst) to 10, as AVA's scores are."""
BEST, WORST = 9.0, 2.0
"""Centres of the histograms of the lowest and the highest level."""
SPREAD = 1.2
"""Standard deviation of the Gaussian that a histogram samples, in grades."""
SHORTER_SIDE = 512
"""Photographs are reduced to this shorter side, in pixels, so that a crop shows more than one smooth surface."""
PLACES = 8
"""Candidate places for a crop; the one with the most detail is taken, since blur cannot be seen on a clear sky."""
DARKEST = 0.5
"""Smallest factor by which a training photograph is darkened at random before it is distorted.

It is also mirrored and transposed, and its channels are reordered. Without these, a small network recognised
over-exposure less well on unseen photographs. None of them changes a grade, and test images are not changed.
"""
CROPS = 25
"""Test crops of every kind and level."""
EPOCH_CROPS = 8
"""Crops of each photograph, kind and level in an epoch."""

# A crop starts at one of 12 places in its patch along each side, so that pixelation's squares lie anywhere on it.
_PHASES = 12
_MARGIN = 2 * REACH + _PHASES

# Independent streams of the random generator.
_TRAIN, _TEST = range(2)


def grade_histogram(level: int) -> NDArray[np.float32]:
    """Histogram of a distortion level: a Gaussian at grades 1 to 10.

    ``p_k = exp(-(k - m)² / (2 s²)) / Σ_j exp(-(j - m)² / (2 s²))`` with ``m = 9 - 7 level / 5`` and ``s = 1.2``.

    Args:
        level: 0 to 5.

    Returns:
        float32 (10,), summing to 1.
    """
    grades = np.arange(1, NUM_GRADES + 1)
    centre = BEST + (WORST - BEST) * level / (LEVELS - 1)
    weights = np.exp(-((grades - centre) ** 2) / (2 * SPREAD**2))
    return (weights / weights.sum()).astype(np.float32)


def read_photograph(path: Path) -> U8:
    """Read a photograph: upright, three channels, shorter side at most ``SHORTER_SIDE``.

    Returns:
        uint8 (height, width, 3).

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ImageRefused: it cannot be opened, is not an image, is damaged, or too large.
    """
    with open_image(path) as image:
        from PIL import Image, ImageOps

        picture = ImageOps.exif_transpose(image).convert("RGB")
    scale = SHORTER_SIDE / min(picture.size)
    if scale < 1:
        width, height = (max(SHORTER_SIDE, round(scale * side)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(picture)


def packaged_photographs() -> dict[str, U8]:
    """The 17 photographs in installed wheels, by name; ten are in colour.

    The photographs of ``data.digits``, and the portrait that matplotlib ships.

    Raises:
        ModuleNotFoundError: Pillow, scikit-image, scikit-learn or matplotlib is not installed.
        FileNotFoundError: the installed release lacks a photograph.
    """
    paths = [package_file("skimage", "scikit-image", f"data/{file}") for file in SKIMAGE_FILES]
    paths += [package_file("sklearn", "scikit-learn", f"datasets/images/{file}") for file in SKLEARN_FILES]
    paths.append(package_file("matplotlib", "matplotlib", "mpl-data/sample_data/grace_hopper.jpg"))
    return {path.stem: read_photograph(path) for path in paths}


class QualityPhotographs:
    """``Source`` of distorted crops of photographs with their histograms of grades.

    Not human scores: see the module. The kinds of distortion and the parameters of their levels are ``DISTORTIONS``,
    the histogram is ``grade_histogram``. Photographs are for training or for testing, never both.

    Determinism: a training image is a function of ``seed`` and of its number
    ``step * batch_size + i`` alone, a test image of nothing at all (and both of the photographs).

    Args:
        input_size: side of the images in pixels, 8 to 264.
        extra: a folder of image files, subfolders included, whose photographs are added, for training or for testing
            by ``is_for_testing``. They are held in memory, about 1 MB each.

    Attributes:
        train_photographs, test_photographs: name to uint8 (height, width, 3).
        unreadable: image files of ``extra`` that were left out. A warning counts them.

    Raises:
        ValueError: ``input_size`` is outside its range.
        DataError: ``extra`` is not a folder.
        EmptySplitError: ``extra`` holds no usable image.
        ModuleNotFoundError, FileNotFoundError: see ``packaged_photographs``.
    """

    task = "iqa"
    labels = tuple(f"grade {grade}" for grade in range(1, NUM_GRADES + 1))
    in_channels = 3
    notes = ()
    test_size = len(DISTORTIONS) * LEVELS * CROPS

    def __init__(self, input_size: int = 96, extra: Path | None = None) -> None:
        photographs = packaged_photographs()
        largest = min(min(image.shape[:2]) for image in photographs.values()) - _MARGIN
        if not 8 <= input_size <= largest:
            raise ValueError(
                f"input_size: got {input_size}; expected 8 to {largest} (what the smallest photograph has)"
            )
        self.input_size = input_size
        self.test_photographs = {name: photographs.pop(name) for name in TEST_PHOTOGRAPHS}
        self.train_photographs = photographs
        self.unreadable: tuple[Unreadable, ...] = ()
        if extra is not None:
            self._add(extra)
        self.train_size = len(self.train_photographs) * len(DISTORTIONS) * LEVELS * EPOCH_CROPS

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of the batch of a step.

        Photograph, kind and level are drawn evenly; place, mirroring, transposition, order of the channels and
        darkening at random.

        Args:
            seed, step: at least 0.
            batch_size: images of the whole batch, at least 1.
            part: which of them.

        Returns:
            Images, uint8 (b, 3, input_size, input_size); histograms, float32 (b, 10).
        """
        photographs = list(self.train_photographs.values())
        images, levels = [], []
        for index in range(batch_size)[part]:
            generator = np.random.default_rng((seed, _TRAIN, step * batch_size + index))
            which, kind, level = generator.integers((len(photographs), len(DISTORTIONS), LEVELS))
            images.append(self._crop(photographs[which], int(kind), int(level), generator, vary=True))
            levels.append(int(level))
        return _batch(images, levels, self.input_size)

    def test_batch(self, part: slice) -> Batch:
        """Test images of the part: every kind and level ``CROPS`` times.

        Shapes as in ``train_batch``. The packaged photographs alone come up equally often in each kind and level.
        """
        photographs = list(self.test_photographs.values())
        images, levels = [], []
        for number in range(self.test_size)[part]:
            kind, level = self.test_condition(number)
            generator = np.random.default_rng((0, _TEST, number))
            # Each kind and level starts at another photograph, so that more photographs than CROPS are used.
            turn, condition = divmod(number, len(DISTORTIONS) * LEVELS)
            photograph = photographs[(turn + CROPS * condition) % len(photographs)]
            images.append(self._crop(photograph, kind, level, generator))
            levels.append(level)
        return _batch(images, levels, self.input_size)

    @staticmethod
    def test_condition(number: int) -> tuple[int, int]:
        """Index into ``DISTORTIONS`` and level of a test image."""
        kind, level = divmod(number % (len(DISTORTIONS) * LEVELS), LEVELS)
        return kind, level

    def _crop(self, photograph: U8, kind: int, level: int, generator: np.random.Generator, vary: bool = False) -> U8:
        side = self.input_size + _MARGIN
        height, width = photograph.shape[:2]
        tops, lefts = generator.integers([[height - side + 1], [width - side + 1]], size=(2, PLACES))
        mirrored, down, right = generator.integers((2, _PHASES, _PHASES)).tolist()
        best = int(_detail(photograph, side, tops, lefts).argmax())
        patch = photograph[tops[best] : tops[best] + side, lefts[best] : lefts[best] + side]
        # Before the distortion: pixelation's squares start at the left.
        patch = np.ascontiguousarray(patch[:, ::-1] if mirrored else patch)
        if vary:
            patch = _varied(patch, generator)
        patch = DISTORTIONS[kind](patch, level, generator)
        down, right = REACH + down, REACH + right
        return patch[down : down + self.input_size, right : right + self.input_size]

    def _add(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"extra: got {folder}, which is not a folder; expected a folder of photographs")
        side = self.input_size + _MARGIN
        unreadable, added = [], 0
        for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
            try:
                photograph = read_photograph(path)
            except ImageRefused as error:
                unreadable.append(Unreadable(str(path), str(error)))
                continue
            if min(photograph.shape[:2]) < side:
                size = f"{photograph.shape[1]} x {photograph.shape[0]} pixels"
                unreadable.append(Unreadable(str(path), f"{size}; expected at least {side} a side"))
                continue
            split = self.test_photographs if is_for_testing(path) else self.train_photographs
            split[str(path.relative_to(folder))] = photograph
            added += 1
        self.unreadable = tuple(unreadable)
        if not added:
            raise EmptySplitError(f"extra: {folder} holds no photograph of at least {side} x {side} pixels")
        if unreadable:
            first = unreadable[0]
            text = f"{folder}: {len(unreadable)} of {added + len(unreadable)} photographs left out"
            warnings.warn(f"{text}, the first {first.path}: {first.reason}", stacklevel=3)


SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Extensions of photographs in a user's folder."""

_HISTOGRAMS = torch.from_numpy(np.stack([grade_histogram(level) for level in range(LEVELS)]))


def _detail(photograph: U8, side: int, tops: NDArray[np.int64], lefts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of the mean vertical and horizontal green differences in each square.

    On every fourth row and column.
    """
    squares = sliding_window_view(photograph[..., 1], (side, side))
    rows, columns = (part[tops, lefts].astype(np.int16) for part in (squares[..., ::4, :], squares[..., ::4]))
    return np.abs(np.diff(rows)).mean((1, 2)) + np.abs(np.diff(columns, axis=1)).mean((1, 2))


def _varied(patch: U8, generator: np.random.Generator) -> U8:
    """Randomly transposed, with reordered channels, darkened by a factor in [``DARKEST``, 1]."""
    transposed, order = generator.random() < 0.5, generator.permutation(3)
    gain = np.float32(generator.uniform(DARKEST, 1))
    patch = patch.transpose(1, 0, 2) if transposed else patch
    return np.rint(patch[..., order] * gain).astype(np.uint8)


def _batch(images: list[U8], levels: list[int], side: int) -> Batch:
    planes: Tensor = torch.empty(len(images), 3, side, side, dtype=torch.uint8)
    for plane, image in zip(planes, images, strict=True):
        plane.copy_(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    return Batch(planes, _HISTOGRAMS[levels])
