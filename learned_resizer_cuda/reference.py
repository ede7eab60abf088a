"""The learned resizer as a plain torch.nn composition: the oracle that ``FusedResizer`` is held against.

Talebi & Milanfar, "Learning to Resize Images for Computer Vision Tasks", ICCV 2021 (arXiv 2103.09950)::

    x ─┬─ R(x) ──────────────────────────────────────────────────────────────────┐
       └─ Conv7×7+b → LReLU → Conv1×1+b → LReLU → BN → R = f ─┬─ Block×r ─ Conv3×3 → BN ─ + ─ Conv7×7+b ─ + → y
                                                              └───────── feature skip ────┘
    Block(z) = z + BN(Conv3×3(LReLU(BN(Conv3×3(z)))))
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .resize import Size, check_antialias, check_interpolation, check_size, resize


class Block(nn.Module):
    """Residual block at output resolution, ``z + BN(Conv3×3(LReLU(BN(Conv3×3(z)))))``; no activation after the add.

    Args:
        num_filters: channels in and out.
        negative_slope: of the LeakyReLU.
    """

    def __init__(self, num_filters: int, negative_slope: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_filters, num_filters, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_filters)
        self.act = nn.LeakyReLU(negative_slope)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_filters)

    def forward(self, z: Tensor) -> Tensor:
        """``(B, num_filters, h, w)`` → the same shape."""
        return z + self.norm2(self.conv2(self.act(self.norm1(self.conv1(z)))))


class Resizer(nn.Module):
    """Learned resizer, every layer a torch.nn module and every intermediate a tensor.

    Args:
        size: output size, an int for both sides or ``(height, width)``.
        in_channels: channels of the image, in and out.
        num_filters: channels n of the feature maps.
        num_blocks: residual blocks r at output resolution.
        interpolation: filter of R, ``"bilinear"`` (the paper's), ``"bicubic"`` or ``"lanczos"``.
        antialias: widen R's filter when shrinking; ``False`` reproduces the paper.
        negative_slope: of every LeakyReLU, at least 0.
        zero_init: zero the last convolution, so that the module starts as exactly ``resize``.
        mean, std: of each channel, for uint8 images: they are taken as ``(image / 255 - mean) / std``. Without them
            uint8 images are refused. Images of other dtypes are not changed.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.
    """

    image_mean: Tensor | None
    image_std: Tensor | None

    def __init__(
        self,
        size: Size,
        *,
        in_channels: int = 3,
        num_filters: int = 16,
        num_blocks: int = 1,
        interpolation: str = "bilinear",
        antialias: bool = True,
        negative_slope: float = 0.2,
        zero_init: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.size = check_size(size)
        self.in_channels = _check_count("in_channels", in_channels)
        self.num_filters = _check_count("num_filters", num_filters)
        self.num_blocks = _check_count("num_blocks", num_blocks, least=0)
        self.interpolation = check_interpolation(interpolation)
        self.antialias = check_antialias(antialias)
        self.negative_slope = _check_slope(negative_slope)
        n = self.num_filters
        self.conv1 = nn.Conv2d(self.in_channels, n, 7, padding=3)
        self.conv2 = nn.Conv2d(n, n, 1)
        self.act = nn.LeakyReLU(self.negative_slope)
        self.norm1 = nn.BatchNorm2d(n)
        self.blocks = nn.ModuleList(Block(n, self.negative_slope) for _ in range(self.num_blocks))
        self.conv3 = nn.Conv2d(n, n, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n)
        self.conv4 = nn.Conv2d(n, self.in_channels, 7, padding=3)
        # Not of the state: they belong to the images, not to what was learned.
        for name, value in _check_normalisation(mean, std, self.in_channels).items():
            self.register_buffer(f"image_{name}", value, persistent=False)
        if zero_init:
            nn.init.zeros_(self.conv4.weight)
            nn.init.zeros_(cast(Tensor, self.conv4.bias))

    def forward(self, image: Tensor, size: Size | None = None) -> Tensor:
        """Resize a batch of images.

        Args:
            image: ``(B, in_channels, H, W)``, in the dtype of the weights or under autocast; or uint8 where the module
                was made with ``mean`` and ``std``.
            size: output size of this call instead of the module's.

        Returns:
            ``(B, in_channels, height, width)``.

        Raises:
            TypeError, ValueError: for an image or size that does not fit, naming what was expected.
        """
        height, width = self.check_input(image, size)
        image = self.normalised(image)
        f = self.norm1(self.act(self.conv2(self.act(self.conv1(image)))))
        f = self._interpolate(f, height, width)
        z = f
        for block in self.blocks:
            z = block(z)
        z = self.norm2(self.conv3(z)) + f
        return self.conv4(z) + self._interpolate(image, height, width)

    def _interpolate(self, x: Tensor, height: int, width: int) -> Tensor:
        # torch's own resampling, so that the oracle does not share the tables it is to check; torch has lanczos
        # on some devices and versions only.
        if self.interpolation == "lanczos":
            return resize(x, (height, width), interpolation="lanczos", antialias=self.antialias)
        if width == 1 and height > 1:
            # torch <= 2.15 resamples rows wrongly on a CPU where the output is one pixel wide, not one pixel high.
            return self._interpolate(x.mT.contiguous(), width, height).mT
        # torch's antialiasing on a CPU knows no half types.
        wide = x.float() if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16) else x
        out = F.interpolate(wide, (height, width), mode=self.interpolation, antialias=self.antialias)
        return out.to(x.dtype)

    def normalised(self, image: Tensor) -> Tensor:
        """A uint8 image as ``(image / 255 - mean) / std`` in the parameters' dtype; any other as it is."""
        if image.dtype != torch.uint8 or self.image_mean is None or self.image_std is None:
            return image
        dtype = self.conv1.weight.dtype
        mean, std = (v.to(dtype).view(-1, 1, 1) for v in (self.image_mean, self.image_std))
        return (image.to(dtype) / 255 - mean) / std

    def check_input(self, image: Tensor, size: Size | None) -> tuple[int, int]:
        """Return the output size of a call, or raise what is wrong with its arguments."""
        if not isinstance(image, Tensor):
            raise TypeError(f"image: got {type(image).__name__}; expected a torch.Tensor (B, C, H, W)")
        channels = self.in_channels
        if image.dim() != 4 or image.shape[1] != channels or 0 in image.shape[2:]:
            raise ValueError(
                f"image: got shape {tuple(image.shape)}; expected (B, {channels}, H, W) with sides of at least 1"
            )
        weight = self.conv1.weight
        if image.device != weight.device:
            raise ValueError(
                f"image: got a tensor on {image.device}; expected it on {weight.device}, with the parameters"
            )
        device = image.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # not for "meta"
        if image.dtype == torch.uint8:
            if self.image_mean is None:
                raise TypeError(
                    f"image: got dtype torch.uint8; expected {weight.dtype}, the dtype of the parameters, or a module "
                    "made with mean= and std= for uint8 images"
                )
        elif image.dtype != weight.dtype and not (autocast and image.is_floating_point()):
            raise TypeError(
                f"image: got dtype {image.dtype}; expected {weight.dtype}, the dtype of the parameters"
                + ("" if image.is_floating_point() else " (scale integer images to it first)")
            )
        return self.size if size is None else check_size(size)

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, interpolation={self.interpolation!r}, antialias={self.antialias}, "
            f"negative_slope={self.negative_slope}"
        )


