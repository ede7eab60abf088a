"""Images of any sizes to one batch, in one call: ``resize_batch``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from . import ops
from .ops.transforms import VMAP, transform_reason
from .resize import Size, check_antialias, check_interpolation, check_size, tv_tensors_of

Boxes = Tensor | Sequence[Sequence[float]]
Flip = Tensor | Sequence[bool]


def resize_batch(
    images: Sequence[Tensor] | Tensor,
    size: Size,
    *,
    boxes: Boxes | None = None,
    flip: Flip | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype | None = None,
    interpolation: str = "bilinear",
    antialias: bool = True,
) -> Tensor:
    """Resize images of any sizes to one batch, differentiably.

    Every image gets the bits that ``resize`` of its crop gives, whatever else is in the batch. On a CPU, as many images
    are resized in parallel as torch has threads; on CUDA one launch resizes all.

    Args:
        images: B images ``(C, H_i, W_i)`` of one dtype, device and number of channels, any strides; uint8, float64,
            float32, float16 or bfloat16, in any value range. A batch ``(B, C, H, W)`` counts as its images.
        size: output size, an int for both sides or ``(height, width)``.
        boxes: ``(B, 4)``, the region of each image that fills its output: ``(top, left, height, width)`` in pixels,
            floats, within the image. Numbers or a CPU tensor: checking a CUDA tensor would wait for the device. The
            image is as if cropped to the pixels that the region touches: those beyond do not count. ``docs/math.md``,
            1.8.
        flip: ``(B,)`` bools: mirror the region horizontally first. Numbers or a CPU tensor.
        mean: of each channel, for uint8 images, with ``std``: the result is ``(y / 255 - mean) / std``, in one pass.
        std: of each channel, above 0.
        dtype: of the result. Default: that of the images, or float32 with ``mean`` and ``std``. A float dtype of uint8
            images keeps what lies between two levels and beyond them, as if the images were converted first.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"nearest"``, ``"box"`` or ``"hamming"``, as in
            ``resize``.
        antialias: widen the filter when shrinking.

    Returns:
        ``(B, C, height, width)``; channels_last if every image interleaves its channels. uint8 results are rounded half
        up and saturated. Deterministic, forward and backward. Gradients of the images are a list, like them;
        derivatives of any order exist. Boxes have no gradient.

    Raises:
        TypeError, ValueError: naming the argument, the index of an image or box, its value and what was expected.
        NotImplementedError: under ``torch.vmap``.
        RuntimeError: under ``use_backend("native")`` if the native kernel cannot run.

    Examples:
        Each image as ``resize`` alone would give it, and a gradient of its own size:

        >>> import torch
        >>> from learned_resizer_cuda import resize, resize_batch
        >>> images = [torch.rand(3, 48, 64, requires_grad=True), torch.rand(3, 30, 20, requires_grad=True)]
        >>> batch = resize_batch(images, 16)
        >>> torch.equal(batch[1], resize(images[1], 16))
        True
        >>> batch.sum().backward()
        >>> [tuple(image.grad.shape) for image in images]
        [(3, 48, 64), (3, 30, 20)]

        Regions of photographs, the first one mirrored, as a network wants them:

        >>> photos = [torch.randint(0, 256, image.shape, dtype=torch.uint8) for image in images]
        >>> boxes = [(0, 8, 48, 48), (2.5, 0, 20, 19.75)]  # top, left, height, width
        >>> mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        >>> batch = resize_batch(photos, 16, boxes=boxes, flip=[True, False], mean=mean, std=std)
        >>> batch.shape, batch.dtype
        (torch.Size([2, 3, 16, 16]), torch.float32)
    """
    height, width = check_size(size)
    check_interpolation(interpolation)
    check_antialias(antialias)
    images = check_images(images)
    first = images[0]
    result = _result_dtype(first.dtype, dtype, mean is not None or std is not None)
    norm = _check_normalisation(mean, std, first.shape[0], first.dtype, result)
    boxes = check_boxes(boxes, [image.shape[-2:] for image in images])
    flip = check_flip(flip, len(images))
    sampling = height, width, interpolation, antialias
    reasons = {transform_reason(image) for image in images} - {None}
    if VMAP in reasons:
        raise NotImplementedError(
            "resize_batch: got images under torch.vmap; expected a loop over the lists: images of different sizes have "
            "no common dimension"
        )
    if any(hasattr(image, "placements") for image in images):
        raise TypeError("images: got a DTensor; expected plain tensors (`resize` takes a DTensor)")
    made = first.dtype if first.dtype != torch.uint8 else result
    if reasons:
        found = ops.resample_batch.resample_batch_plainly(
            images, boxes, flip, sampling, made, norm, cast(str, reasons.pop())
        )
    else:
        found = torch.ops.learned_resizer.resample_batch(images, boxes, flip, *sampling, made, *norm)
    return cast(Tensor, found.to(result))


def check_images(images: Any) -> list[Tensor]:
    """The images as a list of plain tensors.

    Raises:
        TypeError, ValueError: naming the first that does not fit.
    """
    if isinstance(images, Tensor):
        if images.dim() != 4:
            raise ValueError(
                f"images: got one tensor of shape {tuple(images.shape)}; expected a sequence of images (C, H, W), or "
                "a batch (B, C, H, W)"
            )
        images = images.unbind()
    if not isinstance(images, Sequence) or isinstance(images, str):
        raise TypeError(f"images: got {type(images).__name__}; expected a sequence of tensors (C, H, W)")
    if not images:
        raise ValueError("images: got an empty sequence; expected at least one image (C, H, W)")
    found: list[Tensor] = []
    for index, image in enumerate(images):
        name = f"images[{index}]"
        if not isinstance(image, Tensor):
            raise TypeError(f"{name}: got {type(image).__name__}; expected a torch.Tensor (C, H, W)")
        if tv_tensors_of(image, name) is not None:
            image = image.as_subclass(Tensor)
        if image.dim() != 3:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}; expected 3 dimensions (C, H, W)")
        if image.dtype not in ops.resample.DTYPES:
            expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in ops.resample.DTYPES)
            raise TypeError(f"{name}: got dtype {image.dtype}; expected one of {expected}")
        if 0 in image.shape[1:]:
            raise ValueError(f"{name}: got shape {tuple(image.shape)}; expected sides of at least 1 pixel")
        if found:
            first = found[0]
            if image.shape[0] != first.shape[0]:
                raise ValueError(f"{name}: got {image.shape[0]} channels; expected {first.shape[0]}, as images[0] has")
            if image.dtype != first.dtype:
                raise TypeError(f"{name}: got dtype {image.dtype}; expected {first.dtype}, that of images[0]")
            if image.device != first.device:
                raise ValueError(
                    f"{name}: got a tensor on {image.device}; expected it on {first.device}, with images[0]"
                )
        found.append(image)
    return found


def check_boxes(boxes: Any, sizes: Sequence[Sequence[int]]) -> Tensor | None:
    """Boxes as ``(B, 4)`` float64 on the CPU.

    Values are not checked while a graph is traced.

    Raises:
        TypeError, ValueError: naming the first that does not fit.
    """
    if boxes is None:
        return None
    expected = f"expected ({len(sizes)}, 4), a row (top, left, height, width) of each image"
    found = _on_cpu("boxes", boxes, torch.float64, expected)
    if tuple(found.shape) != (len(sizes), 4):
        raise ValueError(f"boxes: got shape {tuple(found.shape)}; {expected}")
    if torch.compiler.is_compiling():
        return found
    for index, (box, (height, width)) in enumerate(zip(found.tolist(), sizes, strict=True)):
        top, left, rows, columns = box
        name = f"boxes[{index}]: got {tuple(box)}"
        if not all(map(math.isfinite, box)):
            raise ValueError(f"{name}; expected finite numbers (top, left, height, width)")
        if rows <= 0 or columns <= 0:
            raise ValueError(f"{name}; expected a height and width above 0")
        if top < 0 or left < 0 or top + rows > height or left + columns > width:
            raise ValueError(f"{name}; expected a region (top, left, height, width) within {height}x{width} pixels")
    return found


def check_flip(flip: Any, count: int) -> Tensor | None:
    """Return flips as ``(B,)`` bool on the CPU or raise."""
    if flip is None:
        return None
    expected = f"expected {count} bools, one of each image"
    if isinstance(flip, Tensor) and flip.dtype != torch.bool:
        raise TypeError(f"flip: got a {flip.dtype} tensor; {expected}")
    if isinstance(flip, (Sequence, np.ndarray)) and not all(isinstance(value, (bool, np.bool_)) for value in flip):
        raise TypeError(f"flip: got {flip!r}; {expected}")
    found = _on_cpu("flip", flip, torch.bool, expected)
    if tuple(found.shape) != (count,):
        raise ValueError(f"flip: got shape {tuple(found.shape)}; {expected}")
    return found


def _on_cpu(name: str, values: Any, dtype: torch.dtype, expected: str) -> Tensor:
    if isinstance(values, Tensor):
        if values.device.type != "cpu":
            raise ValueError(
                f"{name}: got a tensor on {values.device}; expected it on the CPU, since checking its values would "
                "wait for the device"
            )
        if values.requires_grad:
            raise ValueError(f"{name}: got a tensor that requires a gradient; expected one without: regions have none")
        if values.is_complex():
            raise TypeError(f"{name}: got a {values.dtype} tensor; {expected}")
        return values.to(dtype)
    if not hasattr(values, "__len__") or isinstance(values, str):
        raise TypeError(f"{name}: got {type(values).__name__}; {expected}")
    try:
        return torch.as_tensor(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name}: got {values!r}; {expected}") from error


def _result_dtype(of_images: torch.dtype, dtype: Any, normalised: bool) -> torch.dtype:
    if dtype is None:
        return torch.float32 if normalised and of_images == torch.uint8 else of_images
    floats = ops.resample.DTYPES[:-1]
    expected = (torch.uint8, *floats) if of_images == torch.uint8 else floats
    if dtype not in expected:
        raise TypeError(f"dtype: got {dtype!r} for {of_images} images; expected one of {', '.join(map(str, expected))}")
    return cast(torch.dtype, dtype)


def _check_normalisation(
    mean: Any, std: Any, channels: int, dtype: torch.dtype, result: torch.dtype
) -> tuple[list[float], list[float]]:
    if mean is None and std is None:
        return [], []
    if mean is None or std is None:
        raise ValueError(f"mean, std: got {mean!r} and {std!r}; expected both or neither")
    if dtype != torch.uint8 or result == torch.uint8:
        raise TypeError(
            f"mean, std: got them for {dtype} images and a {result} result; expected torch.uint8 images and a float "
            "result"
        )
    found = []
    for name, values in (("mean", mean), ("std", std)):
        expected = f"expected {channels} finite numbers" + (" above 0" if name == "std" else "")
        plain = _on_cpu(name, values, torch.float64, expected)
        if tuple(plain.shape) != (channels,):
            raise ValueError(f"{name}: got shape {tuple(plain.shape)}; {expected}")
        numbers = plain.tolist()
        if not all(math.isfinite(v) and (name == "mean" or v > 0) for v in numbers):
            raise ValueError(f"{name}: got {numbers}; {expected}")
        found.append(numbers)
    return found[0], found[1]
