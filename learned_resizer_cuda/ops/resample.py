"""``resample`` and its adjoint ``resample_backward``: both axes of an image through band matrices.

Forward ``y = R_h x R_wᵀ``, adjoint ``x̄ = R_hᵀ ȳ R_w``: the same computation with transposed tables, so the
backward of each op is the other one and every derivative exists.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from .. import backend
from .band_matmul import apply_bands, empty_image
from .bands import Bands, get_bands
from .dense import resample_dense, resample_dense_backward
from .library import define, register_autocast, register_autograd, register_vmap
from .transforms import VMAP, transform_reason

_PARAMETERS = "SymInt height, SymInt width, float? scale_h, float? scale_w, str interpolation, bool antialias"

# dtypes that both implementations take
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8)


def _run(op: str, image: Tensor, height: int, width: int, *parameters: Any) -> Tensor:
    """Run one of the two ops on the backend chosen for it; ``height`` and ``width`` are its output's."""
    _check_dtype(image.dtype)
    scale_h, scale_w, interpolation, antialias = parameters
    native = backend.choose(op, image) == "native"
    # The native kernel makes its own tables on the device, from tables on the host.
    rest = (interpolation, antialias, image.dtype, torch.device("cpu") if native else image.device)
    if op == "resample":
        bands_h = get_bands(image.shape[2], height, scale_h, *rest)
        bands_w = get_bands(image.shape[3], width, scale_w, *rest)
    else:
        bands_h = get_bands(height, image.shape[2], scale_h, *rest).transposed()
        bands_w = get_bands(width, image.shape[3], scale_w, *rest).transposed()
    if native:
        from ..kernels import resample as kernel

        return kernel.resample(image, bands_h, bands_w)
    return _run_torch(image, bands_h, bands_w)


def _run_torch(image: Tensor, bands_h: Bands, bands_w: Bands) -> Tensor:
    """Pure torch on any device; accumulates in float32 (float64 for float64) and rounds once at the end."""
    if image.dtype in (torch.float32, torch.float64):
        return apply_bands(image, bands_h, bands_w)
    return _rounded(apply_bands(image.float(), bands_h, bands_w), image.dtype)


def _rounded(out: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums, which are overwritten, in the image's dtype."""
    if dtype == torch.uint8:
        out = out.add_(0.5).floor_().clamp_(0, 255)
    return out.to(dtype)


def resample_plainly(image: Tensor, reason: str, *parameters: Any) -> Tensor:
    """What the op computes, in plain differentiable operations, for images ``(..., H, W)`` of any rank.

    Args:
        image: of one of the op's dtypes.
        reason: ``transforms.transform_reason``'s.
        parameters: the op's others.

    Raises:
        RuntimeError: under ``use_backend("native")``.
    """
    backend.refuse_native("resample", reason)
    return _rounded(resample_dense(image, *parameters), image.dtype)


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"image: got dtype {dtype}; expected {', '.join(str(d) for d in DTYPES)}")


def _matches_torch(image: Tensor, height: int, width: int, scale: tuple[float | None, float | None]) -> bool:
    """Whether torch's own CPU kernel computes this resampling (float32, coordinates within the image)."""
    if image.dtype != torch.float32 or image.numel() == 0 or not image.is_cpu:
        return False
    # torch <= 2.15 resamples the rows wrongly where the output is one pixel wide. And an image that keeps its size is
    # a copy.
    if width == 1 or image.shape[2:] == (height, width):
        return False
    sizes = ((image.shape[2], height), (image.shape[3], width))
    # Beyond the last pixel torch reads outside its window; the tables repeat the border. And torch leaves an axis
    # alone whose size does not change, whatever the factor.
    return all(
        f is None or (out - 0.5 <= size * f and (size != out or f == 1.0))
        for (size, out), f in zip(sizes, scale, strict=True)
    )


def _along_one_axis(kernel: Any, image: Tensor, height: int, width: int, *scale: float | None) -> Tensor:
    """A kernel of torch along the one axis that changes.

    Along the other its plain bicubic adds a pixel's neighbours times 0, which spreads a NaN.
    """
    if width == image.shape[3]:
        return _along_one_axis(kernel, image.mT, width, height, *reversed(scale)).mT
    lines = image.reshape(1, -1, 1, image.shape[3])
    out = lines.new_empty(1, lines.shape[1], 1, width)
    return kernel(lines, [1, width], False, None, scale[1], out=out).reshape(*image.shape[:3], width)


