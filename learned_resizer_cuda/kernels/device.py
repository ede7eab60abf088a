"""Queries to torch's CUDA runtime; replaced to test kernels on the host."""

from __future__ import annotations

from functools import cache

import torch

from . import native


def place(device: torch.device) -> tuple[int, int]:
    """Every launch's last arguments: device index and current stream (a ``cudaStream_t``)."""
    # Without the Stream object of torch.cuda.current_stream, which costs more than some launches.
    return device.index, torch._C._cuda_getCurrentRawStream(device.index)


@cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_memory(device: torch.device) -> int:
    """Largest shared memory of a block, opt-in, in bytes."""
    # Missing from the type stubs of some releases; at runtime it exists since torch 2.7.
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin"))  # noqa: B009


def identity(index: int, stream: int) -> int | None:
    """A stream's number, which no other ever has; None while it captures."""
    found: int | None = native.load().identify_stream(index, stream)
    return found
