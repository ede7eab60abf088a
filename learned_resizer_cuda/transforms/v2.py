"""torchvision's v2 transforms, with this package's resampling."""

from __future__ import annotations

from typing import Any

from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

from ..resize import check_parity
from . import functional
from .functional import Interpolation, Size, check_antialias, check_size, interpolation_mode


class Resize(v2.Resize):
    """torchvision's ``v2.Resize`` with this package's resampling.

    Takes one input or several, in tuples, lists and dictionaries, as every transform of torchvision's. What it does
    with each, and ``interpolation``, ``max_size``, ``antialias`` and ``parity``: see ``functional.resize``. Cannot be
    scripted.

    Args:
        size: ``(height, width)``; an int or ``[int]`` for the shorter side; or None, with ``max_size``.
        interpolation: an ``InterpolationMode``, its name or Pillow's constant.
        max_size: limit of the longer side, if ``size`` is an int or None.
        antialias: widen the filter when shrinking a tensor.
        parity: arithmetic for uint8 tensors: None for torchvision's, ``"exact"``, ``"pillow"`` or ``"pillow-12"``.

    Raises:
        TypeError, ValueError: as ``functional.resize``.

    Examples:
        >>> import torch
        >>> from torchvision import tv_tensors
        >>> from learned_resizer_cuda import transforms
        >>> transforms.Resize(32, interpolation="lanczos")(torch.rand(3, 64, 96)).shape
        torch.Size([3, 32, 48])

        An image with its boxes:

        >>> boxes = tv_tensors.BoundingBoxes([[0, 32, 48, 64]], format="XYXY", canvas_size=(64, 96))
        >>> sample = {"image": tv_tensors.Image(torch.rand(3, 64, 96)), "boxes": boxes}
        >>> small = transforms.Resize((32, 24))(sample)
        >>> small["image"].shape, small["boxes"].tolist()
        (torch.Size([3, 32, 24]), [[0, 16, 12, 32]])
    """

    # Scripted, a transform of torchvision's is replaced by this class; None refuses.
    _v1_transform_cls = None

    def __init__(
        self,
        size: Size,
        interpolation: Interpolation = "bilinear",
        max_size: int | None = None,
        antialias: bool | None = True,
        *,
        parity: str | None = None,
    ) -> None:
        check_size(size, max_size)
        check_antialias(antialias)
        super().__init__(size, interpolation_mode(interpolation), max_size, antialias)
        self.parity = parity if parity is None else check_parity(parity)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input; called by torchvision."""
        if not functional.is_image(inpt):
            return super().transform(inpt, params)
        return functional.resize(inpt, self.size, self.interpolation, self.max_size, self.antialias, parity=self.parity)


class RandomResizedCrop(v2.RandomResizedCrop):
    """``v2.RandomResizedCrop`` with an attribute ``parity``."""

    _v1_transform_cls = None
    parity: str

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize one input; called by torchvision."""
        if not functional.is_image(inpt):
            return super().transform(inpt, params)
        options = {"interpolation": self.interpolation, "antialias": self.antialias, "parity": self.parity}
        return functional.resized_crop(inpt, **params, size=self.size, **options)


class _RandomSize(v2.Transform):
    """Transform that draws its size."""

    parity: str

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize one input; called by torchvision."""
        if not functional.is_image(inpt):
            return super().transform(inpt, params)
        return functional.resize(inpt, params["size"], self.interpolation, antialias=self.antialias, parity=self.parity)


class ScaleJitter(_RandomSize, v2.ScaleJitter):
    """``v2.ScaleJitter`` with an attribute ``parity``."""


class RandomShortestSize(_RandomSize, v2.RandomShortestSize):
    """``v2.RandomShortestSize`` with an attribute ``parity``."""


class RandomResize(_RandomSize, v2.RandomResize):
    """``v2.RandomResize`` with an attribute ``parity``."""


class ToTensor(v2.ToTensor):
    """``v2.ToTensor`` that also scales uint8 tensors."""

    _transformed_types = (*v2.ToTensor._transformed_types, is_pure_tensor, tv_tensors.Image)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Convert one input; called by torchvision."""
        return functional.to_tensor(inpt)


RESIZES: dict[Any, type] = {
    v2.Resize: Resize,
    v2.RandomResizedCrop: RandomResizedCrop,
    v2.ScaleJitter: ScaleJitter,
    v2.RandomShortestSize: RandomShortestSize,
    v2.RandomResize: RandomResize,
}
CONVERSIONS: dict[Any, type] = {v2.ToTensor: ToTensor}
