"""timm's transforms, with this package's resampling."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from timm.data import naflex_transforms, transforms
from torch import Tensor
from torchvision.transforms import functional as v1
from torchvision.transforms.v2 import functional as v2

from . import functional


def _draw(interpolation: Any) -> Any:
    """One of several interpolations, as timm draws it."""
    return random.choice(interpolation) if isinstance(interpolation, (tuple, list)) else interpolation


class RandomResizedCropAndInterpolation(transforms.RandomResizedCropAndInterpolation):
    """timm's class with an attribute ``parity``."""

    parity: str

    def __call__(self, img: Any) -> Any:
        """Crop and resize an image."""
        i, j, h, w = self.get_params(img, self.scale, self.ratio)
        return functional.resized_crop(img, i, j, h, w, self.size, _draw(self.interpolation), parity=self.parity)


class ResizeKeepRatio(transforms.ResizeKeepRatio):
    """timm's class with an attribute ``parity``."""

    parity: str

    def __call__(self, img: Any) -> Any:
        """Resize an image."""
        size = self.get_params(
            img,
            self.size,
            self.longest,
            self.random_scale_prob,
            self.random_scale_range,
            self.random_scale_area,
            self.random_aspect_prob,
            self.random_aspect_range,
        )
        return functional.resize(img, size, _draw(self.interpolation), parity=self.parity)


class ResizeToSequence(naflex_transforms.ResizeToSequence):
    """timm's class with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Any:
        """Resize an image."""
        _, size = naflex_transforms.get_image_size_for_seq(
            v1.get_dimensions(img)[1:],
            self.patch_size,
            self.max_seq_len,
            divisible_by_patch=self.divisible_by_patch,
            max_ratio=self.max_ratio,
        )
        return functional.resize(img, size, _draw(self.interpolation), parity=self.parity)


class RandomResizedCropToSequence(naflex_transforms.RandomResizedCropToSequence):
    """timm's class with an attribute ``parity``."""

    parity: str

    def forward(self, img: Any) -> Any:
        """Crop and resize an image."""
        # timm leaves max_ratio out as well.
        crop, size, interpolation = self.get_params(
            img,
            scale=self.scale,
            ratio=self.ratio,
            crop_attempts=self.attempts,
            patch_h=self.patch_h,
            patch_w=self.patch_w,
            divisible_by_patch=self.divisible_by_patch,
            max_seq_len=self.max_seq_len,
            final_scale_range=self.final_scale_range,
            interpolation=self.interpolation,
        )
        return functional.resized_crop(img, *crop, size, interpolation, parity=self.parity)


class CenterCropOrPad(transforms.CenterCropOrPad):
    """timm's class that also pads tensors with a colour."""

    def forward(self, img: Any) -> Any:
        """Pad and crop an image."""
        if isinstance(img, Tensor) and isinstance(self.fill, Sequence):
            height, width = (max(0, out - side) for out, side in zip(self.size, img.shape[-2:], strict=True))
            padding = [width // 2, height // 2, (width + 1) // 2, (height + 1) // 2]
            img = v2.pad(img, padding, fill=list(self.fill), padding_mode=self.padding_mode)
        return super().forward(img)


class ToTensor(transforms.ToTensor):
    """timm's class that also takes tensors."""

    def __call__(self, pil_img: Any) -> Tensor:
        """Convert an image."""
        return pil_img.to(self.dtype) if isinstance(pil_img, Tensor) else super().__call__(pil_img)


class MaybeToTensor(transforms.MaybeToTensor):
    """timm's class that also scales uint8 tensors."""

    def __call__(self, pic: Any) -> Tensor:
        """Convert an image."""
        return functional.to_tensor(pic)


RESIZES: dict[Any, type] = {
    transforms.RandomResizedCropAndInterpolation: RandomResizedCropAndInterpolation,
    transforms.ResizeKeepRatio: ResizeKeepRatio,
    naflex_transforms.ResizeToSequence: ResizeToSequence,
    naflex_transforms.RandomResizedCropToSequence: RandomResizedCropToSequence,
}
CONVERSIONS: dict[Any, type] = {
    transforms.CenterCropOrPad: CenterCropOrPad,
    transforms.ToTensor: ToTensor,
    transforms.MaybeToTensor: MaybeToTensor,
}
