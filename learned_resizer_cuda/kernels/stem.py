"""Launchers of the native stem (csrc/core/stem/stem.cuh, stem_backward.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.bands import INTERPOLATIONS
from ..ops.regions import Region
from ..ops.stem import Stem, StemBackward, StemWeights
from . import device, native, reduce
from .arguments import PARAMETER_DTYPES, arithmetic, pointer, vector, weight
from .tables import Tables, on_stream, temporary

_IMAGE_DTYPES = {**PARAMETER_DTYPES, torch.uint8: 4}

# Address and strides in elements of a crop, mirrored if it is, and its height and width.
Crop = tuple[int, tuple[int, ...], int, int]


class _Work(NamedTuple):
    """What both launchers read of a stem's arguments.

    Tensors without images are left out.
    """

    sizes: tuple[Any, ...]  # of each tensor: images, height and width of the crop, and both axes of its place
    crops: list[Crop]
    indices: list[int]  # of the tensors
    format: tuple[Any, ...]
    options: tuple[Any, ...]  # of the plans: output size, interpolation, antialias
    instance: tuple[str, int]  # arithmetic and filters

    @property
    def is_uniform(self) -> bool:
        """Whether all images are whole and of one size.

        It will come again, and its tables stay on the stream.
        """
        return len(self.crops) == 1 and self.sizes[0][3] is self.sizes[0][4] is None


def _crop(image: Tensor, region: Region) -> tuple[int, tuple[int, ...]]:
    """Address and strides of a region of an image."""
    b, c, y, x = image.stride()
    left = region.left + region.width - 1 if region.flip else region.left
    at = image.data_ptr() + (region.top * y + left * x) * image.element_size()
    return at, (b, c, y, -x if region.flip else x)


def _work(a: Stem) -> _Work:
    images, regions, weights, (height, width, interpolation, antialias, _), dtype, mean, std = a
    indices = [i for i, image in enumerate(images) if image.shape[0]]
    kept = [(images[i], regions[i]) for i in indices]
    sizes = tuple((image.shape[0], r.height, r.width, r.rows, r.columns) for image, r in kept)
    crops = [(*_crop(image, r), r.height, r.width) for image, r in kept]
    number = _IMAGE_DTYPES[images[0].dtype]
    format: tuple[Any, ...] = number, images[0].shape[1], None, None
    if number == 4:
        if mean is None or std is None:
            raise ValueError("stem: got a uint8 image without image_mean and image_std; expected both")
        format = *format[:2], vector(mean), vector(std)
    options = (height, width), INTERPOLATIONS.index(interpolation), antialias
    return _Work(sizes, crops, indices, format, options, (arithmetic(dtype), weights.b0.shape[0]))


def _plan(sizes: tuple[Any, ...], options: tuple[Any, ...], crops: list[Crop], *rest: Any) -> Any:
    """The forward's plan, a ``_C.StemPlan``.

    Args:
        sizes: as in ``_Work``, and `options`.
        crops: those that travel with the plan: of several tensors.
        rest: dtype of the images, multiprocessors, arithmetic, filters.
    """
    return native.load().plan_stem(sizes, *options, crops, *rest)


def _backward_plan(
    sizes: tuple[Any, ...], options: tuple[Any, ...], crops: list[Crop], grads: list[Any], *rest: Any
) -> Any:
    """The backward's, a ``_C.StemBackwardPlan``; `rest` with channels and shared memory."""
    return native.load().plan_stem_backward(sizes, *options, crops, grads, *rest)


@lru_cache(maxsize=256)
def _kept_plan(sizes: tuple[Any, ...], options: tuple[Any, ...], *rest: Any) -> Any:
    return _plan(sizes, options, [], *rest)


@lru_cache(maxsize=256)
def _kept_backward_plan(sizes: tuple[Any, ...], options: tuple[Any, ...], *rest: Any) -> Any:
    return _backward_plan(sizes, options, [], [], *rest)


def _tables(work: _Work, plan: Any, gpu: torch.device, place: tuple[int, int]) -> Tables:
    return (on_stream if work.is_uniform else temporary)(plan, gpu, *place)


def _weights(weights: StemWeights) -> tuple[Any, ...]:
    w0, b0, w1, b1 = weights
    return weight(w0), vector(b0), weight(w1), vector(b1)


