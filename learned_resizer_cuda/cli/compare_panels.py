"""Panels of `learned-resizer compare`: a picture by every resizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.image_file import ImageRefused
from ..report.comparison import LEAST_SIDE, Panel
from ..report.figures.style import central_range
from .picture import Picture, as_image
from .picture_resizer import PictureResizer

FILTERS = (
    *((name, name, True) for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")),
    ("bilinear, not antialiased", "bilinear", False),
)
"""Name, interpolation and antialias of the panels by fixed filters."""
_LONGEST_DEFAULT = 384
"""As the page has room for side by side, on whole screen pixels."""
_MUCH = 0.01
"""Share of values outside an image's range from which a second panel shows them all but 2 %, as a run's samples."""


def panels(picture: Picture, size: tuple[int, int], learned: PictureResizer | None) -> Iterator[Panel]:
    """The picture by every filter, and by the learned resizer.

    Raises:
        ImageRefused: as ``PictureResizer``.
    """
    for name, interpolation, antialias in FILTERS:
        yield Panel(name, visible(PictureResizer(size, interpolation, antialias)(picture)))
    if learned is not None:
        resized = learned(picture)
        cut_off = _cut_off(resized)
        yield Panel("learned", visible(resized), f"{100 * cut_off:.1f} % of its values cut off" if cut_off else "")
        if cut_off > _MUCH:
            white = picture.largest or 255.0
            low, high = central_range(resized.planes)
            stretched = replace(resized, planes=(resized.planes - low) * (white / (high - low)))
            note = f"black is {255 * low / white:.0f}, white {255 * high / white:.0f} of its levels".replace("-", "−")
            yield Panel("learned, stretched", visible(stretched), note)


def visible(picture: Picture) -> Tensor:
    """Pixels that a browser shows exactly, alpha over white.

    Uint8 (C, H, W), grey or RGB.
    """
    if picture.mode == "I;16":
        picture = replace(picture, mode="L", planes=picture.planes / 257)
    image = as_image(picture)
    if picture.has_alpha:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())


def readable_notes(picture: Picture) -> list[str]:
    """Sentences on how the page's pixels differ from the file's.

    Raises:
        ImageRefused: a browser cannot show the picture's mode.
    """
    if picture.largest is None or picture.mode == "CMYK":
        raise ImageRefused(f"mode {picture.mode}; expected grey or RGB, which browsers show")
    notes = [f"{note[0].upper()}{note[1:]}." for note in picture.notes]
    if picture.mode == "I;16":
        notes.append("The 16-bit grey is rounded to 8 bits.")
    if picture.has_alpha:
        notes.append("Alpha is laid over white.")
    if picture.icc_profile:
        notes.append("The colour profile is left out: values are the file's, and shown as sRGB.")
    return notes


def default_size(picture: Picture) -> tuple[int, int]:
    """Half of each side, or less to keep both within 384."""
    height, width = picture.planes.shape[1:]
    factor = min(0.5, _LONGEST_DEFAULT / max(height, width))
    return max(LEAST_SIDE, round(height * factor)), max(LEAST_SIDE, round(width * factor))


def _cut_off(resized: Picture) -> float:
    """Share of values outside the range, before they are rounded."""
    white = resized.largest or 255.0
    return float(((resized.planes < -0.5) | (resized.planes >= white + 0.5)).double().mean())


def pixels(size: tuple[int, int]) -> str:
    """A size as sentences have it."""
    return f"{size[0]}×{size[1]}"
