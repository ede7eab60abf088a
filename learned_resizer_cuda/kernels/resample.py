"""Launcher of the native resample kernel (csrc/core/resample/resample.cuh) on CUDA tensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.band_matmul import empty_image, is_channels_last
from ..ops.bands import Bands
from . import device, native
from .tables import on_stream


@dataclass(frozen=True)
class Layout:
    """Layout the kernel reads: planes of rows of columns of interleaved channels.

    Attributes:
        planes: B·C for NCHW, B for channels_last.
        planes_per_image: C for NCHW, 1 for channels_last.
        channels: interleaved channels: 1 for NCHW, C for channels_last.
        strides: in elements, of image, plane, channel, row and column.
    """

    planes: int
    planes_per_image: int
    channels: int
    strides: tuple[int, int, int, int, int]


def layout_of(image: Tensor) -> Layout:
    """Layout of a 4-D image of any strides; dense channels_last stays interleaved."""
    batch, channels = image.shape[:2]
    n, c, y, x = image.stride()
    if is_channels_last(image):
        return Layout(batch, 1, channels, (n, 0, c, y, x))
    return Layout(batch * channels, channels, 1, (n, c, 0, y, x))


def axis_arguments(bands: Bands) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Table for the planner: ``(in_size, start, offset, weight)`` with exact float64 weights."""
    start, offset, weight = (t.detach().cpu().numpy() for t in (bands.start, bands.offset, bands.weight))
    return bands.in_size, start, offset, weight.astype(np.float64)


@lru_cache(maxsize=256)
def _plan(
    bands_h: Bands,
    bands_w: Bands,
    dtype: torch.dtype,
    planes: int,
    channels: int,
    vectors: bool,
    gpu: torch.device,
) -> Any:
    """The kernel's plan, a ``_C.ResamplePlan``."""
    return native.load().plan_resample(
        dtype=str(dtype).removeprefix("torch."),
        planes=planes,
        channels=channels,
        vectors=vectors,
        multiprocessors=device.multiprocessors(gpu),
        shared_memory=device.shared_memory(gpu),
        rows=axis_arguments(bands_h),
        columns=axis_arguments(bands_w),
    )


def resample(image: Tensor, bands_h: Bands, bands_w: Bands) -> Tensor:
    """Resample both axes of a CUDA image with band tables.

    ``R_h @ image @ R_w.T`` for each plane, in one launch on the current stream of the image's device, and one before it
    where the tables are new to the stream; the adjoint is the same with transposed tables. Never waits for the device.
    Bitwise deterministic: every sum has one fixed order, without atomics.

    Args:
        image: ``(B, C, H, W)`` on a CUDA device, any strides; float64, float32, float16, bfloat16 or uint8.
            Read in place, without a copy. Half types accumulate in float32; uint8 rounds half up and saturates
            once, at the end.
        bands_h: table of shape ``(h, H)``, on any device. It is copied to the host once; a table on the CPU saves
            that copy.
        bands_w: table of shape ``(w, W)``.

    Returns:
        ``(B, C, h, w)`` in the image's dtype and memory format.

    Raises:
        ValueError: if a table's input size is not the image's.
        RuntimeError: if a launch fails, naming the CUDA error.
    """
    if image.ndim != 4 or image.shape[2] != bands_h.in_size or image.shape[3] != bands_w.in_size:
        raise ValueError(
            f"image: got shape {tuple(image.shape)}; expected (B, C, {bands_h.in_size}, {bands_w.in_size}) "
            "as the tables say"
        )
    out = empty_image(image, bands_h.out_size, bands_w.out_size)
    if out.numel() == 0:
        return out
    module = native.load()
    layout = layout_of(image)
    dtype = str(image.dtype).removeprefix("torch.")
    vectors = module.resample_vectors(dtype, image.data_ptr(), bands_w.in_size, layout.channels, layout.strides)
    plan = _plan(bands_h, bands_w, image.dtype, layout.planes, layout.channels, vectors, image.device)
    place = device.place(image.device)
    tables = on_stream(plan, image.device, *place)
    module.resample(
        plan,
        tables.address,
        image.data_ptr(),
        layout.planes_per_image,
        layout.strides,
        out.data_ptr(),
        *place,
    )
    return out
