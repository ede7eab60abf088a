"""Opens the data of a run."""

from __future__ import annotations

from pathlib import Path

from .source import Source


def open_source(
    task: str,
    data: str,
    input_size: int,
    *,
    scores: str | None = None,
    extra_photographs: str | None = None,
    augment: str = "crop",
    fit: str = "crop",
) -> Source:
    """The data set ``data`` as images of ``input_size``.

    Args:
        task: ``"classification"`` or ``"iqa"``.
        data: ``"digits"`` or ``"photographs"``, the built-in data of the two tasks, or a folder.
        input_size: side of the images in pixels.
        scores: score file of a folder for ``"iqa"``, where it is not in the folder.
        extra_photographs: folder of photographs to add to the built-in ones.
        augment, fit: see ``FileSource``; of a folder.

    Raises:
        DataError: it cannot be trained on (see ``data.errors``).
        FileNotFoundError: the folder, or a file of the built-in data, is missing.
        ModuleNotFoundError: a package that brings the built-in data is not installed.
        ValueError: ``input_size`` does not suit the built-in data.
    """
    if data == "digits":
        from .digits import DigitsOnPhotographs

        return DigitsOnPhotographs(input_size)
    if data == "photographs":
        from .quality import QualityPhotographs

        return QualityPhotographs(input_size, None if extra_photographs is None else Path(extra_photographs))
    root = Path(data)
    if not root.is_dir():
        raise FileNotFoundError(f"data: got {root}; expected a folder of images, digits or photographs")
    if task == "iqa":
        from .scores import ScoreSource

        return ScoreSource(root, None if scores is None else Path(scores), input_size, augment=augment, fit=fit)
    from .folder import ImageFolderSource

    return ImageFolderSource(root, input_size, augment=augment, fit=fit)
