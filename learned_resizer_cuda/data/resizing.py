"""Resizing a decoded image file, alpha and all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..resize import resize
from .files import ImageRefused, Picture

Resizing = Callable[[Tensor], Tensor]


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
        if self.in_channels == 1:
            return self.learned(planes[:, None].contiguous(), self.size)[:, 0]
        if len(planes) == 1:
            return self.learned(planes.expand(3, -1, -1)[None].contiguous(), self.size)[0].mean(0, keepdim=True)
        return self.learned(planes[None].contiguous(), self.size)[0]
