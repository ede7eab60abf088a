"""Images without labels: a folder of any, or crops of packaged photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..resize import resize
from .digits import TEST_PHOTOGRAPHS
from .errors import DataError, EmptySplitError
from .file_source import FileSource, ImageFiles, check_options
from .folder import split_folders
from .listing import images_under, split_names
from .quality import packaged_photographs
from .source import Batch

TASK = "distill"
EPOCH_CROPS, TEST_CROPS = 50, 25
"""Crops of each packaged photograph in an epoch, and in the test set."""

# Independent streams of the random generator.
_TRAIN, _TEST = range(2)


class UnlabelledSource(FileSource):
    """``Source`` of a folder's images, whatever their names and folders.

    Targets are all 0. A folder with ``train`` and ``val`` (or ``validation``, or ``test``) is split as they say, also
    that of a labelled data set. Otherwise a fifth of the images at any depth are for testing, by the CRC-32 of the
    file's name: adding or removing others, or moving the folder, changes nothing. If that leaves a split empty, as it
    may with a few images, the image of the lowest checksum is for testing.

    Args:
        root: folder of images.
        input_size, in_channels, augment, fit: see ``FileSource``.

    Raises:
        DataError: ``root`` is not a folder.
        EmptySplitError: a split holds no image, or the folder fewer than two.
        ValueError: see ``FileSource``.
        ModuleNotFoundError: Pillow is not installed.
    """

    def __init__(
        self, root: Path, input_size: int, in_channels: int = 3, augment: str = "crop", fit: str = "crop"
    ) -> None:
        check_options(input_size, in_channels, augment, fit)
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"data: got {root}, which is not a folder; expected a folder of images")
        folders = split_folders(root)
        if folders is not None:
            train, test = (_files(folder, images_under(folder)) for folder in folders)
            how = f"by the folders {folders[0].name} and {folders[1].name}"
        else:
            names = images_under(root)
            if len(names) < 2:
                raise EmptySplitError(f"data: {root} holds {len(names)} images; expected at least 2, to train and test")
            train, test = (_files(root, split) for split in split_names(names))
            how = "by the checksums of their names"
        super().__init__(
            TASK,
            (),
            train,
            test,
            input_size=input_size,
            in_channels=in_channels,
            augment=augment,
            fit=fit,
            notes=[f"{len(train)} images to train on and {len(test)} to test on, split {how}"],
        )


def _files(folder: Path, names: list[str]) -> ImageFiles:
    if not names:
        raise EmptySplitError(f"data: {folder} holds no image; expected some to train on and some to test on")
    return ImageFiles(folder, names, np.zeros(len(names), np.int64))


class PhotographCrops:
    """``Source`` of square crops of the packaged photographs; targets are all 0.

    A crop's side is drawn between ``input_size`` and the photograph's shorter side, and its place evenly; it is resized
    by this package's antialiased bilinear ``resize``, and in training every other one is mirrored. Photographs are for
    training or for testing, never both.

    Determinism: a training image is a function of ``seed`` and of its number ``step * batch_size + i`` alone, a test
    image of nothing at all (and both of the photographs).

    Args:
        input_size: side of the images in pixels, at least 8 and at most that of the smallest photograph.

    Raises:
        ValueError: ``input_size`` is outside its range.
        ModuleNotFoundError, FileNotFoundError: see ``packaged_photographs``.
    """

    task = TASK
    labels: tuple[str, ...] = ()
    in_channels = 3
    notes = ()

    def __init__(self, input_size: int) -> None:
        photographs = packaged_photographs()
        largest = min(min(image.shape[:2]) for image in photographs.values())
        if not 8 <= input_size <= largest:
            raise ValueError(
                f"input_size: got {input_size}; expected 8 to {largest}, the side of the smallest photograph"
            )
        self.input_size = input_size
        self.test_photographs = {name: photographs.pop(name) for name in TEST_PHOTOGRAPHS}
        self.train_photographs = photographs
        self.train_size = EPOCH_CROPS * len(self.train_photographs)
        self.test_size = TEST_CROPS * len(self.test_photographs)

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of a step's batch, uint8 (b, 3, S, S); see ``Source``."""
        photographs = list(self.train_photographs.values())
        images = []
        for index in range(batch_size)[part]:
            generator = np.random.default_rng((seed, _TRAIN, step * batch_size + index))
            image = self._crop(photographs[generator.integers(len(photographs))], generator)
            images.append(image.flip(-1) if generator.random() < 0.5 else image)
        return self._batch(images)

    def test_batch(self, part: slice) -> Batch:
        """Test images of the part: each photograph in turn, ``TEST_CROPS`` times."""
        photographs = list(self.test_photographs.values())
        numbers = range(self.test_size)[part]
        return self._batch(
            [self._crop(photographs[n % len(photographs)], np.random.default_rng((0, _TEST, n))) for n in numbers]
        )

    def _crop(self, photograph: NDArray[np.uint8], generator: np.random.Generator) -> Tensor:
        height, width = photograph.shape[:2]
        side = int(generator.integers(self.input_size, min(height, width), endpoint=True))
        top, left = (int(generator.integers(whole - side, endpoint=True)) for whole in (height, width))
        crop = torch.from_numpy(photograph[top : top + side, left : left + side]).permute(2, 0, 1)
        return resize(crop, self.input_size)

    def _batch(self, images: list[Tensor]) -> Batch:
        empty = torch.empty((0, self.in_channels, self.input_size, self.input_size), dtype=torch.uint8)
        planes = torch.stack(images).contiguous() if images else empty
        return Batch(planes, torch.zeros(len(images), dtype=torch.int64))