def _check_count(name: str, value: int, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}: got {value!r}; expected an int of at least {least}")
    if value < least:
        raise ValueError(f"{name}: got {value!r}; expected an int of at least {least}")
    return int(value)


def _check_slope(value: float) -> float:
    expected = "expected a finite number of at least 0"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"negative_slope: got {value!r}; {expected}")
    if not (math.isfinite(value) and value >= 0):
        # A negative slope would hide the input's sign in the output, from which the backward takes it.
        raise ValueError(f"negative_slope: got {value!r}; {expected}")
    return float(value)


def _check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> dict[str, Tensor | None]:
    if (mean is None) != (std is None):
        raise ValueError(f"mean, std: got {mean!r} and {std!r}; expected both or neither")
    result: dict[str, Tensor | None] = {}
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            result[name] = None
            continue
        expected = f"expected {channels} finite numbers" + (" above 0" if name == "std" else "")
        try:
            numbers_ = [float(v) for v in value]
        except TypeError as error:
            raise TypeError(f"{name}: got {value!r}; {expected}") from error
        if len(numbers_) != channels or not all(math.isfinite(v) and (name == "mean" or v > 0) for v in numbers_):
            raise ValueError(f"{name}: got {value!r}; {expected}")
        result[name] = torch.tensor(numbers_, dtype=torch.float32)
    return result
