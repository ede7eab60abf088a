"""Opens the data of a run."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from .source import NATIVE, InputSize, Source


def open_source(
    task: str,
    data: str,
    input_size: InputSize,
    *,
    max_pixels: int | None = None,
    scores: str | None = None,
    extra_photographs: str | None = None,
    augment: str = "crop",
    fit: str = "crop",
) -> Source:
    """The data set ``data`` as images of ``input_size``.

    Args:
        task: ``"classification"``, ``"segmentation"``, ``"iqa"`` or ``"distill"``, whose images have no labels.
        data: ``"digits"``, ``"photographs"`` or ``"crops"``, the built-in data of the tasks, or a folder.
        input_size: side of the images in pixels, or ``"native"``, for a folder.
        max_pixels: see ``FileSource``; of a folder.
        scores: score file of a folder for ``"iqa"``, where it is not in the folder.
        extra_photographs: folder of photographs to add to the built-in ones.
        augment, fit: see ``FileSource``; of a folder.

    Raises:
        DataError: it cannot be trained on (see ``data.errors``).
        FileNotFoundError: the folder, or a file of the built-in data, is missing.
        ModuleNotFoundError: a package that brings the built-in data is not installed.
        ValueError: ``input_size`` does not suit the built-in data.
    """
    if data in ("digits", "photographs", "crops") and input_size == NATIVE:
        raise ValueError(f"input_size: got {NATIVE}; expected a number of pixels: {data} are made in any one size")
    if data == "digits":
        from .digits import DigitsOnPhotographs

        return DigitsOnPhotographs(cast(int, input_size), task)
    if data == "photographs":
        from .quality import QualityPhotographs

        return QualityPhotographs(cast(int, input_size), None if extra_photographs is None else Path(extra_photographs))
    if data == "crops":
        from .unlabelled import PhotographCrops

        return PhotographCrops(cast(int, input_size))
    root = Path(data)
    if not root.is_dir():
        raise FileNotFoundError(f"data: got {root}; expected a folder of images, digits, photographs or crops")
    if task == "distill":
        from .unlabelled import UnlabelledSource

        return UnlabelledSource(root, cast(int, input_size), augment=augment, fit=fit)
    if task == "segmentation":
        from .masks import MaskFolderSource

        return MaskFolderSource(root, cast(int, input_size), augment=augment, fit=fit)
    if task == "iqa":
        from .scores import ScoreSource

        found = None if scores is None else Path(scores)
        return ScoreSource(root, found, input_size, augment=augment, fit=fit, max_pixels=max_pixels)
    from .folder import ImageFolderSource

    return ImageFolderSource(root, input_size, augment=augment, fit=fit, max_pixels=max_pixels)
