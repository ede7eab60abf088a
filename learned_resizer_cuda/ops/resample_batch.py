"""``resample_batch`` and its adjoint: regions of images of any sizes.

Forward ``y_b = R_h x_b R_wᵀ``, x_b the crop of image b, mirrored if asked for; adjoint ``x̄_b = R_hᵀ ȳ_b R_w``, zero
outside the crop. Each image has band matrices of its own (regions.py) and the bits that it has alone. Each op is the
other's backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import backend
from .band_matmul import is_channels_last
from .dense import resample_dense
from .library import define, register_autocast, register_autograd, register_no_vmap
from .parallel import map_in_order
from .regions import Region, regions
from .resample import DTYPES, Resample, ResampleBackward, Sampling, in_torch, rounded


class BatchSampling(NamedTuple):
    """Output size and filter."""

    height: int
    width: int
    interpolation: str
    antialias: bool


class ResampleBatch(NamedTuple):
    """Arguments of ``resample_batch``."""

    images: list[Tensor]  # each (C, H_i, W_i), or (b_i, C, H_i, W_i) of one size, any strides. Of all, B images
    boxes: Tensor | None  # (N, 4) float64 on the CPU, a row per tensor of images; None: whole images
    flip: Tensor | None  # (N,) bool on the CPU
    sampling: BatchSampling
    dtype: torch.dtype  # of the result: that of the images, or for uint8 also a float dtype
    # Of each channel, or empty: a uint8 image's float result is (y / 255 - mean) / std.
    mean: list[float]
    std: list[float]


class ResampleBatchBackward(NamedTuple):
    """Arguments of ``resample_batch_backward``."""

    grad: Tensor  # (B, C, h, w)
    sizes: list[torch.SymInt]  # of each tensor of images: b_i, 0 for one without that dimension; H_i, W_i
    interleaved: list[int]  # of each, whether its channels are interleaved, 0 or 1
    boxes: Tensor | None
    flip: Tensor | None
    sampling: BatchSampling


class _Job(NamedTuple):
    """Images of one size and their places in the batch."""

    images: Tensor  # (k, C, H, W)
    region: Region
    rows: slice


def _jobs(images: list[Tensor], boxes: Tensor | None, flip: Tensor | None) -> list[_Job]:
    places = regions([image.shape[-2:] for image in images], boxes, flip)
    jobs: list[_Job] = []
    first, threads = 0, torch.get_num_threads()
    for image, region in zip(images, places, strict=True):
        # A group is shared out in as few calls as there are threads.
        group = image if image.dim() == 4 else image.unsqueeze(0)
        for part in group.split(max(1, -(-len(group) // threads))):
            jobs.append(_Job(part, region, slice(first, first + len(part))))
            first += len(part)
    return jobs


def empty_batch(a: ResampleBatch) -> Tensor:
    first = a.images[0]
    count = sum(image.shape[0] if image.dim() == 4 else 1 for image in a.images)
    layout = torch.channels_last if all(map(is_channels_last, a.images)) else torch.contiguous_format
    shape = (count, first.shape[-3], a.sampling.height, a.sampling.width)
    return torch.empty(shape, dtype=a.dtype, device=first.device, memory_format=layout)


def empty_images(a: ResampleBatchBackward) -> list[Tensor]:
    channels = a.grad.shape[1]
    found = []
    for index, interleaved in enumerate(a.interleaved):
        count, height, width = a.sizes[3 * index : 3 * index + 3]
        layout = torch.channels_last if interleaved else torch.contiguous_format
        shape = (count or 1, channels, height, width)
        group = torch.empty(shape, dtype=a.grad.dtype, device=a.grad.device, memory_format=layout)
        found.append(group if count else group.squeeze(0))
    return found


def _largest_first(jobs: list[_Job]) -> list[_Job]:
    """In an order in which threads end at about the same time."""
    return sorted(jobs, key=lambda job: -len(job.images) * job.region.height * job.region.width)


def _resample_batch(a: ResampleBatch) -> Tensor:
    first, sampling = a.images[0], a.sampling
    if backend.runs_native("resample_batch", first.device, first.dtype):
        return backend.kernel_module("resample").resample_batch(a)  # type: ignore[no-any-return]
    out = empty_batch(a)
    normalise = _normalise(a) if a.mean else None

    def run(job: _Job) -> None:
        images, region, rows = job
        crop = region.view(images)
        if region.flip:
            crop = crop.flip(-1)
        if crop.dtype == torch.uint8 != a.dtype:
            crop = crop.to(torch.float64 if a.dtype == torch.float64 else torch.float32)
        target = out[rows]
        resampled = in_torch(Resample(crop, _plain(sampling)), (region.rows, region.columns), target)
        if normalise is not None:
            torch.addcmul(normalise[1], resampled, normalise[0], out=resampled)
        if resampled is not target:
            target.copy_(resampled)

    map_in_order(run, _largest_first(_jobs(a.images, a.boxes, a.flip)), first.device)
    return out


def _resample_batch_backward(a: ResampleBatchBackward) -> list[Tensor]:
    if backend.runs_native("resample_batch_backward", a.grad.device, a.grad.dtype):
        return backend.kernel_module("resample").resample_batch_backward(a)  # type: ignore[no-any-return]
    found = empty_images(a)

    def run(job: _Job) -> None:
        images, region, rows = job
        sampling = _plain(a.sampling)._replace(height=region.height, width=region.width)
        grad = ResampleBackward(a.grad[rows], sampling)
        crop = in_torch(grad, (region.rows, region.columns))
        if region.flip:
            crop = crop.flip(-1)
        if crop.shape != images.shape:
            images.zero_()
        region.view(images).copy_(crop)

    map_in_order(run, _largest_first(_jobs(found, a.boxes, a.flip)), a.grad.device)
    return found


def _plain(sampling: BatchSampling) -> Sampling:
    height, width, interpolation, antialias = sampling
    return Sampling(height, width, None, None, interpolation, antialias)


def _normalise(a: ResampleBatch) -> tuple[Tensor, Tensor]:
    """Scale and shift of a byte's sums, ``(C, 1, 1)``."""
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (a.mean, a.std))
    device = a.images[0].device
    return tuple(v.to(dtype).view(-1, 1, 1).to(device) for v in (1 / (255 * std), -mean / std))  # type: ignore[return-value]


