"""Image folders in ImageNet's layout: ``root/train/<class>/...`` and ``root/val/<class>/...``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..substitutes import printable
from .errors import ClassMismatchError, DataError, EmptySplitError, SingleClassError
from .file_source import FileSource, ImageFiles, check_options
from .listing import images_under, is_image, subfolders
from .source import InputSize

TRAIN = "train"
TEST = ("val", "validation", "test")
"""Names of the folder of test images, in order of preference."""

_LAYOUT = "expected train/<class>/ and val/<class>/ with image files"


class ImageFolderSource(FileSource):
    """``Source`` for classification: a folder of image files for each class.

    The classes are the folders in ``train``, sorted by name; images may lie in folders below them. Hidden files and
    files without an extension of an image format are ignored. Images outside the class folders are left out, with a
    note in ``notes``. Bytes of a folder's name that are not UTF-8 are escaped in ``labels``.

    Args:
        root: folder with ``train`` and with ``val``, ``validation`` or ``test``.
        input_size, max_pixels, in_channels, augment, fit: see ``FileSource``.

    Raises:
        DataError: ``root`` is not a folder.
        EmptySplitError: a split's folder is missing or holds no image, or a class's folder holds none.
        ClassMismatchError: the classes of the two splits differ; the message names them.
        SingleClassError: there is one class only.
        ValueError: see ``FileSource``.
        ModuleNotFoundError: Pillow is not installed.
    """

    def __init__(
        self,
        root: Path,
        input_size: InputSize,
        in_channels: int = 3,
        augment: str = "crop",
        fit: str = "crop",
        max_pixels: int | None = None,
    ) -> None:
        check_options(input_size, in_channels, augment, fit, max_pixels)
        root = Path(root)
        if not root.is_dir():
            raise DataError(f"data: got {root}, which is not a folder; {_LAYOUT} in it")
        folders = root / TRAIN, _test_folder(root)
        if not folders[0].is_dir():
            raise EmptySplitError(f"data: {root} has no folder {TRAIN}; {_LAYOUT}")
        notes: list[str] = []
        classes = [_classes(folder, notes) for folder in folders]
        _compare(classes[0], classes[1], folders)
        train, test = (_listed(folder, names) for folder, names in zip(folders, classes, strict=True))
        if len(classes[0]) == 1:
            raise SingleClassError(
                f"data: {folders[0]} holds one class only ({classes[0][0]}); expected at least 2 to tell apart"
            )
        super().__init__(
            "classification",
            tuple(printable(name, "utf-8") for name in classes[0]),
            train,
            test,
            input_size=input_size,
            max_pixels=max_pixels,
            in_channels=in_channels,
            augment=augment,
            fit=fit,
            notes=notes,
        )


def split_folders(root: Path) -> tuple[Path, Path] | None:
    """The folders to train on and to test on, if both exist."""
    test = next((root / name for name in TEST if (root / name).is_dir()), None)
    return (root / TRAIN, test) if test is not None and (root / TRAIN).is_dir() else None


def _test_folder(root: Path) -> Path:
    for name in TEST:
        if (root / name).is_dir():
            return root / name
    raise EmptySplitError(f"data: {root} has no folder {', '.join(TEST[:-1])} or {TEST[-1]}; {_LAYOUT}")


def _classes(folder: Path, notes: list[str]) -> list[str]:
    names = subfolders(folder)
    outside = sum(is_image(entry.name) for entry in folder.iterdir() if not entry.is_dir())
    if not names:
        flat = f"; its {outside} images are not in a class folder" if outside else ""
        raise EmptySplitError(f"data: {folder} has no class folders{flat}; {_LAYOUT}")
    if outside:
        notes.append(f"{outside} images directly in {folder} have no class and are left out")
    return names


def _compare(train: list[str], test: list[str], folders: tuple[Path, Path]) -> None:
    only = [sorted(set(train) - set(test)), sorted(set(test) - set(train))]
    if any(only):
        parts = [f"only in {folder.name}: {_some(names)}" for folder, names in zip(folders, only, strict=True) if names]
        raise ClassMismatchError(f"data: the class folders of {folders[0]} and {folders[1]} differ; {'; '.join(parts)}")


def _some(names: list[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _listed(folder: Path, classes: list[str]) -> ImageFiles:
    names: list[str] = []
    targets = []
    empty = []
    for number, name in enumerate(classes):
        found = images_under(folder / name)
        names += [f"{name}/{path}" for path in found]
        targets.append(np.full(len(found), number, np.int64))
        if not found:
            empty.append(name)
    if not names:
        raise EmptySplitError(f"data: {folder} holds no image in its {len(classes)} class folders; {_LAYOUT}")
    if empty:
        raise EmptySplitError(f"data: class folders without an image in {folder}: {_some(empty)}; {_LAYOUT}")
    return ImageFiles(folder, names, np.concatenate(targets))
