"""Launchers of the native resample kernel (csrc/core/resample/resample.cuh) on CUDA tensors."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ops.band_matmul import empty_image, is_channels_last
from ..ops.bands import INTERPOLATIONS
from ..ops.regions import Place, Region, regions
from ..ops.resample import Resample, ResampleBackward
from ..ops.resample_batch import ResampleBatch, ResampleBatchBackward, empty_batch, empty_images
from . import device, native
from .arguments import dtype_name
from .tables import on_stream, temporary

Axis = tuple[int, int, float, float, float]


class Work(NamedTuple):
    """One tensor of images of a launch: what it reads, and where it writes.

    Attributes:
        image: ``(b, C, H, W)``, any strides, without the pixels outside the region.
        mirrored: whether the forward reads it from the right; in the adjoint, writes there.
        rows, columns: of the forward, ``(in, out, offset, extent, factor)``.
        output: its tensor ``(b, C, h, w)``.
        whole: of the adjoint: height and width of the output, and the top and left of the region in it; mirrored: its
            distance from the right.
    """

    image: Tensor
    mirrored: bool
    rows: Axis
    columns: Axis
    output: Tensor
    whole: tuple[int, int, int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Its sizes will come again: its tables stay on the stream."""
        return self.rows[3] == self.columns[3] == 0.0

    def tensor(self, module: Any) -> tuple[Any, ...]:
        """What a plan knows of it."""
        batch, channels, _, width = self.image.shape
        interleaved = is_channels_last(self.output)
        address, strides, _ = self.place()
        vectors = module.resample_vectors(
            dtype_name(self.image.dtype), address, width, channels if interleaved else 1, strides
        )
        mirrored = self.mirrored and self.whole is not None
        return batch, channels, interleaved, vectors, self.rows, self.columns, self.whole, mirrored

    def place(self) -> tuple[int, tuple[int, ...], int]:
        """Addresses and strides: planes of rows of columns of interleaved channels."""
        image = self.image
        n, c, y, x = image.stride()
        at = image.data_ptr()
        if self.mirrored and self.whole is None:
            at += (image.shape[3] - 1) * x * image.element_size()
            x = -x
        strides = (n, 0, c, y, x) if is_channels_last(self.output) else (n, c, 0, y, x)
        return at, strides, self.output.data_ptr()


@lru_cache(maxsize=256)
def _kept_plan(*arguments: Any) -> Any:
    """The kernel's plan, a ``_C.ResamplePlan``, of images that come again: they do not travel with it."""
    *rest, norm = arguments
    return native.load().plan_resample(*rest, (), norm)


def _launch(
    work: list[Work], interpolation: str, antialias: bool, transposed: bool, norm: tuple[float, ...] = ()
) -> None:
    module = native.load()
    image, output = work[0].image, work[0].output
    gpu = image.device
    place = device.place(gpu)
    arguments = (
        dtype_name(image.dtype),
        dtype_name(output.dtype),
        transposed,
        tuple(one.tensor(module) for one in work),
        INTERPOLATIONS.index(interpolation),
        antialias,
        device.multiprocessors(gpu),
        device.shared_memory(gpu),
    )
    places = [one.place() for one in work]
    if len(work) == 1 and work[0].is_whole:
        plan = _kept_plan(*arguments, norm)
        tables = on_stream(plan, gpu, *place)
    else:
        plan = module.plan_resample(*arguments, places if len(work) > 1 else (), norm)
        tables = temporary(plan, gpu, *place)
    module.resample(plan, tables.address, places, bool(norm), *place)


def resample(a: Resample | ResampleBackward) -> Tensor:
    """Resample both axes of a CUDA image, or the adjoint of that.

    ``R_h @ image @ R_w.T`` for each plane, in one launch on the current stream of the image's device, and four before
    it where the tables are new to the stream; the adjoint is the same with transposed tables, made in one launch more.
    Never waits for the device. Bitwise deterministic: every sum has one fixed order, without atomics.

    Args:
        a: image ``(B, C, H, W)`` on a CUDA device, any strides; float64, float32, float16, bfloat16 or uint8. Read in
            place, without a copy. Half types accumulate in float32; uint8 rounds half up and saturates once, at the
            end.

    Returns:
        ``(B, C, h, w)`` in the image's dtype and memory format.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    image, (height, width, scale_h, scale_w, interpolation, antialias) = a
    out = empty_image(image, height, width)
    if out.numel() == 0:
        return out
    transposed = isinstance(a, ResampleBackward)
    (in_h, in_w), whole = image.shape[2:], None
    if transposed:
        (in_h, in_w), (height, width) = (height, width), (in_h, in_w)
        whole = in_h, in_w, 0, 0
    rows, columns = (in_h, height, 0.0, 0.0, scale_h or 0.0), (in_w, width, 0.0, 0.0, scale_w or 0.0)
    _launch([Work(image, False, rows, columns, out, whole)], interpolation, antialias, transposed)
    return out


def _four_dimensions(image: Tensor) -> Tensor:
    return image if image.dim() == 4 else image.unsqueeze(0)


def _axes(region: Region, height: int, width: int) -> tuple[Axis, Axis]:
    rows, columns = (place or Place(0.0, 0.0) for place in (region.rows, region.columns))
    return (region.height, height, *rows, 0.0), (region.width, width, *columns, 0.0)


def resample_batch(a: ResampleBatch) -> Tensor:
    """Resample images of any sizes, each with a region, to one batch: one launch for all of them.

    Three before it, for tables that are of several sizes or of parts of images, or new to the stream. The bits of an
    image do not depend on the images beside it.

    Args:
        a: images ``(C, H_i, W_i)`` or ``(b_i, C, H_i, W_i)`` on a CUDA device, any strides, read in place. Sums of
            bytes are float32, whatever dtype the result has.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    height, width, interpolation, antialias = a.sampling
    if a.dtype == torch.float64 and a.images[0].dtype == torch.uint8:
        return resample_batch(a._replace(dtype=torch.float32)).to(torch.float64)
    out = empty_batch(a)
    places = regions([image.shape[-2:] for image in a.images], a.boxes, a.flip)
    images = [_four_dimensions(image) for image in a.images]
    work = []
    for image, region, output in zip(images, places, out.split([len(image) for image in images]), strict=True):
        if output.numel():
            work.append(Work(region.view(image), region.flip, *_axes(region, height, width), output))
    norm: tuple[float, ...] = ()
    if a.mean:
        norm = *(1 / (255 * s) for s in a.std), *(-m / s for m, s in zip(a.mean, a.std, strict=True))
    if work:
        _launch(work, interpolation, antialias, False, norm)
    return out


def resample_batch_backward(a: ResampleBatchBackward) -> list[Tensor]:
    """The adjoint of `resample_batch`: one launch for all images, and four before it.

    Returns:
        Gradients like the images, zero outside of their regions. Bitwise deterministic.

    Raises:
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    height, width, interpolation, antialias = a.sampling
    found = empty_images(a)
    places = regions([image.shape[-2:] for image in found], a.boxes, a.flip)
    images = [_four_dimensions(image) for image in found]
    work = []
    for grad, image, region in zip(a.grad.split([len(image) for image in images]), images, places, strict=True):
        if image.numel():
            in_h, in_w = image.shape[2:]
            left = in_w - region.left - region.width if region.flip else region.left
            whole = in_h, in_w, region.top, left
            work.append(Work(grad, region.flip, *_axes(region, height, width), image, whole))
    if work:
        _launch(work, interpolation, antialias, True)
    return found
