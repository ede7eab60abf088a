"""Batches of image files: the base of every source that reads files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import order
from .errors import TooManyUnreadableError
from .image_file import ImageRefused
from .image_view import AUGMENTS, FITS, ChosenView, View, drawn_view, fixed_view, read_native, read_view
from .source import NATIVE, Batch, InputSize, MixedImages, Unreadable

IN_A_ROW = 1000
"""Unreadable images in a row after which the data set counts as missing."""


class FilePaths:
    """Paths of many files below a folder.

    Args:
        root: folder of the paths.
        names: paths relative to ``root``, with forward slashes, in their fixed order.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        # One block of bytes: reference counting would copy a list of a million strings into every worker process.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self._names[index])


class ImageFiles(FilePaths):
    """The paths and targets of one split's images.

    Args:
        root, names: see ``FilePaths``.
        targets: int64 (N,) or float32 (N, K).
    """

    def __init__(self, root: Path, names: Sequence[str], targets: NDArray[np.generic]) -> None:
        super().__init__(root, names)
        self.targets = torch.from_numpy(np.ascontiguousarray(targets))

    def target(self, index: int, chosen: ChosenView) -> Tensor:
        """The target of an image of which a view was chosen.

        Raises:
            ImageRefused: it cannot be read from its file, which the error names.
        """
        return self.targets[index]

    def stacked(self, targets: list[Tensor]) -> Tensor:
        """The targets of a batch, perhaps of no image."""
        return torch.stack(targets) if targets else self.targets[:0]


class _Item(NamedTuple):
    image: Tensor
    view: View
    target: Tensor


class FileSource:
    """``Source`` of batches from image files; subclasses list the files.

    Determinism: as for ``Source``. The order comes from ``order.stream``, the augmentation of an image from the seed
    and its position in that stream. An unreadable training image is replaced by the next readable one in the list and
    its target: always the same one, and mostly of the same class, since classes are sorted. An unreadable test image is
    left out.

    Args:
        task: ``"classification"``, ``"iqa"``, ``"segmentation"`` or ``"distill"``.
        labels: names of the K classes or bins.
        train, test: the files.
        input_size: side S of the images, at least 1, or ``"native"``: their own sizes; views become boxes and flips.
        max_pixels: with ``"native"``, reduce larger images to as many pixels (``image_view.read_native``).
        in_channels: 3 for colour, 1 for grey.
        augment: ``"none"``, ``"flip"`` or ``"crop"``; see ``image_view.drawn_view``.
        fit: ``"crop"`` or ``"squash"``; see ``image_view.fixed_view``. Also in training, unless it crops.
        notes: what the user should know about how the files were read.

    Raises:
        ValueError: an argument is not one of these.
    """

    def __init__(
        self,
        task: str,
        labels: tuple[str, ...],
        train: ImageFiles,
        test: ImageFiles,
        *,
        input_size: InputSize,
        max_pixels: int | None = None,
        in_channels: int = 3,
        augment: str = "crop",
        fit: str = "crop",
        notes: Sequence[str] = (),
    ) -> None:
        check_options(input_size, in_channels, augment, fit, max_pixels)
        self.task, self.labels, self.train, self.test = task, labels, train, test
        self.input_size, self.max_pixels, self.in_channels = input_size, max_pixels, in_channels
        self.augment, self.fit, self.notes = augment, fit, list(notes)
        self.train_size, self.test_size = len(train), len(test)

    def train_batch(self, seed: int, step: int, batch_size: int, part: slice = slice(None)) -> Batch:
        """Part of a step's batch; see ``Source``.

        Raises:
            TooManyUnreadableError: none of the next 1,000 images in the list (or of all, if fewer) can be read.
        """
        places = order.stream(self.train_size, seed, step, batch_size, part)
        unreadable: list[Unreadable] = []
        items = [
            self._readable(seed, position, index, unreadable)
            for position, index in zip(*(array.tolist() for array in places), strict=True)
        ]
        return self._batch(self.train, items, unreadable)

    def test_batch(self, part: slice) -> Batch:
        """Test images of the part, in fixed order, without the unreadable ones."""
        items, unreadable = [], []
        for index in range(self.test_size)[part]:
            item = self._read(self.test, index, partial(fixed_view, self.fit))
            if isinstance(item, Unreadable):
                unreadable.append(item)
            else:
                items.append(item)
        return self._batch(self.test, items, unreadable)

    def _read(self, files: ImageFiles, index: int, choose: Callable[[int, int], View]) -> _Item | Unreadable:
        chosen: list[ChosenView] = []

        def remembered(height: int, width: int) -> View:
            chosen.append(ChosenView(choose(height, width), height, width))
            return chosen[-1].view

        path = files.path(index)
        try:
            if self.input_size == NATIVE:
                image, _ = read_native(path, remembered, self.in_channels, self.max_pixels)
            else:
                image = read_view(path, remembered, self.input_size, self.in_channels)
            return _Item(image, chosen[-1].view, files.target(index, chosen[-1]))
        except ImageRefused as error:
            return Unreadable(str(error.path or path), str(error))

    def _batch(self, files: ImageFiles, items: list[_Item], unreadable: list[Unreadable]) -> Batch:
        images = [item.image for item in items]
        batch: Tensor | MixedImages
        if self.input_size == NATIVE:
            boxes = torch.tensor([item.view[:4] for item in items], dtype=torch.float64).view(-1, 4)
            flip = torch.tensor([item.view.mirror for item in items], dtype=torch.bool)
            batch = MixedImages(images, boxes, flip)
        else:
            empty = torch.empty((0, self.in_channels, self.input_size, self.input_size), dtype=torch.uint8)
            batch = torch.stack(images) if images else empty
        return Batch(batch, files.stacked([item.target for item in items]), tuple(unreadable))

    def _readable(self, seed: int, position: int, index: int, unreadable: list[Unreadable]) -> _Item:
        tries = min(self.train_size, IN_A_ROW)
        for candidate in range(index, index + tries):
            # A new generator for each try: a replacement must not depend on how far a damaged file was read.
            generator = np.random.default_rng((seed, order.AUGMENT, position))
            choose = partial(drawn_view, self.augment, self.fit, generator=generator)
            item = self._read(self.train, candidate % self.train_size, choose)
            if not isinstance(item, Unreadable):
                return item
            unreadable.append(item)
        last = unreadable[-1]
        raise TooManyUnreadableError(
            f"{tries} training images in a row of {self.train_size} could not be read; the last is {last.path}: "
            f"{last.reason}"
        )


def check_options(
    input_size: InputSize, in_channels: int, augment: str, fit: str, max_pixels: int | None = None
) -> None:
    """Raise ValueError for a wrong ``FileSource`` option, before listing a large folder."""
    whole = isinstance(input_size, int) and not isinstance(input_size, bool) and input_size >= 1
    if not whole and input_size != NATIVE:
        raise ValueError(f"input_size: got {input_size!r}; expected an integer of at least 1, or {NATIVE}")
    if max_pixels is not None and (isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1):
        raise ValueError(f"max_pixels: got {max_pixels!r}; expected an integer of at least 1, or None")
    if in_channels not in (1, 3):
        raise ValueError(f"in_channels: got {in_channels!r}; expected 3 (colour) or 1 (grey)")
    if augment not in AUGMENTS:
        raise ValueError(f"augment: got {augment!r}; expected one of {', '.join(AUGMENTS)}")
    if fit not in FITS:
        raise ValueError(f"fit: got {fit!r}; expected one of {', '.join(FITS)}")
