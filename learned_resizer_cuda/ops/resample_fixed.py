"""``resample_fixed``: Pillow's resizing of bytes, in its fixed-point arithmetic.

Along an axis of N pixels, with weights k that are whole numbers of 2⁻²² (``bands.get_fixed_bands``):

    y[o] = clip(⌊Σᵢ k[o, i] x[i] + 1/2⌋, 0, 255)

along the rows and then down the columns, each result a byte; Pillow 13 takes the columns first where the height
shrinks by more than twice as many pixels as the width. An axis that keeps its size is copied. With two or four channels
the last one is alpha: the others are multiplied by it before and divided by it after, in bytes as well. The function is
a step function: it has no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from .band_matmul import empty_image, is_selection, resample_along, resample_down, select_pixels
from .bands import FIXED_BITS, Bands, get_fixed_bands
from .dense import band_matrix, ratio
from .library import define, register_autocast, register_vmap
from .parallel import group_elements
from .statistics import has_float64

_ALPHA = (2, 4)

# Pixels that are resampled together: enough to hide the calls, few enough for their float64 copies to stay cached.
_GROUP_ELEMENTS = 1 << 18


class ResampleFixed(NamedTuple):
    """Arguments of ``resample_fixed``."""

    image: Tensor
    height: int
    width: int
    interpolation: str
    antialias: bool
    rows_first: bool


def takes_rows_first(in_size: tuple[int, int], out_size: tuple[int, int]) -> bool:
    """Whether Pillow 13 resamples along the rows first, as earlier ones always."""
    removed_h, removed_w = in_size[0] - out_size[0], in_size[1] - out_size[1]
    return not (removed_h > 0 and removed_h > 2 * removed_w)


def _resample_fixed(a: ResampleFixed) -> Tensor:
    image = a.image
    _check_dtype(image.dtype)
    native = backend.runs_native("resample_fixed", image.device, image.dtype)
    if image.numel() == 0:
        return empty_image(image, a.height, a.width)
    if image.shape[2:] == (a.height, a.width):
        return empty_image(image, a.height, a.width).copy_(image)
    has_alpha = image.shape[1] in _ALPHA and a.interpolation != "nearest"
    if has_alpha:
        a = a._replace(image=_premultiplied(image))
    if native:
        kernels = backend.kernel_module("resample_fixed")
        out = kernels.resample_fixed(a.image, *_tables(a, torch.device("cpu")), a.rows_first)
    elif has_float64(image.device):
        out = _by_tables(a)
    else:
        out = _by_tables(a._replace(image=a.image.cpu())).to(image.device)
    return empty_image(image, a.height, a.width).copy_(_unpremultiplied(out)) if has_alpha else out


def _tables(a: ResampleFixed, device: torch.device) -> tuple[Bands, Bands]:
    return (
        get_fixed_bands(a.image.shape[2], a.height, a.interpolation, a.antialias, str(device)),
        get_fixed_bands(a.image.shape[3], a.width, a.interpolation, a.antialias, str(device)),
    )


def _by_tables(a: ResampleFixed) -> Tensor:
    """Pure torch: sums in float64, which holds them exactly."""
    image = a.image
    bands_h, bands_w = _tables(a, image.device)
    if is_selection(bands_h) and is_selection(bands_w):
        return select_pixels(image, bands_h, bands_w)
    batch, channels, in_h, in_w = image.shape
    out = empty_image(image, a.height, a.width)
    if a.rows_first:
        between = image.new_empty(batch, channels, in_h, a.width)
        _resample_along(image, between, bands_w)
        _resample_down(between, out, bands_h)
    else:
        between = image.new_empty(batch, channels, a.height, in_w)
        _resample_down(image, between, bands_h)
        _resample_along(between, out, bands_w)
    return out


def _resample_along(image: Tensor, out: Tensor, bands: Bands) -> None:
    """Bytes ``out (B, C, H, w)`` of ``image (B, C, H, W)``."""
    batch, channels, height, width = image.shape
    for images, rows in _parts(batch, height, channels * max(width, bands.out_size), image.device):
        x = image[images, :, rows].to(torch.float64, memory_format=torch.contiguous_format)
        y = x.new_empty(*x.shape[:3], bands.out_size)
        resample_along(x.flatten(0, 2), y.flatten(0, 2), bands)
        out[images, :, rows] = _rounded(y)


def _resample_down(image: Tensor, out: Tensor, bands: Bands) -> None:
    """Bytes ``out (B, C, h, W)`` of ``image (B, C, H, W)``."""
    batch, channels, height, width = image.shape
    for images, columns in _parts(batch, width, channels * max(height, bands.out_size), image.device):
        x = image[images, :, :, columns].to(torch.float64, memory_format=torch.contiguous_format)
        y = x.new_empty(*x.shape[:2], bands.out_size, x.shape[3])
        resample_down(x.flatten(0, 1), y.flatten(0, 1), bands)
        out[images, :, :, columns] = _rounded(y)


def _parts(batch: int, lines: int, line: int, device: torch.device) -> list[tuple[slice, slice]]:
    """Groups of images, or of one image's lines, that fill a cache."""
    elements = group_elements(_GROUP_ELEMENTS, device)
    images = max(1, elements // (lines * line))
    step = lines if images > 1 else max(1, elements // line)
    return [
        (slice(first, first + images), slice(top, top + step))
        for first in range(0, batch, images)
        for top in range(0, lines, step)
    ]


def _rounded(sums: Tensor) -> Tensor:
    """Sums that a conversion to uint8 will round half up."""
    return sums.add_(0.5).clamp_(0, 255)


def _premultiplied(image: Tensor) -> Tensor:
    """Colours times alpha / 255, rounded: Pillow's modes La and RGBa."""
    colours, alpha = image[..., :-1, :, :].int(), image[..., -1:, :, :]
    product = colours * alpha + 128
    return torch.cat((((product + (product >> 8)) >> 8).to(torch.uint8), alpha), -3)


def _unpremultiplied(image: Tensor) -> Tensor:
    """Colours times 255 / alpha, rounded down; unchanged where alpha is 0."""
    colours, alpha = image[..., :-1, :, :].int(), image[..., -1:, :, :]
    quotient = colours * 255 // alpha.clamp(min=1).int()
    return torch.cat((torch.where(alpha == 0, colours, quotient).clamp(max=255).to(torch.uint8), alpha), -3)


def resample_fixed_dense(
    image: Tensor, height: int, width: int, interpolation: str, antialias: bool, rows_first: bool
) -> Tensor:
    """The op by plain operations, for images ``(..., C, H, W)``.

    Sizes may be symbolic: then an image with alpha that keeps its size is premultiplied like every other one, not
    copied. The bytes are the op's unless a weight is, to the last bits of a float64, halfway between two multiples of
    ``2**-22``: runtimes differ in them.
    """
    sizes = (*image.shape[-2:], height, width)
    if all(isinstance(side, int) for side in sizes) and sizes[:2] == sizes[2:]:
        return image.clone()
    has_alpha = image.shape[-3] in _ALPHA and interpolation != "nearest"
    x = (_premultiplied(image) if has_alpha else image).double()
    for axis, size in sorted(((-1, width), (-2, height)), reverse=rows_first):
        lines = x if axis == -1 else x.mT
        lines = torch.matmul(lines, _fixed_matrix(x.shape[axis], size, interpolation, antialias, x.device).mT)
        lines = torch.clamp(torch.floor(lines + 0.5), 0, 255)
        x = lines if axis == -1 else lines.mT
    out = x.to(torch.uint8)
    return _unpremultiplied(out) if has_alpha else out


def _fixed_matrix(in_size: int, out_size: int, interpolation: str, antialias: bool, device: torch.device) -> Tensor:
    """Dense matrix of ``get_fixed_bands``, computed in the graph; sizes may be symbolic."""
    if interpolation == "nearest":
        step = ratio(in_size, out_size, torch.float64, device)
        steps = torch.where(torch.arange(out_size, device=device) == 0, step / 2, step)
        place = torch.clamp(torch.floor(torch.cumsum(steps, 0)), max=in_size - 1)
        return (torch.arange(in_size, device=device) == place[:, None]).double()
    weight = band_matrix(in_size, out_size, None, interpolation, antialias, torch.float64, device)
    return torch.trunc(weight * 2**FIXED_BITS + torch.where(weight < 0, -0.5, 0.5)) / 2**FIXED_BITS


def resample_fixed_plainly(image: Tensor, reason: str, *parameters: Any) -> Tensor:
    """The op's result by plain operations, for images of any rank.

    Args:
        image: ``(..., C, H, W)``, uint8.
        reason: from ``transforms.transform_reason``.
        parameters: the op's other arguments.

    Raises:
        RuntimeError: under ``use_backend("native")``.
    """
    backend.refuse_native("resample_fixed", reason)
    if not has_float64(image.device):
        return resample_fixed_dense(image.cpu(), *parameters).to(image.device)
    return resample_fixed_dense(image, *parameters)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype != torch.uint8:
        raise TypeError(f"image: got dtype {dtype}; expected torch.uint8")


def _fake(a: ResampleFixed) -> Tensor:
    _check_dtype(a.image.dtype)
    return empty_image(a.image, a.height, a.width)


define("resample_fixed", ResampleFixed, "Tensor", run=_resample_fixed, fake=_fake)
register_vmap("resample_fixed")
register_autocast("resample_fixed")
