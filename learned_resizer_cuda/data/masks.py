"""Semantic segmentation: a folder of images, and of masks of class indices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..resize import resize
from .errors import ClassNamesError, DataError, EmptySplitError, MissingMaskError, SingleClassError
from .file_source import FilePaths, FileSource, ImageFiles, check_options
from .folder import split_folders
from .image_file import ImageRefused, open_image
from .image_view import ChosenView
from .listing import images_under, split_names
from .source import IGNORED, NATIVE

TASK = "segmentation"
IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
"""Names of the folders of images and of masks, and of the file of class names."""

_LAYOUT = f"expected {IMAGES}/ and {MASKS}/, or train/ and val/ with {IMAGES}/ and {MASKS}/ in each"
_NAMED = 5
# Pillow spreads grey of 2 and 4 bits over 0 to 255: the levels of one step.
_SPREAD = {"L;2": 85, "L;4": 17}


class MaskFolderSource(FileSource):
    """``Source`` for semantic segmentation: a folder of images and one of masks.

    An image ``images/a/b.jpg`` has the mask ``masks/a/b.png``: a PNG of class indices (grey, palette, black and white,
    or 16-bit), of the size of the upright image, in which 255 means not labelled. A palette's colours do not count, nor
    does a mask's own EXIF orientation. Targets are masks of the same view as the image, of the nearest pixels.

    A folder with ``train`` and ``val`` (or ``validation``, or ``test``), each with ``images`` and ``masks``, is split
    as they say; otherwise as ``UnlabelledSource`` splits it. Masks without an image are left out, with a note in
    ``notes``. An image counts as unreadable, and its mask is named, if the mask is damaged or no mask, has another size
    than the image, or a class that does not exist.

    Args:
        root: folder with ``images`` and ``masks``, or with ``train`` and ``val``. Its file ``classes.txt`` (UTF-8)
            names the classes, one a line, that of index 0 first. Without it all masks are read once, here, and the
            largest index tells how many classes there are.
        input_size: side S of images and masks, at least 1.
        in_channels, augment, fit: see ``FileSource``.

    Attributes:
        labels: names of the K classes, or ``"0"`` to ``"K-1"``; at most 255.

    Raises:
        DataError: ``root`` is not a folder.
        EmptySplitError: ``images`` or ``masks`` is missing, a split holds no image, or the folder fewer than two.
        MissingMaskError: images have no mask; names how many and the first few.
        ClassNamesError: ``classes.txt`` holds fewer than 2 names or more than 255, a blank one, or one twice.
        SingleClassError: there is no ``classes.txt``, and no mask with a class above 0.
        ValueError: see ``FileSource``; ``input_size`` is ``"native"``.
        ModuleNotFoundError: Pillow is not installed.
    """

    def __init__(
        self, root: Path, input_size: int, in_channels: int = 3, augment: str = "crop", fit: str = "crop"
    ) -> None:
        if input_size == NATIVE:
            raise ValueError(f"input_size: got {NATIVE}; expected a number of pixels for task {TASK}")
        check_options(input_size, in_channels, augment, fit)
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"data: got {root}, which is not a folder; {_LAYOUT} in it")
        notes: list[str] = []
        folders = split_folders(root)
        if folders is not None:
            train, test = (MaskFiles(folder, _pairs(folder, notes), input_size) for folder in folders)
            how = f"by the folders {folders[0].name} and {folders[1].name}"
        else:
            pairs = _pairs(root, notes)
            if len(pairs) < 2:
                raise EmptySplitError(
                    f"data: {root / IMAGES} holds {len(pairs)} images; expected at least 2, to train and test"
                )
            train, test = (
                MaskFiles(root, {name: pairs[name] for name in names}, input_size) for names in split_names(list(pairs))
            )
            how = "by the checksums of their names"
        notes.append(f"{len(train)} images to train on and {len(test)} to test on, split {how}")
        labels = _named_classes(root / CLASSES) or _counted_classes(root, (train, test), notes)
        train.classes = test.classes = len(labels)
        super().__init__(
            TASK,
            labels,
            train,
            test,
            input_size=input_size,
            in_channels=in_channels,
            augment=augment,
            fit=fit,
            notes=notes,
        )


class MaskFiles(ImageFiles):
    """The paths of one split's images and of their masks.

    Args:
        folder: with ``images`` and ``masks``.
        pairs: names of images → names of their masks, both relative to those folders, in their fixed order.
        size: side S of the targets.

    Attributes:
        classes: K; masks may hold 0 to K - 1, and 255.
    """

    def __init__(self, folder: Path, pairs: dict[str, str], size: int) -> None:
        # No masks are held: these are the targets of a batch without images.
        super().__init__(folder / IMAGES, list(pairs), np.empty((0, size, size), np.uint8))
        self.masks = FilePaths(folder / MASKS, list(pairs.values()))
        self.size, self.classes = size, IGNORED

    def target(self, index: int, chosen: ChosenView) -> Tensor:
        """The view of an image's mask, uint8 (S, S)."""
        path = self.masks.path(index)
        try:
            mask = read_mask(path, self.classes)
            if mask.shape != (chosen.height, chosen.width):
                height, width = mask.shape
                raise ImageRefused(f"mask of {height}×{width} pixels for an image of {chosen.height}×{chosen.width}")
        except ImageRefused as error:
            raise ImageRefused(str(error), path) from error
        top, left, height, width, mirror = chosen.view
        crop = torch.from_numpy(mask[top : top + height, left : left + width])
        # Mirrored after it is resized, as the image is: of two pixels equally near both then show the same one.
        target = resize(crop[None], self.size, interpolation="nearest")[0]
        return target.flip(-1) if mirror else target


