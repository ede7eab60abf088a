"""The learned resizer as a plain torch.nn composition: the oracle for ``FusedResizer``.

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
from typing import Any, cast

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function, has_torch_function_unary

from .ops.bands import RESIZER_INTERPOLATIONS
from .ops.dense import resample_dense
from .ops.library import autocasts
from .ops.regions import Region, regions
from .resize import Size, check_antialias, check_interpolation, check_size, resize
from .resize_batch import Boxes, Flip, check_boxes, check_flip

__all__ = ["Resizer"]


class Block(nn.Module):
    """Residual block at output resolution, ``z + BN(Conv3×3(LReLU(BN(Conv3×3(z)))))``; no activation afterwards.

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

    Talebi & Milanfar, ICCV 2021. ``FusedResizer`` computes the same function without the intermediates at input
    resolution, and has the same ``state_dict``. Deterministic where torch's convolutions are.

    Args:
        size: output size, an int for both sides or ``(height, width)``.
        in_channels: channels of the image, in and out.
        num_filters: channels n of the feature maps.
        num_blocks: residual blocks r at output resolution.
        interpolation: filter of R, ``"bilinear"`` (the paper's), ``"bicubic"`` or ``"lanczos"``.
        antialias: widen R's filter when shrinking; ``False`` reproduces the paper.
        negative_slope: of every LeakyReLU, at least 0.
        zero_init: zero the last convolution, so that the module starts as exactly ``resize``.
        mean: of each channel, with ``std``. uint8 images are normalised to ``(image / 255 - mean) / std``; without mean
            and std they are refused. Images of other dtypes are not changed.
        std: of each channel, above 0.

    Raises:
        TypeError, ValueError: naming the argument, its value and what was expected.

    Examples:
        The same function as ``FusedResizer``, up to float32's rounding:

        >>> import torch
        >>> from learned_resizer_cuda import FusedResizer, reference
        >>> oracle, resizer = reference.Resizer(16), FusedResizer(16)
        >>> resizer.load_state_dict(oracle.state_dict())
        <All keys matched successfully>
        >>> images = torch.rand(2, 3, 40, 32)
        >>> torch.allclose(resizer(images), oracle(images), rtol=0, atol=1e-4)
        True
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
        self.interpolation = check_interpolation(interpolation, RESIZER_INTERPOLATIONS)
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
        # Not in the state dict: they belong to the images, not to what is learned.
        for name, value in _check_normalisation(mean, std, self.in_channels).items():
            self.register_buffer(f"image_{name}", value, persistent=False)
        if zero_init:
            nn.init.zeros_(self.conv4.weight)
            nn.init.zeros_(cast(Tensor, self.conv4.bias))

    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        size: Size | None = None,
        *,
        boxes: Boxes | None = None,
        flip: Flip | None = None,
    ) -> Tensor:
        """Resize images, of one size or of any sizes.

        Of images of any sizes, ``norm1`` sees all pixels at once if it is or contains a batch normalisation of
        ``torch.nn``, as one image ``(1, num_filters, 1, pixels)``; otherwise one image at a time.

        Args:
            image: ``(B, in_channels, H, W)``, in the dtype of the weights or under autocast; or uint8, if the module
                has ``mean`` and ``std``. Or a list or tuple of B images ``(in_channels, H_i, W_i)``.
            size: output size of this call instead of the module's.
            boxes: ``(B, 4)``, of each image the region to resize, ``(top, left, height, width)`` in pixels, floats; on
                the CPU. As in ``FusedResizer``.
            flip: ``(B,)`` bools, which crops to mirror horizontally; on the CPU.

        Returns:
            ``(B, in_channels, height, width)``, in the dtype of the image, or of the weights for a uint8 one.

        Raises:
            TypeError, ValueError: for an unsuitable argument, naming it and what was expected.

        Examples:
            What a fixed filter does not need, and what ``FusedResizer`` never stores: maps at input resolution.

            >>> import torch
            >>> from learned_resizer_cuda import reference
            >>> oracle = reference.Resizer(16).eval()
            >>> hook = oracle.conv2.register_forward_hook(lambda module, args, output: print(output.shape))
            >>> oracle(torch.rand(2, 3, 48, 64)).shape
            torch.Size([2, 16, 48, 64])
            torch.Size([2, 3, 16, 16])

            Images of different sizes:

            >>> hook.remove()
            >>> oracle([torch.rand(3, 40, 30), torch.rand(3, 25, 50)], size=(12, 20)).shape
            torch.Size([2, 3, 12, 20])
        """
        sides = self._check_input(image, size)
        images, boxes, flip = as_list(image, boxes, flip)
        if images is None:
            whole = self._normalise(cast(Tensor, image))
            f, base = (self._interpolate(x, sides) for x in (self.norm1(self._stem(whole)), whole))
        else:
            places = regions([image.shape[1:] for image in images], boxes, flip)
            crops = [self._normalise(r.view(image).unsqueeze(0)) for image, r in zip(images, places, strict=True)]
            crops = [crop.flip(-1) if r.flip else crop for crop, r in zip(crops, places, strict=True)]
            f, base = (
                torch.cat([self._interpolate(x, sides, r) for x, r in zip(maps, places, strict=True)])
                for maps in (self._joint_norm1([self._stem(crop) for crop in crops]), crops)
            )
        z = f
        for block in self.blocks:
            z = block(z)
        z = self.norm2(self.conv3(z)) + f
        return self.conv4(z) + base

    def _stem(self, image: Tensor) -> Tensor:
        return self.act(self.conv2(self.act(self.conv1(image))))

    def _joint_norm1(self, features: list[Tensor]) -> list[Tensor]:
        """``norm1`` of maps ``(1, n, H_i, W_i)``, batch-normalised over all their pixels."""
        if not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.norm1.modules()):
            return [self.norm1(x) for x in features]
        pixels = [x.flatten(2) for x in features]
        normed = self.norm1(torch.cat(pixels, 2).unsqueeze(2)).squeeze(2)
        parts = normed.split([x.shape[2] for x in pixels], 2)
        return [part.reshape(x.shape) for part, x in zip(parts, features, strict=True)]

    def _interpolate(self, x: Tensor, sides: tuple[int, int], region: Region | None = None) -> Tensor:
        if region is None or region.rows is region.columns is None:
            return _interpolate(x, sides, self.interpolation, self.antialias)
        # torch's own takes no sub-pixel regions.
        places = (region.rows, region.columns)
        return resample_dense(x, *sides, None, None, self.interpolation, self.antialias, places).to(x.dtype)

    def _normalise(self, image: Tensor) -> Tensor:
        """uint8 images as ``(image/255 - mean)/std`` in the parameters' dtype; others unchanged."""
        if self.image_mean is None or self.image_std is None:
            return image
        like = self._parameter()
        dtype = torch.get_default_dtype() if like is None else like.dtype
        return _normalised(image, self.image_mean, self.image_std, dtype)

    def _check_input(self, image: Tensor | Sequence[Tensor], size: Size | None) -> tuple[int, int]:
        """Check image and size of a call, and return its output size."""
        if isinstance(image, torch.fx.Proxy):
            return _sides(size, self.size)
        like = self._parameter()
        # Only a plain convolution certainly refuses other devices and dtypes than its weight's: others may convert.
        plain = (
            type(self.conv1) is nn.Conv2d and not self.conv1._forward_pre_hooks and "forward" not in self.conv1.__dict__
        )
        like = like if plain else None
        if not isinstance(image, (list, tuple)):
            self._check_image("image", image, 4, like)
            return _sides(size, self.size)
        if not image:
            raise ValueError(f"images: got an empty {type(image).__name__}; expected at least one image")
        for index, each in enumerate(image):
            self._check_image(f"images[{index}]", each, 3, like)
            first = image[0]
            if each.dtype != first.dtype:
                raise TypeError(f"images[{index}]: got dtype {each.dtype}; expected {first.dtype}, as images[0]")
            if each.device != first.device:
                raise ValueError(
                    f"images[{index}]: got a tensor on {each.device}; expected it on {first.device}, as images[0]"
                )
        return _sides(size, self.size)

    def _check_image(self, name: str, image: Any, dim: int, like: Tensor | None) -> None:
        """Raise for an unsuitable image.

        ``like`` is the parameter whose device and dtype it must have, if known.
        """
        channels = self.in_channels
        shape = f"({'B, ' if dim == 4 else ''}{channels}, H, W)"
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}; expected a torch.Tensor {shape}")
        if image.dim() != dim or image.shape[-3] != channels or 0 in image.shape[-2:]:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}; expected {shape} with sides of at least 1")
        if like is None:
            return
        if image.device != like.device:
            raise ValueError(
                f"{name}: got a tensor on {image.device}; expected it on {like.device}, with the parameters"
            )
        if image.dtype == torch.uint8:
            if self.image_mean is None:
                raise TypeError(
                    f"{name}: got dtype torch.uint8; expected {like.dtype}, the dtype of the parameters, or a module "
                    "made with mean= and std= for uint8 images"
                )
        elif image.dtype != like.dtype and not (image.is_floating_point() and autocasts(image.device.type)):
            raise TypeError(
                f"{name}: got dtype {image.dtype}; expected {like.dtype}, the dtype of the parameters"
                + ("" if image.is_floating_point() else " (scale integer images to it first)")
            )

    def _parameter(self) -> Tensor | None:
        """Parameter of the module's device and dtype: conv1's weight, if a parameter.

        A dictionary look-up: reading a parametrised weight computes it, and with spectral normalisation changes it.
        """
        conv1 = self._modules.get("conv1")
        weight = None if conv1 is None else conv1._parameters.get("weight")
        return next(self.parameters(), None) if weight is None else weight

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, interpolation={self.interpolation!r}, antialias={self.antialias}, "
            f"negative_slope={self.negative_slope}"
        )


