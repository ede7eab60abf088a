"""``stem``: everything at input resolution, from the image to the resized feature and its statistics.

Forward, for an image x and the resampling R::

    a = lrelu(W0 * x + b0)        7×7, zero padding
    c = lrelu(W1 a + b1)          1×1
    z = R c                       (the batch normalisation that follows c commutes with R, whose rows sum to 1)
    mean, var = mean and biased variance of c over batch and pixels, M = B·H·W of them

Adjoint, for dz, dmean, dvar::

    dc  = Rᵀ dz + dmean / M + 2 (c - mean) / M · dvar
    dc' = dc · lrelu'(c);   dW1 = Σ dc' aᵀ,   db1 = Σ dc',   da = W1ᵀ dc'
    da' = da · lrelu'(a);   dW0 = Σ da' ⋆ x,  db0 = Σ da',   dx = W0ᵀ * da'   (only if asked for)

The adjoint recomputes a and c from the image. Both run tile by tile, so no tensor with n channels at input
resolution outlives one tile, whatever the image's size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backend
from .band_matmul import accumulate_rows, resample_planes, resample_rows
from .bands import Bands, get_bands
from .layout import feature_dtype, leaky_relu_backward_, maps, rows, sum_pixels
from .library import define, register_autocast, register_autograd, register_no_second_derivative
from .native_shapes import too_little_memory, unsupported
from .parallel import map_in_order
from .prologue import cast
from .statistics import Statistics, accumulation_dtype, add_statistics_grad

# Elements of one feature map in a tile. A tile's few maps then stay near the cores, and freed ones are used again.
_TILE_ELEMENTS = 512 * 1024
_LEAST_TILE_ROWS = 16

_PARAMETERS = "SymInt height, SymInt width, str interpolation, bool antialias, float negative_slope"


class _Tile(NamedTuple):
    """Whole images ``first:last``, or the rows ``top:bottom`` of one image."""

    first: int
    last: int
    top: int
    bottom: int
    whole: bool


def _groups(image: Tensor, num_filters: int) -> list[list[_Tile]]:
    """The batch as groups of images that fill a tile, or single images as lists of tiles of rows."""
    batch, _, height, width = image.shape
    images = _TILE_ELEMENTS // (height * width * num_filters)
    if images:
        starts = range(0, batch, images)
        return [[_Tile(first, min(first + images, batch), 0, height, True)] for first in starts]
    rows = max(_LEAST_TILE_ROWS, _TILE_ELEMENTS // (width * num_filters))
    # Equal tiles: a thin last one would cost as much in calls.
    rows = -(-height // -(-height // rows))
    return [
        [_Tile(index, index + 1, top, min(top + rows, height), rows >= height) for top in range(0, height, rows)]
        for index in range(batch)
    ]


def normalised(image: Tensor, dtype: torch.dtype, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """A uint8 image as ``(image / 255 - mean) / std`` per channel; any other as it is.

    Raises:
        ValueError: for a uint8 image without mean and std.
    """
    if image.dtype != torch.uint8:
        return image
    if mean is None or std is None:
        raise ValueError("stem: got a uint8 image without image_mean and image_std; expected both")
    scale = 1 / (255 * std.to(accumulation_dtype(dtype)))
    shift = -mean.to(scale.dtype) / std.to(scale.dtype)
    return torch.addcmul(shift.view(-1, 1, 1), image.to(scale.dtype), scale.view(-1, 1, 1)).to(dtype)


def _halo(image: Tensor, tile: _Tile, dtype: torch.dtype, *normalisation: Tensor | None) -> Tensor:
    """The tile's part of the image with the 3 rows above and below that the 7×7 kernel reads, zero beyond it."""
    height = image.shape[2]
    rows = image[tile.first : tile.last, :, max(tile.top - 3, 0) : min(tile.bottom + 3, height)]
    rows = normalised(rows, dtype, *normalisation)
    return F.pad(rows, (0, 0, max(3 - tile.top, 0), max(tile.bottom + 3 - height, 0)))


