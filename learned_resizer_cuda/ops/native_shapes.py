"""Shapes that the native stem, conv, head and trunk are compiled for."""

from __future__ import annotations

from functools import cache

import torch

from .. import backend

_FILTERS = (16, 32)
_CHANNELS = 4
_STAGES = ("stem", "conv", "head")
FUSED_TRUNK_FILTERS = 16
"""Most num_filters of ``trunk_block`` and ``trunk_tail``."""


def map_channels(num_filters: int) -> int:
    """Channels of a feature map in memory: the kernels' next larger number."""
    return next((n for n in _FILTERS if num_filters <= n), num_filters)


def refusal(num_filters: int, channels: int, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the native stages do not take these shapes, or None.

    Args:
        num_filters: of the features.
        channels: of the image.
        device: of all tensors.
        dtype: of the features.
    """
    reason = next(filter(None, (backend.refusal(stage, device, dtype) for stage in _STAGES)), None)
    if reason is not None:
        return reason
    return _shape_refusal(num_filters, channels, device, backend.kernel_module("arguments").arithmetic(dtype))


@cache
def _shape_refusal(num_filters: int, channels: int, device: torch.device, arithmetic: str) -> str | None:
    if num_filters > _FILTERS[-1]:
        return f"the native kernels take up to {_FILTERS[-1]} num_filters, not {num_filters}"
    if channels > _CHANNELS:
        return f"the native kernels take up to {_CHANNELS} in_channels, not {channels}"
    kernels = backend.kernel_module("arguments")
    return next(
        filter(None, (kernels.memory_refusal(stage, arithmetic, num_filters, device) for stage in _STAGES)), None
    )