def read_mask(path: Path, classes: int = IGNORED) -> NDArray[np.uint8]:
    """Read a mask: class indices, and 255 where nothing is labelled.

    Args:
        path: a PNG, see ``MaskFolderSource``.
        classes: K; indices are 0 to K - 1.

    Returns:
        uint8 (H, W).

    Raises:
        ImageRefused: the file is missing, not a PNG, damaged, in colour, or has other indices.
        ModuleNotFoundError: Pillow is not installed.
    """
    with open_image(path) as image:
        if image.format != "PNG":
            raise ImageRefused(f"format {image.format}; expected a PNG of class indices")
        # Pillow opened 16-bit PNG files as 32-bit integers before release 11.
        if image.mode not in ("L", "P", "1", "I") and not image.mode.startswith("I;16"):
            raise ImageRefused(f"mode {image.mode}; expected class indices, in grey or with a palette")
        stored = image.tile[0][3]
        values = np.array(image)
    if stored in _SPREAD:
        values //= _SPREAD[stored]
    wrong = (values >= classes) & (values != IGNORED)
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise ImageRefused(
            f"class {values[row, column]} at row {row}, column {column}; expected 0 to {classes - 1}, or {IGNORED}"
        )
    return values.astype(np.uint8)


def _pairs(folder: Path, notes: list[str]) -> dict[str, str]:
    """Names of images → names of their masks."""
    images, masks = folder / IMAGES, folder / MASKS
    for needed in (images, masks):
        if not needed.is_dir():
            raise EmptySplitError(f"data: {folder} has no folder {needed.name}; {_LAYOUT}")
    names = images_under(images)
    if not names:
        raise EmptySplitError(f"data: {images} holds no image; {_LAYOUT}")
    # a.png after a.PNG, so that it is the one that counts
    found = {_stem(name): name for name in images_under(masks) if name.lower().endswith(".png")}
    missing = [name for name in names if _stem(name) not in found]
    if missing:
        more = ", ..." if len(missing) > _NAMED else ""
        raise MissingMaskError(
            f"data: {len(missing)} of the {len(names)} images below {images} have no mask in {masks}: "
            f"{', '.join(missing[:_NAMED])}{more}; expected a PNG of the same name for each"
        )
    alone = len(found.keys() - {_stem(name) for name in names})
    if alone:
        notes.append(f"{alone} masks in {masks} have no image and are left out")
    return {name: found[_stem(name)] for name in names}


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _named_classes(path: Path) -> tuple[str, ...]:
    """The names in a file; none if it does not exist."""
    if not path.exists():
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig").rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClassNamesError(f"data: {path} cannot be read: {error}; expected names in UTF-8, one a line") from None
    names = tuple(line.strip() for line in text.split("\n")) if text else ()
    if "" in names:
        raise ClassNamesError(
            f"data: {path}, line {names.index('') + 1}: got a blank line; expected the name of a class"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ClassNamesError(f"data: {path} holds {', '.join(twice)} more than once; expected different names")
    if not 2 <= len(names) <= IGNORED:
        raise ClassNamesError(f"data: {path} holds {len(names)} names; expected 2 to {IGNORED}, one a line")
    return names


def _counted_classes(root: Path, splits: Sequence[MaskFiles], notes: list[str]) -> tuple[str, ...]:
    """Labels for the indices that are found in the masks."""
    largest, unreadable, count = -1, 0, sum(map(len, splits))
    for files in splits:
        for index in range(len(files)):
            try:
                mask = read_mask(files.masks.path(index))
            except ImageRefused:  # told when a batch meets it
                unreadable += 1
                continue
            largest = max([largest, *np.unique(mask[mask != IGNORED]).tolist()])
    skipped = f" ({unreadable} of them unreadable)" if unreadable else ""
    if largest < 1:
        found = "class 0 only" if largest == 0 else "no class"
        raise SingleClassError(
            f"data: the {count} masks below {root}{skipped} hold {found}; expected at least 2 classes to tell apart"
        )
    notes.append(
        f"{largest + 1} classes, 0 to {largest}, by the largest index in the {count} masks{skipped}; a file {CLASSES} "
        f"in {root} would name them, and spare the reading of all masks at the start"
    )
    return tuple(str(label) for label in range(largest + 1))
