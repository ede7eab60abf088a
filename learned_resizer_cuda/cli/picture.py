"""Image files to tensors and back, without unnecessary loss.

Kept: mode (grey, colour, CMYK, 16-bit grey, float), alpha, ICC profile, EXIF (with the orientation applied and
its tag removed) and file format. Refused: animations, modes that have no fixed meaning as numbers, and formats that
can be read but not written.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data.image_file import ImageRefused, open_image

# Modes that are converted on reading; the others stay as they are
_READ_AS = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
_PIECE = 1 << 20  # pixels
_KEEPS_EXIF = ("JPEG", "PNG", "WEBP")
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Full-resolution chroma, so that the file does not lose what the filter kept
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}


@dataclass
class Picture:
    """A decoded image file.

    Attributes:
        planes: (C, H, W), uint8, or float32 for modes ``I;16`` and ``F``, or float64 for ``I``; in the file's own
            value range, upright.
        mode: Pillow's mode: one of ``L LA RGB RGBA CMYK I;16 I F``. Alpha is the last plane and not premultiplied.
        format: Pillow's name of the file format, one that it can write.
        icc_profile, exif: in the form in which they are saved again.
        notes: changes made in reading, for the user.
        version: ``file_version`` of the file that was read.
    """

    planes: Tensor
    mode: str
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: list[str] = field(default_factory=list)
    version: tuple[int, ...] = ()

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("LA", "RGBA")

    @property
    def largest(self) -> float | None:
        """The value of white; None if the mode does not fix it."""
        return {"I;16": 65535.0, "I": None, "F": None}.get(self.mode, 255.0)


def read_picture(path: str | Path) -> Picture:
    """Decodes one still image, turned upright.

    Raises:
        ImageRefused: the file cannot be opened, is not an image, is damaged, too large, or of an unsupported kind; says
            which.
    """
    with open_image(path) as image:
        assert image.fp is not None
        read = file_version(image.fp.fileno())
        return replace(_decode(image), version=read)


def file_version(file: str | int) -> tuple[int, ...]:
    """Device, inode, bytes and write time in ns; empty without a file."""
    try:
        status = os.stat(file)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _decode(image: Image.Image) -> Picture:
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    # Further frames of an MPO are the camera's previews and gain maps of the same picture
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageRefused(f"{image.n_frames} frames; expected a still image")  # type: ignore[attr-defined]
    notes = []
    if _rawmode(image).endswith((";16B", ";16L", ";16N")) and not image.mode.startswith("I"):
        notes.append("read as 8 bits a channel: Pillow has no 16-bit colour")
    icc_profile = image.info.get("icc_profile")
    image.load()
    try:
        ImageOps.exif_transpose(image, in_place=True)
        exif = image.getexif().tobytes() if file_format in _KEEPS_EXIF and len(image.getexif()) else None
    except Exception as error:  # any tag may be malformed in any way
        notes.append(f"EXIF data dropped, orientation included: {error or type(error).__name__}")
        exif = None
    image = _convert(image)
    return Picture(_planes(image), image.mode, file_format, icc_profile, exif, notes)


def _rawmode(image: Image.Image) -> str:
    """Layout of the file's pixels by Pillow's first tile; ``""`` without one."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _convert(image: Image.Image) -> Image.Image:
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("1", "L", "RGB") and "transparency" in image.info:  # one value stands for transparent
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode.startswith("I;16"):
        return image if image.mode == "I;16" else Image.fromarray(np.array(image).astype(np.uint16))
    mode = _READ_AS.get(image.mode, image.mode)
    if mode not in _MODES:
        raise ImageRefused(f"mode {image.mode} is not supported")
    return image if mode == image.mode else image.convert(mode)


def _planes(image: Image.Image) -> Tensor:
    """Planes (C, H, W), copied a few rows at a time.

    Numpy's own way makes a second copy of the picture meanwhile.
    """
    width, height = image.size
    rows = max(1, _PIECE // width)
    first = _numbers(image.crop((0, 0, width, 1)))
    array = np.empty((height, *first.shape[1:]), first.dtype)
    for top in range(0, height, rows):
        end = min(top + rows, height)
        array[top:end] = _numbers(image.crop((0, top, width, end)))
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)


def _numbers(image: Image.Image) -> np.ndarray:
    array = np.asarray(image)
    if array.dtype == np.int32:
        return array.astype(np.float64)  # float32 would lose the low bits
    return array if array.dtype == np.uint8 else array.astype(np.float32)


def encode_picture(picture: Picture) -> bytes:
    """The picture as a file of ``picture.format``, encoded in memory.

    Never encode straight to a disk: on a full one, Pillow's encoders report success after a part, or never end.

    Args:
        picture: planes in the mode's own range; for integer modes, floats are rounded half up and saturated.

    Raises:
        ImageRefused: the format cannot hold the mode or the size.
    """
    image = as_image(picture)
    options = _SAVE_OPTIONS.get(picture.format, {}) | {"icc_profile": picture.icc_profile}
    if picture.exif:
        options["exif"] = picture.exif
    encoded = BytesIO()
    try:
        image.save(encoded, format=picture.format, **options)
        size = _written_size(encoded, picture.format)
    except MemoryError:
        raise
    except Exception as error:  # OSError, ValueError, KeyError, struct.error, ...: each encoder has its own
        raise ImageRefused(f"{picture.format} cannot hold it: {error or type(error).__name__}") from error
    if size is not None and size != image.size:
        # Some formats have fixed sizes, and their encoders silently choose the nearest
        raise ImageRefused(f"{picture.format} cannot hold {image.height}x{image.width} pixels")
    return encoded.getvalue()


def _written_size(encoded: BytesIO, file_format: str) -> tuple[int, int] | None:
    """Header's width and height; None above Pillow's limit for untrusted files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            with Image.open(encoded, formats=[file_format]) as written:
                return written.size
        except Image.DecompressionBombError:
            return None


def as_image(picture: Picture) -> Image.Image:
    """Pillow's image; floats of integer modes are rounded half up and saturated."""
    planes = picture.planes
    if picture.mode == "F":
        return Image.fromarray(planes[0].to(torch.float32).contiguous().numpy())
    if planes.is_floating_point():
        low, high, dtype = {
            "I;16": (0, 65535, np.uint16),
            "I": (-(2**31), 2**31 - 1, np.int32),
        }.get(picture.mode, (0, 255, np.uint8))
        # float64: adding a half to 2**31 - 1 is exact in it
        array = (planes.to(torch.float64) + 0.5).floor().clamp(low, high).numpy().astype(dtype)
    else:
        array = planes.numpy()
    array = array[0] if len(array) == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
    image = Image.fromarray(np.ascontiguousarray(array))
    if image.mode == picture.mode:
        return image
    return Image.frombytes(picture.mode, image.size, image.tobytes())  # CMYK arrives as RGBA
