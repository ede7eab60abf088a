"""Decoding of an image file to a uint8 image of given size.

The image is turned upright, cropped to a ``View`` (a rectangle of whole pixels, perhaps mirrored), and resized to S x S
by this package's antialiased bilinear ``resize``. So images of any sizes make one batch, and each is decoded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..resize import resize
from .image_file import ImageRefused, open_image

if TYPE_CHECKING:
    from PIL import Image

AUGMENTS = ("none", "flip", "crop")
FITS = ("crop", "squash")
CENTRE = 0.875
"""Part of the shorter side that ``fit="crop"`` keeps: 224 of 256, as in tests on ImageNet."""

# RandomResizedCrop of torchvision, after Szegedy et al., "Going deeper with convolutions" (CVPR 2015), section 6.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10

_ORIENTATION = 0x0112
# EXIF orientation → Pillow's transposition that undoes it.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class View(NamedTuple):
    """Rectangle in an upright image, in pixels, perhaps mirrored left to right."""

    top: int
    left: int
    height: int
    width: int
    mirror: bool = False


def fixed_view(fit: str, height: int, width: int) -> View:
    """The view of an image for testing.

    Args:
        fit: ``"crop"``: the square in the centre whose side is 0.875 of the shorter side, which keeps the aspect;
            ``"squash"``: the whole image, which changes the aspect of all but square ones.
        height, width: of the upright image.
    """
    if fit == "squash":
        return View(0, 0, height, width)
    side = max(1, round(CENTRE * min(height, width)))
    return View((height - side) // 2, (width - side) // 2, side, side)


def drawn_view(augment: str, fit: str, height: int, width: int, generator: np.random.Generator) -> View:
    """The view of an image for training.

    Args:
        augment: ``"none"``: ``fixed_view``; ``"flip"``: the same, every other one mirrored; ``"crop"``: a random
            rectangle of 8 to 100 % of the area and an aspect of 3/4 to 4/3, as torchvision's ``RandomResizedCrop``
            draws it, every other one mirrored.
        fit, height, width: see ``fixed_view``.
        generator: source of all randomness. How many numbers are drawn does not depend on the size.
    """
    if augment == "none":
        return fixed_view(fit, height, width)
    mirror = bool(generator.random() < 0.5)
    if augment == "flip":
        return fixed_view(fit, height, width)._replace(mirror=mirror)
    down, right = generator.random(2)
    for area, aspect in generator.random((_TRIES, 2)):
        pixels = height * width * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
        ratio = math.exp(math.log(_ASPECT[0]) + aspect * math.log(_ASPECT[1] / _ASPECT[0]))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return View(int(down * (height - h + 1)), int(right * (width - w + 1)), h, w, mirror)
    # The image is too long for that: take its centre, as long as the aspect allows.
    h = min(height, max(1, round(width / _ASPECT[0])))
    w = min(width, max(1, round(height * _ASPECT[1])))
    return View((height - h) // 2, (width - w) // 2, h, w, mirror)


def read_view(path: Path, choose: Callable[[int, int], View], size: int, in_channels: int) -> Tensor:
    """Read a view of an image file.

    A JPEG is decoded at 1/2, 1/4 or 1/8 where the view stays at least S x S. Transparency is dropped, as in
    torchvision's loader; an animation gives its first frame; 16-bit grey becomes 8-bit.

    Args:
        path: the file.
        choose: (height, width) of the upright image → the view.
        size: S.
        in_channels: 3 for red, green, blue, 1 for grey (ITU-R 601 luma).

    Returns:
        uint8 (in_channels, S, S).

    Raises:
        ImageRefused: the file is missing, not an image, damaged, or has a mode without a fixed white.
        ModuleNotFoundError: Pillow is not installed.
    """
    with open_image(path) as image:
        pixels, mirror = _decode(image, choose, size, "L" if in_channels == 1 else "RGB")
    planes = torch.from_numpy(pixels)
    planes = planes[None] if planes.dim() == 2 else planes.permute(2, 0, 1)
    planes = resize(planes, size)
    return planes.flip(-1) if mirror else planes


def _decode(image: Image.Image, choose: Callable[[int, int], View], size: int, mode: str) -> tuple[np.ndarray, bool]:
    """Pixels of the view, uint8 (h, w[, 3]), and whether to mirror."""
    from PIL import Image as pillow

    draft = image.format in ("JPEG", "MPO")
    if not draft:
        image.load()  # some formats store EXIF data behind the pixels
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    view = choose(height, width)
    if draft:
        fraction = max(1, min(view.height, view.width) // size)
        image.draft(mode, (image.size[0] // fraction, image.size[1] // fraction))
        image.load()
    image = _eight_bits(image, mode)
    if orientation in _UPRIGHT:
        image = image.transpose(pillow.Transpose[_UPRIGHT[orientation]])
    left, right = _scaled(view.left, view.width, width, image.size[0])
    top, bottom = _scaled(view.top, view.height, height, image.size[1])
    return np.array(image.crop((left, top, right, bottom))), view.mirror


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a malformed tag may raise anything; the pixels are still good
        return 1


def _scaled(start: int, length: int, side: int, decoded: int) -> tuple[int, int]:
    """An interval of a side in decoded pixels, at least one long."""
    first = min(round(start * decoded / side), decoded - 1)
    return first, max(first + 1, round((start + length) * decoded / side))


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image as pillow

    # Pillow opened 16-bit PNG files as 32-bit integers before release 11.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.array(image).astype(np.uint32)
        image = pillow.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ImageRefused(f"mode {image.mode} has no fixed value for white")
    return image if image.mode == mode else image.convert(mode)
