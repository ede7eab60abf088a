"""Decoding of an image file to a uint8 image.

The image is turned upright, cropped to a ``View`` (a rectangle of whole pixels, perhaps mirrored), and resized to S x S
by this package's antialiased bilinear ``resize``. So images of any sizes make one batch, and each is decoded once. Or
it stays whole, at its own size, and the view goes with it as the box of a region.
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
    from PIL.ImageFile import ImageFile

AUGMENTS = ("none", "flip", "crop")
FITS = ("crop", "squash")
CENTRE = 0.875
"""Part of the shorter side that ``fit="crop"`` keeps: 224 of 256, as in tests on ImageNet."""

# RandomResizedCrop of torchvision, after Szegedy et al., "Going deeper with convolutions" (CVPR 2015), section 6.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10

_DRAFTS = ("JPEG", "MPO")
"""Formats that Pillow decodes at a fraction of their size if asked before it loads them."""
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


class ChosenView(NamedTuple):
    """A view, and the size of its upright image."""

    view: View
    height: int
    width: int


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
    """Read a view of an image file, resized.

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
        orientation, height, width = _upright_size(image)
        view = choose(height, width)
        upright = _decode(image, orientation, min(view.height, view.width) // size, in_channels)
        left, right = _scaled(view.left, view.width, width, upright.size[0])
        top, bottom = _scaled(view.top, view.height, height, upright.size[1])
        planes = _planes(upright.crop((left, top, right, bottom)))
    planes = resize(planes, size)
    return planes.flip(-1) if view.mirror else planes


def read_native(
    path: Path, choose: Callable[[int, int], View], in_channels: int, max_pixels: int | None = None
) -> tuple[Tensor, View]:
    """Read an image file at its own size, and choose a view.

    Args:
        path, in_channels: see ``read_view``, also for how files are decoded.
        choose: (height, width) of the image that is returned → the view.
        max_pixels: an image with more is reduced by this package's antialiased bilinear ``resize`` to at most as many,
            with its aspect up to whole pixels; a JPEG is decoded near that size.

    Returns:
        uint8 (in_channels, H, W), upright, and the view.

    Raises:
        ImageRefused, ModuleNotFoundError: see ``read_view``.
    """
    with open_image(path) as image:
        orientation, *whole = _upright_size(image)
        height, width = reduced_size(whole[0], whole[1], max_pixels)
        planes = _planes(_decode(image, orientation, min(whole[0] // height, whole[1] // width), in_channels))
    if planes.shape[1:] != (height, width):
        planes = resize(planes, (height, width))
    return planes, choose(height, width)


def reduced_size(height: int, width: int, max_pixels: int | None) -> tuple[int, int]:
    """Height and width of at most ``max_pixels``, aspect kept; at least 1."""
    if max_pixels is None or height * width <= max_pixels:
        return height, width
    scale = math.sqrt(max_pixels / (height * width))
    height, width = max(1, int(height * scale)), max(1, int(width * scale))
    # of an image so long that its other side is 1
    return min(height, max_pixels // width) or 1, min(width, max_pixels // height) or 1


def _upright_size(image: ImageFile) -> tuple[int, int, int]:
    """EXIF orientation, height and width; a JPEG is not decoded yet."""
    if image.format not in _DRAFTS:
        image.load()  # some formats store EXIF data behind the pixels
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation >= 5 else image.size
    return orientation, height, width


def _decode(image: ImageFile, orientation: int, fraction: int, in_channels: int) -> Image.Image:
    """The image upright, RGB or L; a JPEG down to 1/``fraction``."""
    from PIL import Image as pillow

    mode = "L" if in_channels == 1 else "RGB"
    if image.format in _DRAFTS:
        fraction = max(1, fraction)
        image.draft(mode, (image.size[0] // fraction, image.size[1] // fraction))
        image.load()
    upright = _eight_bits(image, mode)
    return upright.transpose(pillow.Transpose[_UPRIGHT[orientation]]) if orientation in _UPRIGHT else upright


def _planes(image: Image.Image) -> Tensor:
    """Pixels as uint8 (C, h, w), channels interleaved."""
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)


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
