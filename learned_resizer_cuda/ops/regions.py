"""Regions of images: which pixels fill an output, and where exactly.

A region ``(top, left, height, width)`` in pixels, floats, is a crop of the whole pixels that it touches, and a place
within that crop. Pixels outside the crop do not count: with antialiasing they are left out, without it the crop's
border is repeated. A region of whole pixels is thus the same as cropping first, in every bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class Place(NamedTuple):
    """One axis of a region within its crop, in pixels."""

    offset: float  # of the region's begin, in [0, 1); mirrored: of its end from the crop's end
    extent: float


class Region(NamedTuple):
    """A region as a crop and its place in it."""

    top: int
    left: int
    height: int
    width: int
    rows: Place | None  # None: the whole crop
    columns: Place | None
    flip: bool

    def view(self, image: Tensor) -> Tensor:
        """The crop of an image ``(…, H, W)``; not mirrored."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def regions(sizes: Sequence[Sequence[int]], boxes: Tensor | None, flip: Tensor | None) -> list[Region]:
    """Regions of images.

    Args:
        sizes: height and width of each image.
        boxes: ``(B, 4)`` float64 on the CPU, valid: top, left, height, width. ``None``: whole images.
        flip: ``(B,)`` bool on the CPU, or ``None``.
    """
    flips = [False] * len(sizes) if flip is None else flip.tolist()
    if boxes is None:
        return [
            Region(0, 0, height, width, None, None, mirror)
            for (height, width), mirror in zip(sizes, flips, strict=True)
        ]
    result = []
    for (height, width), box, mirror in zip(sizes, boxes.tolist(), flips, strict=True):
        top, rows, row_place = _axis(box[0], box[2], height)
        left, columns, column_place = _axis(box[1], box[3], width)
        if mirror and column_place is not None:
            offset = columns - column_place.offset - column_place.extent
            column_place = column_place._replace(offset=offset)
        result.append(Region(top, left, rows, columns, row_place, column_place, mirror))
    return result


def _axis(begin: float, extent: float, size: int) -> tuple[int, int, Place | None]:
    """First pixel, pixels and place of an axis of a region."""
    first = min(math.floor(begin), size - 1)
    pixels = min(max(math.ceil(begin + extent) - first, 1), size - first)
    offset = begin - first
    whole = offset == 0.0 and extent == pixels
    return first, pixels, None if whole else Place(offset, extent)
