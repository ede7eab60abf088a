"""``stem``: everything at input resolution, from image to resized feature and statistics.

Forward, for an image x and the resampling R::

    a = lrelu(W0 * x + b0)        7×7, zero padding
    c = lrelu(W1 a + b1)          1×1
    z = R c                       (the batch normalisation that follows c commutes with R, whose rows sum to 1)
    mean, var = mean and biased variance of c over the M pixels of all images

Each image is its region, as if cropped and mirrored before: the padding is around the crop, and M counts its pixels.

Adjoint, for dz, dmean, dvar::

    dc  = Rᵀ dz + dmean / M + 2 (c - mean) / M · dvar
    dc' = dc · lrelu'(c);   dW1 = Σ dc' aᵀ,   db1 = Σ dc',   da = W1ᵀ dc'
    da' = da · lrelu'(a);   dW0 = Σ da' ⋆ x,  db0 = Σ da',   dx = W0ᵀ * da'   (only if asked for)

The adjoint recomputes a and c from the images. Both run tile by tile: no tensor with n channels at input resolution
outlives a tile, whatever the image's size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .band_matmul import accumulate_rows, resample_planes, resample_rows
from .bands import Bands, get_bands
from .layout import channels_last, leaky_relu_backward_, maps, rows, sum_pixels
from .parallel import group_elements, map_in_order
from .regions import Region
from .statistics import Statistics, StatisticsGrad, accumulation_dtype, add_statistics_grad

# Elements of a feature map in a tile on a CPU: a tile's few maps stay in a core's cache, and freed ones are reused.
_TILE_ELEMENTS = 512 * 1024
_LEAST_TILE_ROWS = 16


class StemWeights(NamedTuple):
    """Parameters of both convolutions."""

    w0: Tensor  # (n, C, 7, 7); all of any float dtype and strides
    b0: Tensor
    w1: Tensor  # (n, n, 1, 1)
    b1: Tensor


class StemOptions(NamedTuple):
    """Output size, filter and settings."""

    height: int
    width: int
    interpolation: str
    antialias: bool
    negative_slope: float


class Stem(NamedTuple):
    """Arguments of ``stem``."""

    images: list[Tensor]  # each (b_i, C, H_i, W_i), any strides; uint8, or a float dtype. Of all, B images
    regions: list[Region]  # of each tensor, what is resized: as if cropped and mirrored before
    weights: StemWeights
    options: StemOptions
    dtype: torch.dtype  # of the features
    # (C,), for uint8 images.
    image_mean: Tensor | None
    image_std: Tensor | None


class StemBackward(NamedTuple):
    """Arguments of ``stem_backward``."""

    grad_z: Tensor  # (B, n, h, w), channels_last, of the features' dtype
    statistics_grad: StatisticsGrad | None  # None: without statistics
    forward: Stem
    image_grads: list[bool]  # of each tensor of images, whether its gradient is wanted


class _Tile(NamedTuple):
    """Images of one tensor, or the rows ``top:bottom`` of one image's crop."""

    tensor: int  # its index
    first: int  # of its images, to last
    last: int
    top: int
    bottom: int
    out: slice  # of the images in the batch
    whole: bool


