"""Differentiable resampling of images, by six filters: ``resize`` and ``Resize``."""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from . import ops
from .ops.band_matmul import is_channels_last
from .ops.bands import INTERPOLATIONS, output_size
from .ops.resample_fixed import takes_rows_first
from .ops.transforms import VMAP, transform_reason

PARITIES = ("exact", "pillow", "pillow-12")

Size = int | Sequence[int]
ScaleFactor = float | Sequence[float]


def resize(
    image: Tensor,
    size: Size | None = None,
    *,
    scale_factor: ScaleFactor | None = None,
    interpolation: str = "bilinear",
    antialias: bool = True,
    parity: str = "exact",
) -> Tensor:
    """Resize an image, differentiably, by any factor up or down.

    Half-pixel centres (``align_corners=False``). With ``antialias=True`` the filters are those of Pillow and of
    torch's ``antialias=True``: box, triangle, Hamming, cubic with a = -0.5, Lanczos-3, each widened by the scale when
    shrinking. With ``antialias=False``: torch's bilinear and bicubic (a = -0.75), and Hamming and Lanczos-3 at their
    own width, with the image's border repeated; box is then nearest. ``docs/math.md`` has the formulas.

    Args:
        image: ``(..., C, H, W)``, at least 3-D. float64, float32, float16, bfloat16 or uint8, in any value
            range. Any strides; interleaved channels (channels_last) stay interleaved.
        size: output size, an int for *both* sides or ``(height, width)``. (torchvision's int is the shorter side; see
            ``learned_resizer_cuda.transforms.Resize``.)
        scale_factor: output pixels per input pixel, one number or ``(height, width)``. Alone it gives the size
            ``floor(side * scale_factor)``; the coordinates follow the factor itself, as in ``F.interpolate``
            with ``recompute_scale_factor=False``. Together with ``size`` the factor sets only the coordinates, and
            outputs beyond the image repeat its border.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"nearest"``, ``"box"`` or ``"hamming"``.
            ``"nearest"`` is torch's ``"nearest-exact"``, with coordinates that are not rounded: the pixel whose area
            contains the output's centre, at an edge the right or lower one.
        antialias: widen the filter when shrinking; ``"nearest"`` has no filter.
        parity: ``"exact"`` rounds once, at the end. ``"pillow"`` gives, for uint8, every byte as ``Image.resize`` of
            Pillow 13 does, ``"pillow-12"`` as that of Pillow up to 12 does: weights of 22 bits, rounded and clipped
            to bytes between the passes, of which Pillow 13 takes the one down the columns first where the height
            shrinks by more than twice as many pixels as the width. Two or four channels are LA and RGBA, premultiplied
            by alpha unless ``interpolation`` is ``"nearest"``. No ``scale_factor`` and no gradient. ``antialias=False``
            Pillow does not have; it is the same arithmetic. torch's CPU kernels for uint8, which take the rows first,
            are within one level of ``"pillow-12"``, two in a few pixels of a million.

    Returns:
        ``(..., C, height, width)`` in the image's dtype, also under autocast; a torchvision ``Image`` or ``Video``
        keeps its class. Half types accumulate in float32. uint8 is rounded half up and saturated. Deterministic,
        forward and backward. float32 ``"bilinear"`` and ``"bicubic"`` on a CPU are torch's own, whose float32
        coordinates cost up to ``3 * 2**-24`` of the value range (4.5 for ``"bicubic"``) per pixel of a side. An axis
        that keeps its size is copied.

        Differentiable in reverse and forward mode to any order, and under ``torch.func``'s transforms. In forward mode
        and under all transforms but ``vmap`` it multiplies by dense matrices, in the precision that torch's flags give
        float32 products: slower, and a non-finite pixel spoils its plane. A ``DTensor`` gives a ``DTensor``, split over
        batch and channels like the image, or only over the batch in Pillow's arithmetic.

    Raises:
        TypeError: if ``image`` is not a tensor, has another dtype, or is a torchvision ``Mask``, ``BoundingBoxes`` or
            ``KeyPoints``; or if ``size`` is not an integer.
        ValueError: for another rank, an empty side, a size or factor that is not positive and finite, an
            unknown ``interpolation`` or ``parity``, or neither ``size`` nor ``scale_factor``; for ``"pillow"`` in an
            export of dynamic height and width, on which the order of its passes depends.
        RuntimeError: under ``use_backend("native")`` if the native kernel cannot run, for instance under a transform.

    Examples:
        A size for both sides, or a factor:

        >>> import torch
        >>> from learned_resizer_cuda import resize
        >>> photos = torch.rand(8, 3, 448, 336)
        >>> resize(photos, 224, interpolation="lanczos").shape
        torch.Size([8, 3, 224, 224])
        >>> resize(photos, scale_factor=0.25).shape
        torch.Size([8, 3, 112, 84])

        The gradient says which pixels an output pixel is made of:

        >>> row = torch.zeros(1, 1, 8, requires_grad=True)
        >>> resize(row, (1, 2))[0, 0, 0].backward()
        >>> (row.grad * 28).round()
        tensor([[[5., 7., 7., 5., 3., 1., 0., 0.]]])

        Pillow's bytes, of a tensor on any device:

        >>> import numpy as np
        >>> from PIL import Image
        >>> photo = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
        >>> picture = Image.fromarray(photo.permute(1, 2, 0).numpy())
        >>> expected = np.array(picture.resize((30, 20), Image.Resampling.BICUBIC))
        >>> small = resize(photo, (20, 30), interpolation="bicubic", parity="pillow")
        >>> np.array_equal(small.permute(1, 2, 0), expected)
        True
    """
    if has_torch_function_unary(image):
        if (tv_tensors := tv_tensors_of(image)) is not None:
            plain = image.as_subclass(Tensor)
            options: dict[str, Any] = {"interpolation": interpolation, "antialias": antialias, "parity": parity}
            return tv_tensors.wrap(resize(plain, size, scale_factor=scale_factor, **options), like=image)
        return handle_torch_function(
            resize,
            (image,),
            image,
            size,
            scale_factor=scale_factor,
            interpolation=interpolation,
            antialias=antialias,
            parity=parity,
        )
    check_interpolation(interpolation)
    check_antialias(antialias)
    check_parity(parity)
    if not isinstance(image, Tensor):
        raise TypeError(f"image: got {type(image).__name__}; expected a torch.Tensor (..., C, H, W)")
    if image.dim() < 3:
        raise ValueError(f"image: got shape {tuple(image.shape)}; expected at least 3 dimensions (..., C, H, W)")
    if image.dtype not in ops.resample.DTYPES:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in ops.resample.DTYPES)
        raise TypeError(f"image: got dtype {image.dtype}; expected one of {expected}")
    if parity != "exact":
        check_pillow(parity, image.dtype, scale_factor)
    in_h, in_w = image.shape[-2:]
    if in_h == 0 or in_w == 0:
        raise ValueError(f"image: got shape {tuple(image.shape)}; expected sides of at least 1 pixel")
    scale_h, scale_w = (None, None) if scale_factor is None else check_scale_factor(scale_factor)
    if size is not None:
        height, width = check_size(size)
    elif scale_h is not None and scale_w is not None:
        height, width = output_size(in_h, scale_h), output_size(in_w, scale_w)
        if height < 1 or width < 1:
            raise ValueError(
                f"scale_factor: got {scale_factor}, which makes {in_h}x{in_w} pixels {height}x{width}; "
                "expected at least one pixel a side"
            )
    else:
        raise ValueError("size: got None and scale_factor None; expected at least one of them")

    if parity != "exact":
        if parity == "pillow" and torch.compiler.is_exporting() and isinstance(in_h + in_w, torch.SymInt):
            raise ValueError(
                "parity: got 'pillow' in an export of dynamic height and width; expected 'pillow-12', whose order of "
                "passes does not depend on them, or fixed sizes"
            )
        rows_first = parity == "pillow-12" or takes_rows_first((in_h, in_w), (height, width))
        op, plainly = torch.ops.learned_resizer.resample_fixed, ops.resample_fixed.resample_fixed_plainly
        parameters: tuple[Any, ...] = (height, width, interpolation, antialias, rows_first)
    else:
        op, plainly = torch.ops.learned_resizer.resample, ops.resample.resample_plainly
        parameters = (height, width, scale_h, scale_w, interpolation, antialias)
    reason = transform_reason(image)
    if reason not in (None, VMAP):
        # A DTensor, recognised by an attribute: importing its class takes as long as importing torch.
        if hasattr(image, "placements"):
            options = {"interpolation": interpolation, "antialias": antialias, "parity": parity}
            return _resize_distributed(image, (height, width), scale_factor, options)
        return plainly(image, reason, *parameters)
    if image.dim() == 4:
        return op(image, *parameters)
    if image.dim() == 3:
        batched = image.unsqueeze(0)
    elif is_channels_last(image):
        # Channels are moved last, in case flattening copies.
        batched = image.movedim(-3, -1).flatten(0, -4).movedim(-1, -3)
    else:
        batched = image.flatten(0, -4)
    return op(batched, *parameters).reshape(*image.shape[:-2], height, width)


