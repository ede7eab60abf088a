"""torchvision's functional resizing with this package's resampling: ``resize`` and what transforms share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as v1_functional
from torchvision.transforms.v2 import functional as v2_functional

from ..ops.band_matmul import is_channels_last
from ..resize import check_parity
from ..resize import resize as resize_image
from ..tracing import constant_while_traced

__all__ = ["resize"]

Size = int | Sequence[int] | None
Interpolation: TypeAlias = "str | InterpolationMode | int"

# InterpolationMode.NEAREST is not here: torch's legacy "nearest" takes the pixel under an output's top left corner.
_FILTERS = {
    InterpolationMode.NEAREST_EXACT: "nearest",
    InterpolationMode.BILINEAR: "bilinear",
    InterpolationMode.BICUBIC: "bicubic",
    InterpolationMode.BOX: "box",
    InterpolationMode.HAMMING: "hamming",
    InterpolationMode.LANCZOS: "lanczos",
}

_PILLOW_CONSTANTS = {
    0: InterpolationMode.NEAREST,
    1: InterpolationMode.LANCZOS,
    2: InterpolationMode.BILINEAR,
    3: InterpolationMode.BICUBIC,
    4: InterpolationMode.BOX,
    5: InterpolationMode.HAMMING,
}

# Integers that float32 does not hold.
_WIDE = (torch.int32, torch.int64, torch.uint32, torch.uint64)


def resize(
    inpt: Any,
    size: Size,
    interpolation: Interpolation = "bilinear",
    max_size: int | None = None,
    antialias: bool | None = True,
    *,
    parity: str | None = None,
) -> Any:
    """Resize as ``torchvision.transforms.v2.functional.resize``, images by this package.

    Tensors, ``tv_tensors.Image`` and ``Video`` are resampled by ``learned_resizer_cuda.resize``, with gradients.
    torchvision resizes the rest: PIL images by Pillow, masks by nearest, boxes and key points by scaling, subclasses of
    its tensor classes by their registered kernels. The output size is torchvision's, and an image of that size already
    is returned itself.

    Args:
        inpt: a tensor ``(..., C, H, W)`` or anything else that torchvision's ``resize`` takes. A tensor has a
            floating-point dtype of ``learned_resizer_cuda.resize`` or is bool or an integer. Integers other than uint8
            are resampled in floating point, rounded half to even and saturated; a bool is true where any true pixel
            has a weight.
        size: ``(height, width)``; an int or ``[int]`` for the shorter side; or None, with ``max_size``.
        interpolation: an ``InterpolationMode``, its name or Pillow's constant. ``"nearest"`` is torchvision's legacy
            mode, resampled by torchvision (under ``parity="pillow"``: Pillow's nearest); ``"nearest-exact"`` is this
            package's ``"nearest"``, another pixel than torch's where torch rounds a coordinate across an edge. Box,
            Hamming, and lanczos on any device and without ``antialias`` also for tensors.
        max_size: limit of the longer side, if ``size`` is an int or None.
        antialias: widen the filter when shrinking a tensor; None is False.
        parity: arithmetic for uint8 tensors, as in ``learned_resizer_cuda.resize``, each channel by itself.
            ``None`` is torchvision's: its own kernels where it has them for uint8 on a CPU, which are several times
            faster than this package's there, and elsewhere ``"pillow-12"``, within a level of them on photographs
            except for a few bytes in a million. ``"pillow"`` gives the bytes of Pillow 13, ``"pillow-12"`` those of
            Pillow up to 12, on every device; ``"exact"`` rounds once.

    Returns:
        What was given, with the class, dtype, device and memory format it had, at the new size. Deterministic.

    Raises:
        TypeError: for an ``inpt`` that torchvision does not take, a tensor of another dtype, or a ``size``,
            ``max_size`` or ``antialias`` of another type.
        ValueError: for sizes below 1, an unknown ``interpolation`` or ``parity``, a tensor of fewer than three
            dimensions or with an empty side, or a ``max_size`` that is not above ``size``.

    Examples:
        An int is the shorter side, of tensors and of PIL images:

        >>> import torch
        >>> from torchvision.transforms.v2.functional import to_pil_image
        >>> from learned_resizer_cuda.transforms.functional import resize
        >>> photo = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
        >>> resize(photo, 20, interpolation="lanczos").shape
        torch.Size([3, 20, 30])
        >>> resize(to_pil_image(photo), 20, max_size=24).size  # width, height
        (24, 16)

        Masks keep their labels:

        >>> from torchvision import tv_tensors
        >>> labels = tv_tensors.Mask(torch.tensor([[[0, 0, 7, 7], [0, 0, 7, 7]]]))
        >>> resize(labels, (1, 3)).tolist()
        [[[0, 0, 7]]]
    """
    check_size(size, max_size)
    check_antialias(antialias)
    if parity is not None:
        check_parity(parity)
    mode = interpolation_mode(interpolation)
    name = "nearest" if mode is InterpolationMode.NEAREST and parity == "pillow" else _FILTERS.get(mode)
    if name is None or not is_image(inpt):
        return v2_functional.resize(inpt, size, interpolation=mode, max_size=max_size, antialias=antialias)
    image = inpt.as_subclass(Tensor) if isinstance(inpt, tv_tensors.TVTensor) else inpt
    if image.dim() < 3 or 0 in image.shape[-2:]:
        raise ValueError(
            f"image: got shape {tuple(image.shape)}; expected (..., C, H, W) with sides of at least 1 pixel"
        )
    # torchvision's rule, applied to an image without channels.
    empty = torch.empty((0, *image.shape[-2:]), device="meta")
    height, width = v2_functional.resize(empty, size, InterpolationMode.NEAREST, max_size).shape[-2:]
    if (height, width) == tuple(image.shape[-2:]):
        return inpt
    if parity is None and image.dtype == torch.uint8 and image.is_cpu and _torchvision_takes(mode, bool(antialias)):
        return v2_functional.resize(inpt, [height, width], mode, antialias=antialias)
    out = _resize_channels(image, (height, width), name, bool(antialias), parity or "pillow-12")
    return out if image is inpt else tv_tensors.wrap(out, like=inpt)


@constant_while_traced
def _torchvision_takes(mode: InterpolationMode, antialias: bool) -> bool:
    """Whether torchvision has a kernel for uint8 on a CPU."""
    return _tried(mode, antialias)


@cache
def _tried(mode: InterpolationMode, antialias: bool) -> bool:
    try:
        v2_functional.resize(torch.zeros(1, 2, 2, dtype=torch.uint8), [1, 1], mode, antialias=antialias)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _resize_channels(image: Tensor, size: tuple[int, int], name: str, antialias: bool, parity: str) -> Tensor:
    """``learned_resizer_cuda.resize`` for any number of channels and more dtypes."""
    options: dict[str, Any] = {"interpolation": name, "antialias": antialias}
    dtype = image.dtype
    if dtype == torch.uint8:
        if name == "nearest" and parity == "pillow-12":
            parity = "exact"  # torch's coordinates are products; Pillow's add up rounding errors
        if parity == "exact" or name == "nearest" or image.shape[-3] not in (2, 4):
            return resize_image(image, size, parity=parity, **options)
        # Every channel an image of its own: together they are LA or RGBA.
        out = resize_image(image.unsqueeze(-3), size, parity=parity, **options).squeeze(-3)
        return out.movedim(-3, -1).contiguous().movedim(-1, -3) if is_channels_last(image) else out
    if dtype.is_floating_point or dtype.is_complex:
        return resize_image(image, size, **options)
    out = resize_image(image.to(torch.float64 if dtype in _WIDE else torch.float32), size, **options)
    if dtype != torch.bool:
        out = out.round().clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return out.to(dtype)


def resized_crop(
    inpt: Any,
    top: int,
    left: int,
    height: int,
    width: int,
    size: Size,
    interpolation: Interpolation = "bilinear",
    antialias: bool | None = True,
    *,
    parity: str | None = None,
) -> Any:
    """Crop, then ``resize``: as ``torchvision.transforms.v2.functional.resized_crop``."""
    if not is_image(inpt):
        options: dict[str, Any] = {"interpolation": interpolation_mode(interpolation), "antialias": antialias}
        return v2_functional.resized_crop(inpt, top, left, height, width, size, **options)
    crop = v2_functional.crop(inpt, top, left, height, width)
    return resize(crop, size, interpolation, antialias=antialias, parity=parity)


def to_tensor(picture: Any) -> Tensor:
    """torchvision's ``to_tensor`` that also scales uint8 tensors to [0, 1]; others pass."""
    if not isinstance(picture, Tensor):
        return v1_functional.to_tensor(picture)
    return picture.to(torch.get_default_dtype()).div(255) if picture.dtype == torch.uint8 else picture


def is_image(inpt: Any) -> bool:
    """Whether this package resamples ``inpt``; torchvision dispatches the rest.

    Subclasses of torchvision's classes may have kernels of their own.
    """
    if isinstance(inpt, tv_tensors.TVTensor):
        return type(inpt) in (tv_tensors.Image, tv_tensors.Video)
    return isinstance(inpt, Tensor)


def interpolation_mode(interpolation: Interpolation) -> InterpolationMode:
    """The ``InterpolationMode`` of a mode, its name or Pillow's constant, or raise."""
    if isinstance(interpolation, InterpolationMode):
        return interpolation
    by_name = {mode.value: mode for mode in InterpolationMode}
    known: dict[Any, InterpolationMode] = by_name if isinstance(interpolation, str) else _PILLOW_CONSTANTS
    if not isinstance(interpolation, (str, int)) or isinstance(interpolation, bool) or interpolation not in known:
        raise ValueError(
            f"interpolation: got {interpolation!r}; expected an InterpolationMode, one of "
            f"{', '.join(map(repr, by_name))}, or a constant of PIL.Image.Resampling"
        )
    return known[interpolation]


def check_size(size: Size, max_size: int | None) -> None:
    """Raise for sizes that torchvision's rule does not take, naming them."""
    expected = "expected a positive int, a sequence of one or two of them, or None with max_size"
    sides = size if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    if size is None:
        if max_size is None:
            raise ValueError(f"size: got None and max_size None; {expected}")
    elif any(isinstance(side, bool) or not isinstance(side, (int, torch.SymInt)) for side in sides):
        raise TypeError(f"size: got {size!r}; {expected}")
    elif len(sides) not in (1, 2) or any(side < 1 for side in sides):  # type: ignore[operator]
        raise ValueError(f"size: got {size!r}; {expected}")
    if max_size is None:
        return
    expected = f"expected None or a positive int, above a size of one int ({size!r})"
    if isinstance(max_size, bool) or not isinstance(max_size, (int, torch.SymInt)):
        raise TypeError(f"max_size: got {max_size!r}; {expected}")
    if max_size < 1 or len(sides) == 2 or (sides[0] is not None and max_size <= sides[0]):
        raise ValueError(f"max_size: got {max_size!r}; {expected}")


def check_antialias(antialias: bool | None) -> None:
    """Raise unless ``antialias`` is a bool or None."""
    if antialias is not None and not isinstance(antialias, bool):
        raise TypeError(f"antialias: got {antialias!r}; expected True, False or None")