def as_list(
    image: Tensor | Sequence[Tensor], boxes: Boxes | None, flip: Flip | None
) -> tuple[Sequence[Tensor] | None, Tensor | None, Tensor | None]:
    """Images ``(C, H, W)`` of a call, its boxes and flips.

    As the ops take them; ``None`` instead of the images for a batch without boxes and flips.
    """
    if isinstance(image, torch.fx.Proxy):
        return _no_list(image, boxes, flip), None, None
    if boxes is flip is None:
        return (image if isinstance(image, (list, tuple)) else None), None, None
    if isinstance(image, Tensor) and not len(image):
        return None, None, None
    images = image.unbind() if isinstance(image, Tensor) else image
    return images, check_boxes(boxes, [image.shape[1:] for image in images]), check_flip(flip, len(images))


def _no_list(image: Tensor, boxes: Boxes | None, flip: Flip | None) -> None:
    # A node for FX, whose graph has the layers once.
    if has_torch_function((image, boxes, flip)):
        handle_torch_function(_no_list, (image, boxes, flip), image, boxes, flip)
    elif not (isinstance(image, Tensor) and boxes is flip is None):
        raise TypeError("images, boxes, flip: got them in a graph of torch.fx; expected a batch (B, C, H, W) alone")


def _interpolate(x: Tensor, sides: tuple[int, int], interpolation: str, antialias: bool) -> Tensor:
    # A single node for FX, which has no values yet to branch on.
    if has_torch_function((x, sides)):
        return handle_torch_function(_interpolate, (x, sides), x, sides, interpolation, antialias)
    height, width = sides
    # torch's own resampling, so that the oracle does not share the tables under test. torch has lanczos on some devices
    # and versions only.
    if interpolation == "lanczos":
        return resize(x, (height, width), interpolation="lanczos", antialias=antialias)
    if width == 1 and height > 1:
        # torch <= 2.15 resamples rows wrongly on a CPU if the output is one pixel wide, not if it is one pixel high.
        return _interpolate(x.mT.contiguous(), (width, height), interpolation, antialias).mT
    # torch's antialiasing on a CPU does not support half types.
    wide = x.float() if x.device.type == "cpu" and x.dtype in (torch.float16, torch.bfloat16) else x
    out = F.interpolate(wide, (height, width), mode=interpolation, antialias=antialias)
    return out.to(x.dtype)


def _normalised(image: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
    if has_torch_function_unary(image):
        return handle_torch_function(_normalised, (image,), image, mean, std, dtype)
    if image.dtype != torch.uint8:
        return image
    mean, std = (v.to(dtype).view(-1, 1, 1) for v in (mean, std))
    return (image.to(dtype) / 255 - mean) / std


def _sides(size: Size | None, default: tuple[int, int]) -> tuple[int, int]:
    """Output size of a call."""
    # FX traces an omitted argument too.
    if isinstance(size, torch.fx.Proxy):
        return handle_torch_function(_sides, (size,), size, default)
    return default if size is None else check_size(size)


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
        # The backward reads the input's sign from the output, which a negative slope would hide.
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