def tv_tensors_of(image: Tensor, name: str = "image") -> Any:
    """torchvision's module of tensor classes, if ``image`` is an ``Image`` or ``Video``.

    Raises:
        TypeError: for classes whose numbers are not colours.
    """
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    if tv_tensors is None or not isinstance(image, tv_tensors.TVTensor):
        return None
    if not isinstance(image, (tv_tensors.Image, tv_tensors.Video)):
        raise TypeError(
            f"{name}: got a torchvision.tv_tensors.{type(image).__name__}, which must not be interpolated; expected an "
            "image (learned_resizer_cuda.transforms.Resize takes masks, boxes and key points)"
        )
    return tv_tensors


def _resize_distributed(
    image: Any, size: tuple[int, int], scale: ScaleFactor | None, options: dict[str, Any]
) -> Tensor:
    """``resize`` of a ``DTensor``: each process resizes its own images and channels."""
    from torch.distributed.tensor import DTensor, Replicate

    # Rows and columns are summed over, so they must not be split; nor channels, of which one may be alpha.
    kept = image.dim() - (2 if options["parity"] == "exact" else 3)
    batch = [p if p.is_shard() and p.dim < kept else Replicate() for p in image.placements]
    local = image.redistribute(placements=batch).to_local()
    whole = torch.empty_strided(image.shape, image.stride(), dtype=image.dtype, device="meta")
    out, like = (resize(x, size, scale_factor=scale, **options) for x in (local, whole))
    return DTensor.from_local(out, image.device_mesh, batch, run_check=False, shape=like.shape, stride=like.stride())


