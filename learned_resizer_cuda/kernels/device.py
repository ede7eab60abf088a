"""Queries to torch's CUDA runtime; replaced to test kernels on the host."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def place(device: torch.device) -> tuple[int, int]:
    """Every launch's last arguments: device index and current stream (a ``cudaStream_t``)."""
    return device.index, torch.cuda.current_stream(device).cuda_stream


def current(device: torch.device) -> AbstractContextManager[object]:
    """Context that makes a device current, as Triton's launches need it."""
    return torch.cuda.device(device)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_memory(device: torch.device) -> int:
    """Largest shared memory of a block, opt-in, in bytes."""
    # Missing from the type stubs of some releases; at runtime it exists since torch 2.7.
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin"))  # noqa: B009


def is_capturing() -> bool:
    """Whether the current stream is capturing a CUDA graph."""
    return torch.cuda.is_current_stream_capturing()


def outlive_launch(tensor: Tensor) -> None:
    """Keep a cached tensor's memory until the stream's queued work has run."""
    tensor.record_stream(torch.cuda.current_stream(tensor.device))