def _groups(a: Stem, num_filters: int) -> list[list[_Tile]]:
    """Groups of tiles: one tile of whole images, or one image's rows."""
    groups: list[list[_Tile]] = []
    begin = 0
    for index, (image, region) in enumerate(zip(a.images, a.regions, strict=True)):
        batch, height, width = image.shape[0], region.height, region.width
        elements = group_elements(_TILE_ELEMENTS, image.device)
        step = elements // (height * width * num_filters)
        rows = height
        if not step:
            step, rows = 1, max(_LEAST_TILE_ROWS, elements // (width * num_filters))
            # Equal tiles: a thin last one costs as many calls.
            rows = -(-height // -(-height // rows))
        for first in range(0, batch, step):
            last = min(first + step, batch)
            out = slice(begin + first, begin + last)
            groups.append(
                [
                    _Tile(index, first, last, top, min(top + rows, height), out, rows >= height)
                    for top in range(0, height, rows)
                ]
            )
        begin += batch
    return groups


def normalised(image: Tensor, dtype: torch.dtype, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """``(image/255 - mean) / std`` per channel of uint8 images; others unchanged.

    Raises:
        ValueError: for a uint8 image without mean and std.
    """
    if image.dtype != torch.uint8:
        return image
    if mean is None or std is None:
        raise ValueError("stem: got a uint8 image without image_mean and image_std; expected both")
    return normalise(image, dtype, mean, std)


def normalise(levels: Tensor, dtype: torch.dtype, mean: Tensor, std: Tensor) -> Tensor:
    """``(levels/255 - mean) / std`` per channel, in ``dtype``."""
    scale = 1 / (255 * std.to(accumulation_dtype(dtype)))
    shift = -mean.to(scale.dtype) / std.to(scale.dtype)
    return torch.addcmul(shift.view(-1, 1, 1), levels.to(scale.dtype), scale.view(-1, 1, 1)).to(dtype)


def _halo(a: Stem, tile: _Tile) -> Tensor:
    """A tile of the crop with the 7×7 kernel's 3-row halo, zero-padded."""
    region = a.regions[tile.tensor]
    above, below = min(tile.top, 3), min(region.height - tile.bottom, 3)
    rows = _of_crop(a.images[tile.tensor], region, tile, above, below)
    if region.flip:
        rows = rows.flip(-1)
    rows = normalised(rows, a.dtype, a.image_mean, a.image_std).to(a.dtype)
    return F.pad(rows, (0, 0, 3 - above, 3 - below))


def _of_crop(image: Tensor, region: Region, tile: _Tile, above: int, below: int) -> Tensor:
    """View of a tile's rows and some around them, not mirrored."""
    top, left = region.top, region.left
    rows = slice(top + tile.top - above, top + tile.bottom + below)
    return image[tile.first : tile.last, :, rows, left : left + region.width]


def _forward_features(x: Tensor, weights: StemWeights, slope: float, dtype: torch.dtype) -> Tensor:
    """``c (K, n, T, W)``, channels_last, from a tile's rows with halo."""
    # Interleaved: oneDNN's 16-bit convolution of planes takes up to three times as long for some widths.
    a = F.conv2d(channels_last(x), channels_last(weights.w0), weights.b0, padding=(0, 3))
    pixels = rows(F.leaky_relu_(a, slope).to(dtype))
    return _pointwise(pixels.view(len(a), -1, a.shape[1]), a.shape[3], weights, slope)


def _features(x: Tensor, weights: StemWeights, slope: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``a`` and ``c`` of a tile for the adjoint.

    ``a`` is in planes, ``c`` channels_last: oneDNN's 7×7 weight gradient is fastest on planes, the resampling on
    interleaved channels. The 1×1 convolution, a matrix product over the channels, turns one into the other.
    """
    a = F.leaky_relu_(F.conv2d(x, weights.w0, weights.b0, padding=(0, 3)), slope).to(dtype).contiguous()
    return a, _pointwise(a.flatten(2).mT, a.shape[3], weights, slope)


def _pointwise(a: Tensor, width: int, weights: StemWeights, slope: float) -> Tensor:
    """``c`` from ``a (K, T*W, n)``."""
    images, pixels, n = a.shape
    weight = weights.w1.to(a.dtype).view(n, n).t().expand(images, n, n)
    c = F.leaky_relu_(torch.baddbmm(weights.b1.to(a.dtype), a, weight), slope)
    return maps(c.view(images, pixels // width, width * n), n)


def _cast(a: Stem) -> StemWeights:
    """Weights in the features' dtype, dense."""
    return StemWeights._make(p.to(a.dtype).contiguous() for p in a.weights)


def _tables(a: Stem, index: int) -> tuple[Bands, Bands]:
    """Tables of both axes of a tensor's images."""
    options, region = a.options, a.regions[index]
    rest = (options.interpolation, options.antialias, accumulation_dtype(a.dtype), a.images[index].device)
    return (
        get_bands(region.height, options.height, None, *rest, place=region.rows),
        get_bands(region.width, options.width, None, *rest, place=region.columns),
    )


def stem(a: Stem, z: Tensor, statistics: Tensor | None) -> None:
    """The stem in pure torch.

    Args:
        a: the arguments.
        z: the result, ``(B, n, height, width)``, channels_last, of the features' dtype.
        statistics: ``(3, n)``, float32 (float64 for float64), for mean, biased and unbiased variance of c.
    """
    options, weights, (batch, n), device = a.options, _cast(a), z.shape[:2], z.device
    dtype = accumulation_dtype(a.dtype)
    out = torch.zeros(batch, options.height, options.width * n, dtype=dtype, device=device)

    def per_group(tiles: list[_Tile]) -> Statistics:
        bands_h, bands_w = _tables(a, tiles[0].tensor)
        moments = Statistics(n, device)
        for tile in tiles:
            c = _forward_features(_halo(a, tile), weights, options.negative_slope, dtype)
            if statistics is not None:
                moments.add(c)
            if tile.whole:
                resample_planes(rows(c), out[tile.out], bands_h, bands_w, n)
            else:
                accumulate_rows(rows(c)[0], out[tile.out][0], bands_h, bands_w, n, tile.top)
        return moments

    total = Statistics(n, device)
    for moments in map_in_order(per_group, _groups(a, n), device):
        total.merge(moments)
    z.copy_(maps(out, n))
    if statistics is not None:
        total.write(statistics)


def stem_backward(a: StemBackward) -> tuple[list[Tensor | None], StemWeights]:
    """The adjoint in pure torch.

    Returns:
        dx like each tensor of images, if asked for, 0 outside its region; and the weights' gradients in their own
        dtypes and strides.
    """
    forward, options, device = a.forward, a.forward.options, a.grad_z.device
    weights = _cast(forward)
    w0, b0, w1, b1 = weights
    n = len(w0)
    dtype = accumulation_dtype(forward.dtype)
    dz = rows(a.grad_z.to(dtype))
    dxs = [
        torch.zeros_like(image, dtype=dtype) if wanted else None
        for image, wanted in zip(forward.images, a.image_grads, strict=True)
    ]

    def per_group(tiles: list[_Tile]) -> list[Tensor]:
        bands_h, bands_w = (table.transposed() for table in _tables(forward, tiles[0].tensor))
        dw0, db0, db1 = (torch.zeros_like(p, dtype=dtype) for p in (w0, b0, b1))
        dw1 = torch.zeros(n, n, dtype=dtype, device=device)
        for tile in tiles:
            x = _halo(forward, tile)
            features, c = _features(x, weights, options.negative_slope, dtype)
            dc = torch.empty_like(c)
            if tile.whole:
                resample_planes(dz[tile.out], rows(dc), bands_h, bands_w, n)
            else:
                resample_rows(dz[tile.out][0], rows(dc)[0], bands_h, bands_w, n, tile.top)
            if a.statistics_grad is not None:
                add_statistics_grad(dc, c, a.statistics_grad, out=dc)
            leaky_relu_backward_(dc, c, options.negative_slope)
            flat_dc = rows(dc).view(len(dc), -1, n)
            dw1 += torch.bmm(flat_dc.mT, features.flatten(2).mT).sum(0)
            db1 += sum_pixels(rows(dc), n)
            # da overwrites c: fresh memory costs page faults.
            da = rows(c).view(features.shape)
            torch.bmm(w1.to(dtype).view(n, n).t().expand(len(dc), n, n), flat_dc.mT, out=da.view(len(dc), n, -1))
            leaky_relu_backward_(da, features, options.negative_slope)
            db0 += da.sum((0, 2, 3))
            dx = dxs[tile.tensor]
            x = x.to(dtype).contiguous()
            # oneDNN's weight gradient of one or two channels takes two to five times as long as a matrix product, whose
            # 49 C columns are small beside the tile's maps for many filters only.
            product = x.shape[1] <= 2 and n >= 8 and device.type == "cpu"
            dx_halo, dw0_tile, _ = torch.ops.aten.convolution_backward(
                da, x, w0.to(dtype), None,
                [1, 1], [0, 3], [1, 1], False, [0, 0], 1, [dx is not None, not product, False],
            )  # fmt: skip
            dw0 += _weight_grad(da, x) if product else dw0_tile
            if dx is not None:
                _add_halo(dx, dx_halo, forward.regions[tile.tensor], tile)
        return [dw0, db0, dw1.view_as(w1), db1]

    sums = [torch.zeros_like(p, dtype=dtype) for p in weights]
    for grads in map_in_order(per_group, _groups(forward, n), device):
        for total, grad in zip(sums, grads, strict=True):
            total += grad
    found = StemWeights._make(torch.empty_like(p).copy_(g) for g, p in zip(sums, forward.weights, strict=True))
    return [None if dx is None else dx.to(image.dtype) for dx, image in zip(dxs, forward.images, strict=True)], found


def _weight_grad(da: Tensor, x: Tensor) -> Tensor:
    """``Σ da ⋆ x`` as a matrix product with the image's shifts.

    ``da (K, n, T, W)``, ``x (K, C, T + 6, W)`` → ``(n, C, 7, 7)``.
    """
    shifts = F.pad(x, (3, 3)).unfold(2, 7, 1).unfold(3, 7, 1)  # (K, C, T, W, 7, 7), a view
    columns = shifts.permute(0, 1, 4, 5, 2, 3).reshape(len(x), -1, da.shape[2] * da.shape[3])
    return torch.bmm(da.flatten(2), columns.mT).sum(0).view(-1, x.shape[1], 7, 7)


def _add_halo(dx: Tensor, dx_halo: Tensor, region: Region, tile: _Tile) -> None:
    """The adjoint of ``_halo``."""
    above, below = min(tile.top, 3), min(region.height - tile.bottom, 3)
    grad = dx_halo[:, :, 3 - above : dx_halo.shape[2] - 3 + below]
    target = _of_crop(dx, region, tile, above, below)
    target += grad.flip(-1) if region.flip else grad