class Resize(nn.Module):
    """``resize`` to a fixed size, as a module or a transform.

    ``learned_resizer_cuda.transforms.Resize`` is torchvision's transform, with its meaning of ``size``.

    Args:
        size: output size, an int for *both* sides or ``(height, width)``.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"nearest"``, ``"box"`` or ``"hamming"``.
        antialias: widen the filter when shrinking.
        parity: ``"exact"``; or ``"pillow"`` or ``"pillow-12"`` for Pillow's bytes of uint8 images.

    Raises:
        TypeError, ValueError: as ``resize``.

    Examples:
        >>> import torch
        >>> from learned_resizer_cuda import Resize
        >>> shrink = Resize((1, 3), interpolation="box")
        >>> shrink
        Resize(size=(1, 3), interpolation='box', antialias=True)
        >>> shrink(torch.tensor([[[0.0, 2.0, 10.0, 12.0, 20.0, 22.0]]]))
        tensor([[[ 1., 11., 21.]]])

        In front of a network, with a gradient for the images:

        >>> network = torch.nn.Sequential(Resize(16), torch.nn.Conv2d(3, 8, kernel_size=3))
        >>> images = torch.rand(2, 3, 50, 40, requires_grad=True)
        >>> network(images).sum().backward()
        >>> images.grad.shape
        torch.Size([2, 3, 50, 40])
    """

    def __init__(
        self, size: Size, *, interpolation: str = "bilinear", antialias: bool = True, parity: str = "exact"
    ) -> None:
        super().__init__()
        self.size = check_size(size)
        self.interpolation = check_interpolation(interpolation)
        self.antialias = check_antialias(antialias)
        self.parity = check_parity(parity)

    def forward(self, image: Tensor) -> Tensor:
        """Resize an image, or any number of them of one size.

        Args:
            image: ``(..., C, H, W)``, at least 3-D, in any dtype that ``resize`` takes; uint8 with Pillow's ``parity``.

        Returns:
            ``(..., C, height, width)`` in the image's dtype. Deterministic.

        Raises:
            TypeError, ValueError, RuntimeError: as ``resize``.

        Examples:
            Two videos of five frames; the dtype stays:

            >>> import torch
            >>> from learned_resizer_cuda import Resize
            >>> videos = torch.randint(0, 256, (2, 5, 3, 48, 64), dtype=torch.uint8)
            >>> small = Resize((24, 32), interpolation="bicubic")(videos)
            >>> small.shape, small.dtype
            (torch.Size([2, 5, 3, 24, 32]), torch.uint8)
        """
        return resize(image, self.size, interpolation=self.interpolation, antialias=self.antialias, parity=self.parity)

    def extra_repr(self) -> str:
        parity = "" if self.parity == "exact" else f", parity={self.parity!r}"
        return f"size={self.size}, interpolation={self.interpolation!r}, antialias={self.antialias}{parity}"