def _is_exact(size: int, out: int, factor: float | None) -> bool:
    """Whether every coordinate ``scale · (o + 1/2)`` of an axis is a float32: a scale of few binary digits."""
    scale = size / out if factor is None else 1.0 / factor
    # Of float32's 24 bits, at most 12 are before the binary point and 10 + 1 (for the half pixel) behind it.
    return scale * 2**10 == int(scale * 2**10) and scale < 2**10 and scale * out < 2**12 and out < 2**12


def _resample_cpu(
    image: Tensor,
    height: int,
    width: int,
    scale_h: float | None,
    scale_w: float | None,
    interpolation: str,
    antialias: bool,
) -> Tensor:
    # For float32 the answer users know is F.interpolate's. Its coordinates are rounded to float32, which moves results
    # from the exact tables' in proportion to the image's size, 2e-4 of the range at 4000 pixels (docs/math.md, 1.6);
    # taking its kernel keeps the two equal. Where the coordinates need no rounding the two differ by rounding alone,
    # and the tables are faster than its antialiasing.
    torch_kernel = _ATEN.get((interpolation, antialias))
    if (
        torch_kernel is not None
        and _matches_torch(image, height, width, (scale_h, scale_w))
        and not (antialias and _is_exact(image.shape[2], height, scale_h) and _is_exact(image.shape[3], width, scale_w))
        and backend.choose("resample", image) == "torch"
    ):
        out = empty_image(image, height, width)
        if not antialias and (height == image.shape[2] or width == image.shape[3]):
            return out.copy_(_along_one_axis(torch_kernel, image, height, width, scale_h, scale_w))
        return torch_kernel(image, [height, width], False, scale_h, scale_w, out=out)
    return _run("resample", image, height, width, scale_h, scale_w, interpolation, antialias)


_ATEN = {
    ("bilinear", True): torch.ops.aten._upsample_bilinear2d_aa.out,
    ("bicubic", True): torch.ops.aten._upsample_bicubic2d_aa.out,
    ("bilinear", False): torch.ops.aten.upsample_bilinear2d.out,
    ("bicubic", False): torch.ops.aten.upsample_bicubic2d.out,
}


def _resample_cuda(image: Tensor, *parameters: Any) -> Tensor:
    return _run("resample", image, *parameters)


def _resample_backward(grad: Tensor, *parameters: Any) -> Tensor:
    return _run("resample_backward", grad, *parameters)


def _fake(image: Tensor, height: int, width: int, *_: Any) -> Tensor:
    _check_dtype(image.dtype)
    return empty_image(image, height, width)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    image, _, _, *parameters = inputs
    ctx.input_size = image.shape[2:]
    ctx.parameters = parameters


def _adjoint(op: Any, plain: Any) -> Any:
    def autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # The backward may be differentiated where the forward was not.
        run = op if transform_reason(grad) in (None, VMAP) else plain
        return run(grad, *ctx.input_size, *ctx.parameters).to(grad.dtype), None, None, None, None, None, None

    return autograd


def _vmap(name: str) -> Any:
    def rule(info: Any, in_dims: tuple[int | None, ...], image: Tensor, *parameters: Any) -> tuple[Tensor, int]:
        stacked = image.movedim(cast(int, in_dims[0]), 0)
        out = getattr(torch.ops.learned_resizer, name)(stacked.flatten(0, 1), *parameters)
        return out.unflatten(0, stacked.shape[:2]), 0

    return rule


define(f"resample(Tensor image, {_PARAMETERS}) -> Tensor", cpu=_resample_cpu, cuda=_resample_cuda, fake=_fake)
define(
    f"resample_backward(Tensor grad, {_PARAMETERS}) -> Tensor",
    cpu=_resample_backward,
    cuda=_resample_backward,
    fake=_fake,
)
_OPS = torch.ops.learned_resizer
register_autograd("resample", _adjoint(_OPS.resample_backward, resample_dense_backward), _setup_context)
register_autograd("resample_backward", _adjoint(_OPS.resample, resample_dense), _setup_context)
for _name in ("resample", "resample_backward"):
    register_vmap(_name, _vmap(_name))
    register_autocast(_name)
