"""Resizing a decoded image file, alpha and all."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..resize import resize
from .files import ImageRefused, Picture

if TYPE_CHECKING:
    from ..reference import Resizer


class PictureResizer:
    """Resizes pictures with a fixed filter, or with a learned resizer.

    Colours of a picture with alpha are multiplied by it before they are resized and divided after, so that the
    colour of transparent pixels, which nobody sees, does not bleed into visible edges; alpha itself is resized
    by the fixed filter. So the result over black is the resized picture over black.

    Args:
        size: output (height, width).
        interpolation, antialias: the fixed filter.
        learned: a learned resizer in eval mode; None for the fixed filter alone. With 1 channel, the channels of a
            colour picture are resized one by one; with 3, a grey picture is repeated three times and the three results
            averaged. Where it was made with ``mean`` and ``std``, it gets images normalised by them, and what it
            returns is taken to be normalised, too.

    Raises:
        ValueError: ``learned`` is of another number of channels.
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
        """A new picture of the asked size; uint8 planes if it was resized by the fixed filter without alpha, else
        floats in the mode's range, not yet rounded.

        Raises:
            ImageRefused: the learned resizer has no meaning for the picture's mode, or its output is not finite.
        """
        planes = picture.planes
        if self.learned is None and not picture.has_alpha:
            return replace(picture, planes=self._fixed(planes))
        white = picture.largest
        if white is None or picture.mode == "CMYK":
            raise ImageRefused(f"mode {picture.mode} cannot go through a learned resizer")
        unit = planes.to(torch.float32) / white
        resized = self._with_alpha(unit) if picture.has_alpha else self._colour(unit)
        return replace(picture, planes=resized * white)

    def _with_alpha(self, unit: Tensor) -> Tensor:
        alpha = unit[-1:]
        colour, alpha = self._colour(unit[:-1] * alpha), self._fixed(alpha)
        # Where nothing is visible, any colour is right: black. The division is by alpha before it is saturated:
        # a filter that overshoots does so in both.
        visible = alpha > 0.5 / 65535
        colour = torch.where(visible, colour / torch.where(visible, alpha, 1.0), 0.0)
        return torch.cat([colour, alpha]).clamp(0, 1)

    def _fixed(self, planes: Tensor) -> Tensor:
        return resize(planes, self.size, interpolation=self.interpolation, antialias=self.antialias)

    def _colour(self, planes: Tensor) -> Tensor:
        if self.learned is None:
            return self._fixed(planes)
        if self.learned.in_channels == 1:
            return self._through(self.learned, planes[:, None])[:, 0]
        if len(planes) == 1:
            return self._through(self.learned, planes.expand(3, -1, -1)[None])[0].mean(0, keepdim=True)
        return self._through(self.learned, planes[None])[0]

    def _through(self, learned: Resizer, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] → (B, in_channels, height, width) in the same units."""
        if learned.image_mean is None or learned.image_std is None:
            resized = learned(images.contiguous(), self.size)
        else:
            mean, std = (values.view(-1, 1, 1) for values in (learned.image_mean, learned.image_std))
            resized = learned(((images - mean) / std).contiguous(), self.size) * std + mean
        if not resized.isfinite().all():
            raise ImageRefused("the learned resizer's output is not finite")
        return resized