def check_size(size: Size) -> tuple[int, int]:
    """Return ``size`` as ``(height, width)`` or raise, naming what is wrong."""
    expected = "expected a positive int or a pair (height, width) of them"
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2:
        raise ValueError(f"size: got {size!r}; {expected}")
    for side in sides:
        # torch.compile keeps a traced size symbolic, as a SymInt.
        if isinstance(side, bool) or not isinstance(side, (numbers.Integral, torch.SymInt)):
            raise TypeError(f"size: got {size!r}; {expected}")
        if side < 1:
            raise ValueError(f"size: got {size!r}; {expected}")
    height, width = (side if isinstance(side, torch.SymInt) else int(side) for side in sides)
    return height, width


def check_scale_factor(scale_factor: ScaleFactor) -> tuple[float, float]:
    """Return ``scale_factor`` as ``(height, width)`` or raise, naming what is wrong."""
    expected = "expected a positive finite number or a pair (height, width) of them"
    factors: tuple[Any, ...] = (scale_factor, scale_factor)
    if isinstance(scale_factor, Sequence) and not isinstance(scale_factor, str):
        factors = tuple(scale_factor)
    if len(factors) != 2:
        raise ValueError(f"scale_factor: got {scale_factor!r}; {expected}")
    for factor in factors:
        if isinstance(factor, bool) or not isinstance(factor, (numbers.Real, torch.SymFloat, torch.SymInt)):
            raise TypeError(f"scale_factor: got {scale_factor!r}; {expected}")
        if not (math.isfinite(factor) and float(factor) > 0):
            raise ValueError(f"scale_factor: got {scale_factor!r}; {expected}")
    height, width = (float(factor) for factor in factors)
    return height, width


def check_interpolation(interpolation: str, expected: Sequence[str] = INTERPOLATIONS) -> str:
    """Return ``interpolation`` if it is one of those expected, else raise."""
    if interpolation not in expected:
        known = ", ".join(repr(name) for name in expected)
        raise ValueError(f"interpolation: got {interpolation!r}; expected one of {known}")
    return interpolation


def check_antialias(antialias: bool) -> bool:
    """Return ``antialias`` if it is a bool, else raise."""
    if not isinstance(antialias, bool):
        raise TypeError(f"antialias: got {antialias!r}; expected True or False")
    return antialias


def check_parity(parity: str) -> str:
    """Return ``parity`` if it is known, else raise."""
    if parity not in PARITIES:
        raise ValueError(f"parity: got {parity!r}; expected one of {', '.join(map(repr, PARITIES))}")
    return parity


def check_pillow(parity: str, dtype: torch.dtype, scale_factor: ScaleFactor | None) -> None:
    """Raise for what Pillow's arithmetic does not have, naming it."""
    if dtype != torch.uint8:
        raise TypeError(
            f"parity: got {parity!r} with a {dtype} image; expected torch.uint8, the only dtype of Pillow's integer "
            "arithmetic, which has no gradient ('exact' takes every dtype)"
        )
    if scale_factor is not None:
        raise ValueError(f"scale_factor: got {scale_factor!r} with parity={parity!r}; expected None, and a size")
