"""What the launchers ask of torch's CUDA runtime: in one place, which the tests replace to run kernels on the host."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def place(device: torch.device) -> tuple[int, int]:
    """What ends every launch's arguments: the device's index and its current stream (a ``cudaStream_t``)."""
    return device.index, torch.cuda.current_stream(device).cuda_stream


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one, as Triton's launches need it."""
    return torch.cuda.device(device)


def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def shared_memory(device: torch.device) -> int:
    """Shared memory that a block can be allowed, in bytes."""
    # Some releases of torch do not name it in their type stubs, but all from 2.7 on have it.
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin"))  # noqa: B009


def is_capturing() -> bool:
    """Whether the current stream records a CUDA graph."""
    return torch.cuda.is_current_stream_capturing()


def outlive_launch(tensor: Tensor) -> None:
    """Keep a cached tensor's memory from being used again before what is queued on the stream has run."""
    tensor.record_stream(torch.cuda.current_stream(tensor.device))
