"""Resizing a decoded image file, alpha and all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..resize import resize
from .files import Picture
from .image_file import ImageRefused

_PIECE = 1 << 20  # pixels


class PictureResizer:
    """Resizes pictures with a fixed filter, or with a learned resizer.

    Colours of a picture with alpha are multiplied by it before they are resized and divided after, so that the
    colour of transparent pixels, which nobody sees, does not bleed into visible edges; alpha itself is resized
    by the fixed filter. So the result over black is the resized picture over black.

    Args:
        size: output (height, width).
        interpolation, antialias: the fixed filter.
        learned: (B, in_channels, H, W) in [0, 1] → the resized images; None for the fixed filter alone. In eval
            mode, taking ``size`` as its second argument.
        in_channels: of ``learned``. With 1, the channels of a colour picture are resized one by one; with 3, a
            grey picture is repeated three times and the three results averaged.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str = "bilinear",
        antialias: bool = True,
        learned: nn.Module | None = None,
        in_channels: int = 3,
    ) -> None:
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels: got {in_channels}; expected 1 or 3, as image files have")
        self.size, self.interpolation, self.antialias = size, interpolation, antialias
        self.learned, self.in_channels = learned, in_channels

    @torch.no_grad()
    def __call__(self, picture: Picture) -> Picture:
        """A new picture of the asked size; uint8 planes if it was resized by the fixed filter without alpha, else
        floats in the mode's range, not yet rounded.

        Raises:
            ImageRefused: the learned resizer has no meaning for the picture's mode.
        """
        planes = picture.planes
        if self.learned is None and not picture.has_alpha:
            return replace(picture, planes=self._fixed(planes))
        white = picture.largest
        if white is None or picture.mode == "CMYK":
            raise ImageRefused(f"mode {picture.mode} cannot go through a learned resizer")
        resized = self._with_alpha(planes, white) if picture.has_alpha else self._colour(_unit(planes, white))
        return replace(picture, planes=resized * white)

    def _with_alpha(self, planes: Tensor, white: float) -> Tensor:
        if self.learned is None:
            colour, alpha = self._premultiplied(planes, white).split([len(planes) - 1, 1])
        else:
            alpha = _unit(planes[-1:], white)
            colour, alpha = self._colour(_unit(planes[:-1], white).mul_(alpha)), self._fixed(alpha)
        # Where nothing is visible, any colour is right: black. The division is by alpha before it is saturated:
        # a filter that overshoots does so in both.
        visible = alpha > 0.5 / 65535
        colour = torch.where(visible, colour / torch.where(visible, alpha, 1.0), 0.0)
        return torch.cat([colour, alpha]).clamp(0, 1)

    def _premultiplied(self, planes: Tensor, white: float) -> Tensor:
        """Colours times alpha, and alpha, resized by the fixed filter: first along the axis that shrinks more, some
        rows or columns at a time, so that no float copy of the whole picture is needed."""
        height, width = planes.shape[1:]
        if self.size[0] * width < self.size[1] * height:
            flipped = PictureResizer(self.size[::-1], self.interpolation, self.antialias)
            return flipped._premultiplied(planes.transpose(1, 2), white).transpose(1, 2)
        pieces = []
        for piece in planes.split(max(1, _PIECE // width), dim=1):
            unit = _unit(piece, white)
            unit[:-1] *= unit[-1:]
            pieces.append(self._filter(unit, (piece.shape[1], self.size[1])))
        return self._filter(torch.cat(pieces, 1), self.size)

    def _fixed(self, planes: Tensor) -> Tensor:
        # One by one: a whole picture in float32 takes four times what its bytes do
        return torch.cat([self._filter(plane[None], self.size) for plane in planes])

    def _filter(self, planes: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(planes, size, interpolation=self.interpolation, antialias=self.antialias)

    def _colour(self, planes: Tensor) -> Tensor:
        if self.learned is None:
            return self._fixed(planes)
        if self.in_channels == 1:
            return self.learned(planes[:, None].contiguous(), self.size)[:, 0]
        if len(planes) == 1:
            return self.learned(planes.expand(3, -1, -1)[None].contiguous(), self.size)[0].mean(0, keepdim=True)
        return self.learned(planes[None].contiguous(), self.size)[0]


def _unit(planes: Tensor, white: float) -> Tensor:
    """A float32 copy in [0, 1]."""
    return planes.to(torch.float32, copy=True).div_(white)
