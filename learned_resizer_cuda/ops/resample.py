"""``resample`` and its adjoint ``resample_backward``: both image axes times band matrices.

Forward ``y = R_h x R_wᵀ``, adjoint ``x̄ = R_hᵀ ȳ R_w``: the same computation with transposed tables, so each op is the
other's backward and every derivative exists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from .band_matmul import (
    TRANSPOSED_COUNT,
    apply_bands,
    empty_image,
    is_channels_last,
    is_selection,
    select_pixels,
)
from .bands import SUPPORT, Bands, get_bands
from .dense import resample_dense, resample_dense_backward
from .library import define, register_autocast, register_autograd, register_vmap
from .regions import Place
from .transforms import VMAP, transform_reason

# Dtypes that both implementations take.
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8)


class Sampling(NamedTuple):
    """Output size, filter and optional scale factors."""

    height: int
    width: int
    scale_h: float | None
    scale_w: float | None
    interpolation: str
    antialias: bool


class Resample(NamedTuple):
    """Arguments of ``resample``."""

    image: Tensor
    sampling: Sampling


class ResampleBackward(NamedTuple):
    """Arguments of ``resample_backward``: output size the image's, scale factors the forward's."""

    grad: Tensor
    sampling: Sampling


Places = tuple[Place | None, Place | None]
_WHOLE: Places = (None, None)


def _tables(a: Resample | ResampleBackward, device: torch.device, places: Places = _WHOLE) -> tuple[Bands, Bands]:
    image, (height, width, scale_h, scale_w, interpolation, antialias) = a
    rest = (interpolation, antialias, image.dtype, device)
    (in_h, in_w), (rows, columns) = image.shape[2:], places
    if isinstance(a, Resample):
        return get_bands(in_h, height, scale_h, *rest, rows), get_bands(in_w, width, scale_w, *rest, columns)
    return (
        get_bands(height, in_h, scale_h, *rest, rows).transposed(),
        get_bands(width, in_w, scale_w, *rest, columns).transposed(),
    )


def _native(op: str, a: Resample | ResampleBackward) -> Tensor | None:
    """The native kernel's result, or None if pure torch must run.

    Raises:
        RuntimeError: under ``use_backend("native")`` where the kernel cannot run.
    """
    image, _ = a
    _check_dtype(image.dtype)
    if not backend.runs_native(op, image.device, image.dtype):
        return None
    return backend.kernel_module("resample").resample(a)  # type: ignore[no-any-return]


def _by_tables(a: Resample | ResampleBackward, places: Places = _WHOLE) -> Tensor:
    """Pure torch, any device; sums in float32 (float64 for float64), rounded once."""
    image, _ = a
    bands = _tables(a, image.device, places)
    if all(is_selection(axis) for axis in bands):
        return select_pixels(image, *bands)
    if image.dtype in (torch.float32, torch.float64):
        return apply_bands(image, *bands)
    sums = rounded(apply_bands(image.float(), *bands), image.dtype)
    # float() keeps the order of the strides, which is not always the layout of outputs.
    return empty_image(image, *sums.shape[2:]).copy_(sums)


def rounded(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums, rounded to levels for uint8; overwrites them."""
    return sums.add_(0.5).floor_().clamp_(0, 255) if dtype == torch.uint8 else sums


def resample_plainly(image: Tensor, reason: str, *parameters: Any) -> Tensor:
    """The op's result by plain differentiable operations, for images of any rank.

    Args:
        image: ``(..., H, W)``, of one of the op's dtypes.
        reason: from ``transforms.transform_reason``.
        parameters: the op's other arguments.

    Raises:
        RuntimeError: under ``use_backend("native")``.
    """
    backend.refuse_native("resample", reason)
    return rounded(resample_dense(image, *parameters), image.dtype).to(image.dtype)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"image: got dtype {dtype}; expected {', '.join(str(d) for d in DTYPES)}")


def _matches_torch(image: Tensor, height: int, width: int, scale: tuple[float | None, float | None]) -> bool:
    """Whether torch's CPU kernel computes this resampling (float32, coordinates within the image)."""
    if image.dtype != torch.float32 or image.numel() == 0 or not image.is_cpu:
        return False
    # torch <= 2.15 resamples the rows wrongly if the output is one pixel wide. An image that keeps its size is copied.
    if width == 1 or image.shape[2:] == (height, width):
        return False
    sizes = ((image.shape[2], height), (image.shape[3], width))
    # Beyond the last pixel torch reads outside its window; the tables repeat the border. torch also skips an axis whose
    # size does not change, whatever the factor.
    return all(
        f is None or (out - 0.5 <= size * f and (size != out or f == 1.0))
        for (size, out), f in zip(sizes, scale, strict=True)
    )