def _features(
    x: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor, slope: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``a`` and ``c`` of a tile from its rows with halo: ``a (K, n, T, W)`` as planes, ``c`` channels_last.

    Planes are what oneDNN's 7×7 weight gradient is fastest on; the 1×1 convolution, a matrix product over the
    channels, turns them into the interleaved channels that the resampling is fastest on.
    """
    a = F.leaky_relu_(F.conv2d(x, w0, b0, padding=(0, 3)), slope).to(dtype).contiguous()
    images, n, height, width = a.shape
    weight = w1.to(dtype).view(n, n).t().expand(images, n, n)
    c = F.leaky_relu_(torch.baddbmm(b1.to(dtype), a.flatten(2).mT, weight), slope)
    return a, maps(c.view(images, height, width * n), n)


def _tables(
    image: Tensor, dtype: torch.dtype, height: int, width: int, interpolation: str, antialias: bool
) -> tuple[Bands, Bands]:
    dtype = accumulation_dtype(dtype)
    return (
        get_bands(image.shape[2], height, None, interpolation, antialias, dtype, image.device),
        get_bands(image.shape[3], width, None, interpolation, antialias, dtype, image.device),
    )


def _stem(
    image: Tensor,
    w0: Tensor,
    b0: Tensor,
    w1: Tensor,
    b1: Tensor,
    height: int,
    width: int,
    interpolation: str,
    antialias: bool,
    negative_slope: float,
    statistics: bool,
    image_mean: Tensor | None = None,
    image_std: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, features = len(w0), feature_dtype(image, w0)
    bands_h, bands_w = _tables(image, features, height, width, interpolation, antialias)
    dtype = bands_h.weight.dtype
    z = torch.zeros(len(image), height, width * n, dtype=dtype, device=image.device)

    def work(tiles: list[_Tile]) -> Statistics:
        seen = Statistics(n, dtype, image.device)
        for tile in tiles:
            x = _halo(image, tile, features, image_mean, image_std)
            _, c = _features(x, w0, b0, w1, b1, negative_slope, dtype)
            if statistics:
                seen.add(c)
            if tile.whole:
                resample_planes(rows(c), z[tile.first : tile.last], bands_h, bands_w, n)
            else:
                accumulate_rows(rows(c)[0], z[tile.first], bands_h, bands_w, n, tile.top)
        return seen

    moments = Statistics(n, dtype, image.device)
    for seen in map_in_order(work, _groups(image, n), image.device):
        moments.merge(seen)
    return maps(z, n).to(features), *moments.result(statistics)


def _stem_backward(
    grad_z: Tensor,
    grad_mean: Tensor,
    grad_var: Tensor,
    image: Tensor,
    w0: Tensor,
    b0: Tensor,
    w1: Tensor,
    b1: Tensor,
    mean: Tensor,
    height: int,
    width: int,
    interpolation: str,
    antialias: bool,
    negative_slope: float,
    statistics: bool,
    image_grad: bool,
    image_mean: Tensor | None = None,
    image_std: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, features = len(w0), feature_dtype(image, w0)
    tables = _tables(image, features, height, width, interpolation, antialias)
    bands_h, bands_w = (table.transposed() for table in tables)
    dtype = bands_h.weight.dtype
    dz = rows(grad_z.to(dtype))
    dx = torch.zeros_like(image, dtype=dtype) if image_grad else image.new_empty(0)
    pixels = image.shape[0] * image.shape[2] * image.shape[3]

    def work(tiles: list[_Tile]) -> list[Tensor]:
        dw0, db0, db1 = (torch.zeros_like(p, dtype=dtype) for p in (w0, b0, b1))
        dw1 = torch.zeros(n, n, dtype=dtype, device=image.device)
        for tile in tiles:
            x = _halo(image, tile, features, image_mean, image_std)
            a, c = _features(x, w0, b0, w1, b1, negative_slope, dtype)
            dc = torch.empty_like(c)
            if tile.whole:
                resample_planes(dz[tile.first : tile.last], rows(dc), bands_h, bands_w, n)
            else:
                resample_rows(dz[tile.first], rows(dc)[0], bands_h, bands_w, n, tile.top)
            if statistics:
                add_statistics_grad(dc, c, mean, grad_mean, grad_var, pixels, out=dc)
            leaky_relu_backward_(dc, c, negative_slope)
            flat_dc = rows(dc).view(len(dc), -1, n)
            dw1 += torch.bmm(flat_dc.mT, a.flatten(2).mT).sum(0)
            db1 += sum_pixels(rows(dc), n)
            # da takes c's memory: fresh memory costs page faults.
            da = rows(c).view(a.shape)
            torch.bmm(w1.to(dtype).view(n, n).t().expand(len(dc), n, n), flat_dc.mT, out=da.view(len(dc), n, -1))
            leaky_relu_backward_(da, a, negative_slope)
            db0 += da.sum((0, 2, 3))
            dx_halo, dw0_tile, _ = torch.ops.aten.convolution_backward(
                da, x.to(dtype).contiguous(), w0.to(dtype).contiguous(), None,
                [1, 1], [0, 3], [1, 1], False, [0, 0], 1, [image_grad, True, False],
            )  # fmt: skip
            dw0 += dw0_tile
            if image_grad:
                _add_halo(dx, dx_halo, tile)
        return [dw0, db0, dw1.view_as(w1), db1]

    sums = [torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format) for p in (w0, b0, w1, b1)]
    for grads in map_in_order(work, _groups(image, n), image.device):
        for total, grad in zip(sums, grads, strict=True):
            total += grad
    dw0, db0, dw1, db1 = (g.to(p.dtype) for g, p in zip(sums, (w0, b0, w1, b1), strict=True))
    return dx.to(image.dtype), dw0, db0, dw1, db1


def _choose(op: str, image: Tensor, w0: Tensor) -> str:
    """Backend of a call; by the dtype of the features."""
    features = w0 if image.dtype == torch.uint8 else image
    if not features.is_cuda:
        return backend.choose(op, features)
    reason = unsupported("stem", len(w0), image.shape[1]) or too_little_memory(op, features, len(w0))
    return backend.choose(op, features, reason)


def _stem_cuda(image: Tensor, w0: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    if _choose("stem", image, w0) == "torch":
        return _stem(image, w0, *rest)
    from ..kernels import stem as kernel

    return kernel.stem(image, w0, *rest)


def _stem_backward_cuda(
    grad_z: Tensor, grad_mean: Tensor, grad_var: Tensor, image: Tensor, w0: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    grads = (grad_z, grad_mean, grad_var)
    if _choose("stem_backward", image, w0) == "torch":
        return _stem_backward(*grads, image, w0, *rest)
    from ..kernels import stem as kernel

    return kernel.stem_backward(*grads, image, w0, *rest)


def _add_halo(dx: Tensor, dx_halo: Tensor, tile: _Tile) -> None:
    height = dx.shape[2]
    top, bottom = max(tile.top - 3, 0), min(tile.bottom + 3, height)
    skip = max(3 - tile.top, 0)
    dx[tile.first : tile.last, :, top:bottom] += dx_halo[:, :, skip : skip + bottom - top]


def _fake_stem(
    image: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor, height: int, width: int, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    n, statistics, dtype = w0.shape[0], rest[3], feature_dtype(image, w0)
    z = image.new_empty(image.shape[0], height, width, n, dtype=dtype).permute(0, 3, 1, 2)
    vector = torch.empty(n if statistics else 0, dtype=accumulation_dtype(dtype), device=image.device)
    return z, vector, torch.empty_like(vector)


def _fake_stem_backward(
    grad_z: Tensor, grad_mean: Tensor, grad_var: Tensor, image: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    dx = torch.empty_like(image) if rest[11] else image.new_empty(0)
    return dx, *(torch.empty_like(p, memory_format=torch.contiguous_format) for p in rest[:4])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:5], output[1], *inputs[11:])
    ctx.parameters = inputs[5:11]


def _autograd(ctx: Any, grad_z: Tensor, grad_mean: Tensor, grad_var: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, image_mean, image_std = ctx.saved_tensors
    needed = ctx.needs_input_grad[0]
    dx, *grads = torch.ops.learned_resizer.stem_backward(
        grad_z, grad_mean, grad_var, *tensors, *ctx.parameters, needed, image_mean, image_std
    )
    return dx if needed else None, *grads, *(None,) * (len(ctx.parameters) + 2)


def _autocast(dtype: torch.dtype, *args: Any) -> tuple[Any, ...]:
    image, weights, rest = args[0], args[1:5], args[5:]
    # A uint8 image is converted as it loads.
    image = image if image.dtype == torch.uint8 else cast(dtype, image)
    return image, *(cast(dtype, t) for t in weights), *rest


_NORMALISATION = "Tensor? image_mean=None, Tensor? image_std=None"
_WEIGHTS = "Tensor w0, Tensor b0, Tensor w1, Tensor b1"
define(
    f"stem(Tensor image, {_WEIGHTS}, {_PARAMETERS}, bool statistics, {_NORMALISATION}) -> (Tensor, Tensor, Tensor)",
    cpu=_stem,
    cuda=_stem_cuda,
    fake=_fake_stem,
)
define(
    f"stem_backward(Tensor grad_z, Tensor grad_mean, Tensor grad_var, Tensor image, {_WEIGHTS}, Tensor mean, "
    f"{_PARAMETERS}, bool statistics, bool image_grad, {_NORMALISATION}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_stem_backward,
    cuda=_stem_backward_cuda,
    fake=_fake_stem_backward,
)
register_autograd("stem", _autograd, _setup_context)
register_no_second_derivative("stem_backward")
register_autocast("stem", _autocast)
register_autocast("stem_backward")
