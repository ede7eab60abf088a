"""Image files to tensors and back, losing nothing on the way that resizing does not change.

Kept: mode (grey, colour, CMYK, 16-bit grey, float), alpha, ICC profile, EXIF (with the orientation applied and
its tag removed) and file format. Named, not guessed at: animations, modes that have no fixed meaning as numbers,
formats that can be read but not written.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# What a mode is read as; modes not listed stay as they are.
_READ_AS = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB"}
_MODES = ("L", "LA", "RGB", "RGBA", "CMYK", "I;16", "I", "F")
_KEEPS_EXIF = ("JPEG", "PNG", "WEBP")
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    # Whole-resolution chroma: what the filter kept should not be lost to the file.
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
}


class ImageRefused(Exception):
    """A file that is not processed, with the reason in words for the user."""


@dataclass
class Picture:
    """A decoded image file.

    Attributes:
        planes: (C, H, W), uint8, or float32 for modes ``I;16`` and ``F`` and float64 for ``I``, in the file's
            own range; upright.
        mode: Pillow's mode: one of ``L LA RGB RGBA CMYK I;16 I F``. Alpha is the last plane and not
            multiplied in.
        format: Pillow's name of the file format, one it can write.
        icc_profile, exif: as they go into a file again.
        notes: what was changed in reading, for the user.
    """

    planes: Tensor
    mode: str
    format: str
    icc_profile: bytes | None = None
    exif: bytes | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def has_alpha(self) -> bool:
        return self.mode in ("LA", "RGBA")

    @property
    def largest(self) -> float | None:
        """The value of white, or None where the mode does not fix one."""
        return {"I;16": 65535.0, "I": None, "F": None}.get(self.mode, 255.0)


def read_picture(path: Path) -> Picture:
    """Decodes one still image, turned upright.

    Raises:
        ImageRefused: the file is no image, damaged, too large, or of a kind that is not handled; says which.
        OSError: the file cannot be read at all.
    """
    try:
        # Between its limit and twice that, Pillow warns of a decompression bomb; above, it raises. Photographs of
        # 100 megapixels exist: only what raises is refused.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _decode(image)
    except UnidentifiedImageError:
        empty = os.path.getsize(path) == 0
        raise ImageRefused("empty file" if empty else "not an image that Pillow knows") from None
    except Image.DecompressionBombError as error:
        raise ImageRefused(f"too large: {error}") from None
    except (ImageRefused, PermissionError, FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:
        # A damaged file may trip any of Pillow's decoders in any way: OSError, SyntaxError, struct.error, ...
        raise ImageRefused(f"damaged: {error or type(error).__name__}") from error


def _decode(image: Image.Image) -> Picture:
    file_format = "JPEG" if image.format == "MPO" else str(image.format)
    if file_format not in Image.SAVE:
        raise ImageRefused(f"Pillow reads {file_format} but cannot write it")
    # An MPO's further frames are the camera's previews and gain maps of the same picture.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageRefused(f"{image.n_frames} frames; only still images are handled")  # type: ignore[attr-defined]
    notes = []
    if _rawmode(image).endswith((";16B", ";16L", ";16N")) and not image.mode.startswith("I"):
        notes.append("read as 8 bits a channel: Pillow has no 16-bit colour")
    icc_profile = image.info.get("icc_profile")
    image.load()
    try:
        image = ImageOps.exif_transpose(image)
        exif = image.getexif().tobytes() if file_format in _KEEPS_EXIF and len(image.getexif()) else None
    except Exception as error:  # any tag may be malformed in any way
        notes.append(f"EXIF data dropped, orientation included: {error or type(error).__name__}")
        exif = None
    image = _convert(image)
    return Picture(_planes(image), image.mode, file_format, icc_profile, exif, notes)


def _rawmode(image: Image.Image) -> str:
    """The layout of the pixels in the file, as Pillow's first tile names it; ``""`` where it does not."""
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
        raise ImageRefused(f"mode {image.mode} is not handled")
    return image if mode == image.mode else image.convert(mode)


def _planes(image: Image.Image) -> Tensor:
    array = np.array(image)
    if array.dtype == np.int32:
        array = array.astype(np.float64)  # float32 would lose the low bits
    elif array.dtype != np.uint8:
        array = array.astype(np.float32)
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.dim() == 2 else tensor.permute(2, 0, 1)


def write_picture(picture: Picture, path: Path, overwrite: bool) -> None:
    """Writes the file whole or not at all: a temporary file beside it is renamed into place.

    Args:
        picture: planes in the mode's own range; floats are rounded half up and saturated for integer modes.
        path: the file; its folder exists. The format follows ``picture.format``, not the name.
        overwrite: whether a file of that name may be replaced.

    Raises:
        FileExistsError: it may not, and there is one.
        ImageRefused: the format cannot hold the mode.
        OSError: the file cannot be written.
    """
    image = _encode(picture)
    # Short, whatever the target's name: a name may be as long as the file system allows.
    temporary = path.parent / f".resize-{os.getpid()}.tmp"
    options = _SAVE_OPTIONS.get(picture.format, {}) | {"icc_profile": picture.icc_profile}
    if picture.exif:
        options["exif"] = picture.exif
    try:
        try:
            image.save(temporary, format=picture.format, **options)
        except (ValueError, KeyError) as error:
            raise ImageRefused(f"{picture.format} cannot hold it: {error}") from error
        except OSError as error:
            if error.errno is None:  # Pillow's own "cannot write mode ... as ..."
                raise ImageRefused(f"{picture.format} cannot hold it: {error}") from error
            raise
        if not overwrite and path.exists():
            raise FileExistsError(f"{path} appeared meanwhile")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(picture: Picture) -> Image.Image:
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
