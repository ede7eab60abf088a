"""Opens the data of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .source import Source

if TYPE_CHECKING:
    from ..recipes.config import RunConfig


def open_source(config: RunConfig, input_size: int) -> Source:
    """The data that ``config`` names, as images of ``input_size``.

    Raises:
        DataError: it cannot be trained on (see ``data.errors``).
        FileNotFoundError: the folder, or a file of the built-in data, is missing.
        ModuleNotFoundError: a package that brings the built-in data is not installed.
        ValueError: ``input_size`` does not suit the built-in data.
    """
    if config.data == "digits":
        from .digits import DigitsOnPhotographs

        return DigitsOnPhotographs(input_size)
    if config.data == "photographs":
        from .quality import QualityPhotographs

        extra = None if config.extra_photographs is None else Path(config.extra_photographs)
        return QualityPhotographs(input_size, extra)
    root = Path(str(config.data))
    if not root.is_dir():
        raise FileNotFoundError(f"data: got {root}; expected a folder of images, digits or photographs")
    if config.task == "iqa":
        from .scores import ScoreSource

        scores = None if config.scores is None else Path(config.scores)
        return ScoreSource(root, scores, input_size, augment=config.augment, fit=config.fit)
    from .folder import ImageFolderSource

    return ImageFolderSource(root, input_size, augment=config.augment, fit=config.fit)