def stem(a: Stem, z: Tensor, statistics: Tensor | None) -> None:
    """The stem: one launch for all images, one more for the statistics.

    Three before them, for tables that are new to the stream, or of several sizes or parts of images. Bitwise
    reproducible on devices of one kind; the bits of an image's z do not depend on the images beside it.

    Args:
        a: images ``(b_i, C, H_i, W_i)``, C up to 4, any strides; float32, float16, bfloat16 or uint8, read in place. Up
            to 32 filters. Weights are rounded to the arithmetic of the features' dtype as they load, and uint8 images
            are normalised as they load.
        z: the result, ``(B, n, height, width)``, channels_last, of the features' dtype: n 16 or 32, zero from the
            filters' number on.
        statistics: ``(3, filters)`` float32, dense, for mean, biased and unbiased variance of c.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    if z.shape[0] == 0:
        if statistics is not None:
            statistics.zero_()
        return
    module, gpu, work = native.load(), z.device, _work(a)
    limits = work.format[0], device.multiprocessors(gpu), *work.instance
    if work.is_uniform:
        plan = _kept_plan(work.sizes, work.options, *limits)
    else:
        plan = _plan(work.sizes, work.options, work.crops, *limits)
    place = device.place(gpu)
    tables = _tables(work, plan, gpu, place)
    partials = None
    if statistics is not None:
        partials = torch.empty((plan.blocks, 3, work.instance[1]), dtype=torch.float32, device=gpu)
    module.stem(
        plan,
        tables.address,
        work.format,
        work.crops,
        _weights(a.weights),
        a.options.negative_slope,
        *work.instance,
        z.data_ptr(),
        pointer(partials),
        *place,
    )
    if statistics is not None and partials is not None:
        reduce.statistics(partials, statistics, place)


def _empty_grad(image: Tensor, region: Region) -> Tensor:
    """Memory for dx like an image, zero outside its region."""
    whole = image.shape[2:] == (region.height, region.width)
    return torch.empty_like(image) if whole else torch.zeros_like(image)


def stem_backward(a: StemBackward) -> tuple[list[Tensor | None], StemWeights]:
    """The stem's adjoint: one launch for all images.

    One more for the sums, one for dx if asked for, and three before them as in the forward.

    Returns:
        dx like each tensor of images, if asked for, 0 outside its region; and the gradients of the weights in their own
        dtypes and strides. Bitwise reproducible on devices of one kind; no atomics.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    grad_z, statistics, forward, image_grads = a
    images, regions, weights = forward[:3]
    given = zip(images, regions, image_grads, strict=True)
    dxs = [_empty_grad(image, region) if wanted else None for image, region, wanted in given]
    w0, b0, w1, b1 = weights
    grads = StemWeights(torch.empty_like(w0), torch.empty_like(b0), torch.empty_like(w1), torch.empty_like(b1))
    if grad_z.shape[0] == 0:
        for grad in grads:
            grad.zero_()
        return dxs, grads
    module, gpu, work = native.load(), grad_z.device, _work(forward)
    places: list[Any] = [None if (dx := dxs[i]) is None else _crop(dx, regions[i]) for i in work.indices]
    if not any(places):  # those of tensors without images may still be wanted
        places = []
    limits = *work.format[:2], device.multiprocessors(gpu), device.shared_memory(gpu), *work.instance
    if work.is_uniform:
        plan = _kept_backward_plan(work.sizes, work.options, *limits)
    else:
        plan = _backward_plan(work.sizes, work.options, work.crops, places, *limits)
    place = device.place(gpu)
    tables = _tables(work, plan, gpu, place)
    elements = w0.numel() + w1.numel() + 2 * b0.shape[0]
    partials = torch.empty((plan.blocks, elements), dtype=torch.float32, device=gpu)
    pointers = None
    if statistics is not None:
        mean, grad_mean, grad_var, pixels = statistics
        pointers = mean.data_ptr(), grad_mean.data_ptr(), grad_var.data_ptr(), pixels
    module.stem_backward(
        plan,
        tables.address,
        work.format,
        work.crops,
        _weights(weights),
        forward.options.negative_slope,
        grad_z.data_ptr(),
        pointers,
        partials.data_ptr(),
        places,
        *work.instance,
        *place,
    )
    reduce.gradients(partials, grads, None, place)
    return dxs, grads
