"""torchvision's v1 transforms and presets, with this package's resampling."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision import transforms
from torchvision.transforms import _presets as presets

from . import functional


class Resize(transforms.Resize):
    """``transforms.Resize`` with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Any:
        """Resize an image."""
        return functional.resize(img, self.size, self.interpolation, self.max_size, self.antialias, parity=self.parity)


class RandomResizedCrop(transforms.RandomResizedCrop):
    """``transforms.RandomResizedCrop`` with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Any:
        """Crop and resize an image."""
        i, j, h, w = self.get_params(img, self.scale, self.ratio)
        return functional.resized_crop(
            img, i, j, h, w, self.size, self.interpolation, self.antialias, parity=self.parity
        )


class ToTensor(transforms.ToTensor):
    """``transforms.ToTensor`` that also scales uint8 tensors."""

    def __call__(self, pic: Any) -> Tensor:
        """Convert an image."""
        return functional.to_tensor(pic)


class PILToTensor(transforms.PILToTensor):
    """``transforms.PILToTensor`` that leaves tensors as they are."""

    def __call__(self, pic: Any) -> Tensor:
        """Convert an image."""
        return pic if isinstance(pic, Tensor) else super().__call__(pic)


class ImageClassification(presets.ImageClassification):
    """``weights.transforms()`` of a classifier, with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Tensor:
        """Resize, then torchvision's own steps, whose resize has nothing left to do."""
        return super().forward(
            functional.resize(img, self.resize_size, self.interpolation, antialias=self.antialias, parity=self.parity)
        )


class SemanticSegmentation(presets.SemanticSegmentation):
    """``weights.transforms()`` of a segmentation network, with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Tensor:
        """Resize, then torchvision's own steps, whose resize has nothing left to do."""
        if self.resize_size is not None:
            img = functional.resize(
                img, self.resize_size, self.interpolation, antialias=self.antialias, parity=self.parity
            )
        return super().forward(img)


class VideoClassification(presets.VideoClassification):
    """``weights.transforms()`` of a video network, with an attribute ``parity``."""

    parity: str

    def forward(self, vid: Tensor) -> Tensor:
        """Resize, then torchvision's own steps, whose resize has nothing left to do."""
        # Not antialiased, like torchvision's.
        return super().forward(
            functional.resize(vid, self.resize_size, self.interpolation, antialias=False, parity=self.parity)
        )


RESIZES: dict[Any, type] = {
    transforms.Resize: Resize,
    transforms.RandomResizedCrop: RandomResizedCrop,
    presets.ImageClassification: ImageClassification,
    presets.SemanticSegmentation: SemanticSegmentation,
    presets.VideoClassification: VideoClassification,
}
CONVERSIONS: dict[Any, type] = {transforms.ToTensor: ToTensor, transforms.PILToTensor: PILToTensor}