def resample_batch_plainly(
    images: list[Tensor],
    boxes: Tensor | None,
    flip: Tensor | None,
    sampling: tuple[Any, ...],
    dtype: torch.dtype,
    norm: tuple[list[float], list[float]],
    reason: str,
) -> Tensor:
    """The op's result by plain differentiable operations, for images ``(C, H_i, W_i)``.

    Raises:
        RuntimeError: under ``use_backend("native")``.
    """
    backend.refuse_native("resample_batch", reason)
    a = ResampleBatch(images, boxes, flip, BatchSampling(*sampling), dtype, *norm)
    normalise = _normalise(a) if a.mean else None

    def plain(image: Tensor, region: Region) -> Tensor:
        crop = region.view(image)
        crop = crop.flip(-1) if region.flip else crop
        places = region.rows, region.columns
        sums = resample_dense(crop, *_plain(a.sampling), places)
        if normalise is not None:
            sums = sums * normalise[0] + normalise[1]
        return rounded(sums, dtype).to(dtype)

    places = regions([image.shape[-2:] for image in images], boxes, flip)
    return torch.stack([plain(image, region) for image, region in zip(images, places, strict=True)])


def _fake(a: ResampleBatch) -> Tensor:
    first = a.images[0]
    if first.dtype not in DTYPES:
        raise TypeError(f"images[0]: got dtype {first.dtype}; expected {', '.join(str(d) for d in DTYPES)}")
    return empty_batch(a)


def _setup_context(ctx: Any, a: ResampleBatch, output: Tensor) -> None:
    ctx.counts = [image.shape[0] if image.dim() == 4 else 0 for image in a.images]
    sizes = [(count, *image.shape[-2:]) for count, image in zip(ctx.counts, a.images, strict=True)]
    ctx.sizes, ctx.interleaved = sizes, [int(is_channels_last(image)) for image in a.images]
    ctx.boxes, ctx.flip, ctx.sampling = a.boxes, a.flip, a.sampling


def _autograd(ctx: Any, grad: Tensor) -> list[Tensor | None]:
    wanted = [index for index, needed in enumerate(ctx.inputs_need_grad) if needed]
    boxes, flip = ctx.boxes, ctx.flip
    if len(wanted) < len(ctx.counts):
        parts = grad.split([count or 1 for count in ctx.counts])
        grad = torch.cat([parts[index] for index in wanted])
        boxes, flip = (None if rows is None else rows[wanted] for rows in (boxes, flip))
    sizes = [side for index in wanted for side in ctx.sizes[index]]
    interleaved = [ctx.interleaved[index] for index in wanted]
    found = iter(_OPS.resample_batch_backward(grad, sizes, interleaved, boxes, flip, *ctx.sampling))
    return [next(found) if needed else None for needed in ctx.inputs_need_grad]


def _setup_context_backward(ctx: Any, a: ResampleBatchBackward, output: list[Tensor]) -> None:
    ctx.boxes, ctx.flip, ctx.sampling, ctx.dtype = a.boxes, a.flip, a.sampling, a.grad.dtype


def _autograd_backward(ctx: Any, *grads: Tensor) -> list[Tensor]:
    return [_OPS.resample_batch(list(grads), ctx.boxes, ctx.flip, *ctx.sampling, ctx.dtype, [], [])]


define("resample_batch", ResampleBatch, "Tensor", run=_resample_batch, fake=_fake)
define("resample_batch_backward", ResampleBatchBackward, "Tensor[]", run=_resample_batch_backward, fake=empty_images)
_OPS = torch.ops.learned_resizer
register_autograd("resample_batch", lambda a: a.images, _setup_context, _autograd)
register_autograd("resample_batch_backward", lambda a: [a.grad], _setup_context_backward, _autograd_backward)
for _name in ("resample_batch", "resample_batch_backward"):
    register_no_vmap(_name)
    register_autocast(_name)