def _along_one_axis(kernel: Any, image: Tensor, height: int, width: int, *scale: float | None) -> Tensor:
    """A torch kernel along the only axis that changes.

    Along the other axis its plain bicubic adds a pixel's neighbours times 0, which spreads a NaN.
    """
    if width == image.shape[3]:
        return _along_one_axis(kernel, image.mT, width, height, *reversed(scale)).mT
    lines = image.reshape(1, -1, 1, image.shape[3])
    out = lines.new_empty(1, lines.shape[1], 1, width)
    return kernel(lines, [1, width], False, None, scale[1], out=out).reshape(*image.shape[:3], width)


def _is_exact(size: int, out: int, factor: float | None) -> bool:
    """Whether float32 holds an axis's coordinates ``scale · (o + 1/2)`` exactly.

    It does for a scale of few binary digits.
    """
    scale = size / out if factor is None else 1.0 / factor
    # Of float32's 24 bits, at most 12 are before the binary point and 10 + 1 (for the half pixel) behind it.
    return scale * 2**10 == int(scale * 2**10) and scale < 2**10 and scale * out < 2**12 and out < 2**12


def _exact(a: Resample) -> bool:
    image, (height, width, scale_h, scale_w, *_) = a
    return _is_exact(image.shape[2], height, scale_h) and _is_exact(image.shape[3], width, scale_w)


def _tables_are_faster(image: Tensor, width: int, interpolation: str) -> bool:
    """Than torch's antialiased kernel: not where planes must be turned."""
    weights = 2 * SUPPORT[interpolation] * max(image.shape[3] / width, 1.0)
    return is_channels_last(image) or weights < TRANSPOSED_COUNT


def _resample(a: Resample) -> Tensor:
    native = _native("resample", a)
    return in_torch(a) if native is None else native


def in_torch(a: Resample | ResampleBackward, places: Places = _WHOLE, out: Tensor | None = None) -> Tensor:
    """The op in pure torch, of a region's crop and its places.

    ``out``, if its dtype and strides are the result's, may become the result.
    """
    image, (height, width, scale_h, scale_w, interpolation, antialias) = a
    if isinstance(a, ResampleBackward) or places != _WHOLE:
        return _by_tables(a, places)
    # Users know F.interpolate's answer for float32. It rounds coordinates to float32, which moves results away from the
    # exact tables' in proportion to the image's size, by 2e-4 of the range at 4000 pixels (docs/math.md, 1.6); using
    # its kernel keeps the two equal. If no coordinate needs rounding, the two differ by rounding errors alone, and the
    # tables are faster than its antialiasing.
    torch_kernel = _ATEN.get((interpolation, antialias))
    if (
        torch_kernel is not None
        and _matches_torch(image, height, width, (scale_h, scale_w))
        and not (antialias and _tables_are_faster(image, width, interpolation) and _exact(a))
    ):
        fresh = empty_image(image, height, width)
        out = fresh if out is None or (out.stride(), out.dtype) != (fresh.stride(), fresh.dtype) else out
        if not antialias and (height == image.shape[2] or width == image.shape[3]):
            return out.copy_(_along_one_axis(torch_kernel, image, height, width, scale_h, scale_w))
        return torch_kernel(image, [height, width], False, scale_h, scale_w, out=out)
    return _by_tables(a)


def _resample_backward(a: ResampleBackward) -> Tensor:
    native = _native("resample_backward", a)
    return in_torch(a) if native is None else native


_ATEN = {
    ("bilinear", True): torch.ops.aten._upsample_bilinear2d_aa.out,
    ("bicubic", True): torch.ops.aten._upsample_bicubic2d_aa.out,
    ("bilinear", False): torch.ops.aten.upsample_bilinear2d.out,
    ("bicubic", False): torch.ops.aten.upsample_bicubic2d.out,
}


def _fake(a: Resample | ResampleBackward) -> Tensor:
    image, sampling = a
    _check_dtype(image.dtype)
    return empty_image(image, sampling.height, sampling.width)


def _inputs(a: Resample | ResampleBackward) -> list[Tensor]:
    return [a[0]]


def _setup_context(ctx: Any, a: Resample | ResampleBackward, output: Tensor) -> None:
    image, sampling = a
    height, width = image.shape[2:]
    ctx.sampling = sampling._replace(height=height, width=width)


def _adjoint(op: Any, plain: Any) -> Any:
    def autograd(ctx: Any, grad: Tensor) -> list[Tensor]:
        # A transform may apply to the backward only.
        run = op if transform_reason(grad) in (None, VMAP) else plain
        return [run(grad, *ctx.sampling).to(grad.dtype)]

    return autograd


define("resample", Resample, "Tensor", run=_resample, fake=_fake)
define("resample_backward", ResampleBackward, "Tensor", run=_resample_backward, fake=_fake)
_OPS = torch.ops.learned_resizer
register_autograd("resample", _inputs, _setup_context, _adjoint(_OPS.resample_backward, resample_dense_backward))
register_autograd("resample_backward", _inputs, _setup_context, _adjoint(_OPS.resample, resample_dense))
for _name in ("resample", "resample_backward"):
    register_vmap(_name)
    register_autocast(_name)
