"""Resizing of decoded image files, with alpha."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..data.image_file import ImageRefused
from ..resize import resize
from .picture import Picture

if TYPE_CHECKING:
    from ..reference import Resizer

_PIECE = 1 << 20  # pixels


class PictureResizer:
    """Resizes pictures with a fixed filter, or with a learned resizer.

    Colours of a picture with alpha are premultiplied before they are resized and divided by alpha after, so that the
    invisible colour of transparent pixels does not bleed into visible edges. Alpha itself is resized by the fixed
    filter. The result over black is therefore the resized picture over black.

    Args:
        size: output (height, width).
        interpolation, antialias: the fixed filter.
        learned: a learned resizer in eval mode; None for the fixed filter alone. With 1 channel, the channels of a
            colour picture are resized one by one; with 3, a grey picture is repeated three times and the three results
            are averaged. If it was made with ``mean`` and ``std``, its input is normalised by them, and its output is
            taken to be normalised too.

    Raises:
        ValueError: ``learned`` has another number of channels.
    """

    def __init__(
        self,
        size: tuple[int, int],
        interpolation: str = "bilinear",
        antialias: bool = True,
        learned: Resizer | None = None,
    ) -> None:
        if learned is not None and learned.in_channels not in (1, 3):
            raise ValueError(f"in_channels: got {learned.in_channels}; expected 1 or 3, as image files have")
        self.size, self.interpolation, self.antialias = size, interpolation, antialias
        self.learned = learned

    @torch.no_grad()
    def __call__(self, picture: Picture) -> Picture:
        """A new picture of ``size``.

        Planes are uint8 from the fixed filter without alpha, otherwise unrounded floats in the mode's range.

        Raises:
            ImageRefused: the learned resizer has no meaning for the picture's mode, or its output is not finite.
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
        # Invisible pixels become black. The division is by alpha before saturation, because a filter that overshoots
        # does so in both.
        visible = alpha > 0.5 / 65535
        colour = torch.where(visible, colour / torch.where(visible, alpha, 1.0), 0.0)
        return torch.cat([colour, alpha]).clamp(0, 1)

    def _premultiplied(self, planes: Tensor, white: float) -> Tensor:
        """Colours times alpha, and alpha, resized by the fixed filter.

        No float copy of the whole picture is made: the axis that shrinks more comes first, some rows or columns at a
        time.
        """
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
        # One by one: a whole picture in float32 takes four times as much memory as its bytes
        return torch.cat([self._filter(plane[None], self.size) for plane in planes])

    def _filter(self, planes: Tensor, size: tuple[int, int]) -> Tensor:
        return resize(planes, size, interpolation=self.interpolation, antialias=self.antialias)

    def _colour(self, planes: Tensor) -> Tensor:
        if self.learned is None:
            return self._fixed(planes)
        if self.learned.in_channels == 1:
            return self._through(self.learned, planes[:, None])[:, 0]
        if len(planes) == 1:
            return self._through(self.learned, planes.expand(3, -1, -1)[None])[0].mean(0, keepdim=True)
        return self._through(self.learned, planes[None])[0]

    def _through(self, learned: Resizer, images: Tensor) -> Tensor:
        """Images resized by the learned resizer.

        (B, in_channels, H, W) in [0, 1] → (B, in_channels, height, width) in the same units.
        """
        if learned.image_mean is None or learned.image_std is None:
            resized = learned(images.contiguous(), self.size)
        else:
            mean, std = (values.view(-1, 1, 1) for values in (learned.image_mean, learned.image_std))
            resized = learned(((images - mean) / std).contiguous(), self.size) * std + mean
        if not resized.isfinite().all():
            raise ImageRefused("the learned resizer's output is not finite")
        return resized


def _unit(planes: Tensor, white: float) -> Tensor:
    """A float32 copy in [0, 1]."""
    return planes.to(torch.float32, copy=True).div_(white)
