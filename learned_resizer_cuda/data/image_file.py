"""Opening of image files: only here does a file go to Pillow."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .package_files import EXTRA

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
"""Formats that are opened, by Pillow's names. Not EPS, which runs another program, nor icons, whose sizes are fixed."""


class ImageRefused(ValueError):
    """An image that is not processed; the message tells the user why.

    Attributes:
        path: the file at fault, if it is another one than the image's.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason)
        self.path = path


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[ImageFile]:
    """Open an image file for the body of a ``with``.

    The file is opened once: what is read is the content of one file, even if it is renamed or replaced meanwhile.

    Args:
        path: a file, or a link to one.

    Yields:
        Pillow's image, not loaded yet. Pillow's warnings (odd palettes and EXIF data, more than 89 million pixels) are
        silenced in the body.

    Raises:
        ImageRefused: the file cannot be opened, is not a regular file (a pipe would block), is empty, damaged, not in
            one of ``FORMATS``, or has more than 179 million pixels. Also in place of whatever the body raises, since
            a damaged file can make Pillow's decoders raise anything; MemoryError and ImageRefused pass through.
        ModuleNotFoundError: Pillow is not installed.
    """
    pillow = _pillow()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ImageRefused(error.strerror or str(error)) from None
    with open(descriptor, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageRefused("not a regular file")
        if not status.st_size:
            raise ImageRefused("empty file")
        try:
            with pillow.open(file, formats=known_formats()) as image:
                yield image
        except (ImageRefused, MemoryError):
            raise
        except pillow.UnidentifiedImageError:
            raise ImageRefused("not an image, or in a format that is not opened") from None
        except pillow.DecompressionBombError as error:
            raise ImageRefused(f"too large: {error}") from None
        except Exception as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ImageRefused(f"damaged: {' '.join(text.split()) or type(error).__name__}") from error


@lru_cache(maxsize=1)
def known_formats() -> tuple[str, ...]:
    """The ``FORMATS`` that the installed Pillow can decode."""
    pillow = _pillow()
    pillow.init()
    return tuple(name for name in FORMATS if name in pillow.OPEN)


@lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """File name extensions of ``known_formats``, in lower case, with the dot."""
    known = known_formats()
    return frozenset(extension for extension, name in _pillow().registered_extensions().items() if name in known)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"image files need Pillow: {EXTRA}", name="PIL") from error
    return Image
