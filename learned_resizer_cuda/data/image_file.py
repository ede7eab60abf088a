"""Opens image files: the one place where this package hands a file to Pillow."""

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
"""Those that are opened, by Pillow's names. EPS, which runs another program, and icons, which come in sizes that their
formats fix, are not among them."""


class ImageRefused(ValueError):
    """An image that is not processed; the message is the reason, in words for the user."""


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[ImageFile]:
    """An image file, open for the body of a ``with``. The file is opened once: what is read is one file's content,
    whatever happens to its name meanwhile.

    Args:
        path: a file, or a link to one.

    Yields:
        Pillow's image, not loaded yet. Pillow warns of odd palettes and EXIF data, and of more than 89 million pixels:
        these warnings are silenced in the body.

    Raises:
        ImageRefused: the file cannot be opened, is no regular file (a pipe would block), empty, damaged, of no format
            of ``FORMATS``, or has more than 179 million pixels. Whatever the body raises, too: a damaged file may trip
            any of Pillow's decoders in any way. MemoryError and ImageRefused pass.
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
    """Those of ``FORMATS`` that the installed Pillow has a decoder for."""
    pillow = _pillow()
    pillow.init()
    return tuple(name for name in FORMATS if name in pillow.OPEN)


@lru_cache(maxsize=1)
def extensions() -> frozenset[str]:
    """The file name extensions of the formats that are opened, in lower case with their dot."""
    known = known_formats()
    return frozenset(extension for extension, name in _pillow().registered_extensions().items() if name in known)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"image files need Pillow: {EXTRA}", name="PIL") from error
    return Image
