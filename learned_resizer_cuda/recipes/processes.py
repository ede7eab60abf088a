"""The processes of a run: alone, started by Lightning (``--devices``), or by torchrun."""

from __future__ import annotations

import os
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Number of this process among all of the run, 0 for the one that writes; known before Lightning starts.

    torchrun sets RANK. Lightning's launcher sets LOCAL_RANK in the processes that it starts, and NODE_RANK.
    """
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return int(os.environ.get("LOCAL_RANK", 0)) + int(os.environ.get("NODE_RANK", 0))


def under_torchrun() -> bool:
    """Whether torchrun started this process, one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and world_size() > 1


def world_size() -> int:
    """Number of processes that torchrun, or Lightning's launcher in one of its own, has started; else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(accelerator: str) -> None:
    """Lets torchrun's processes meet before the run's folder is made; Lightning's own launcher starts the further
    processes only after that."""
    if under_torchrun() and not dist.is_initialized():
        on_gpu = accelerator != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if on_gpu else "gloo")


def wait_for_all() -> None:
    """Returns when every process has called it. Alone, at once."""
    if dist.is_initialized():
        dist.barrier()


def from_first(value: T) -> T:
    """The first process's ``value``, everywhere."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean_over_all(values: torch.Tensor) -> torch.Tensor:
    """Element-wise mean over the processes, of equal shapes."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def sum_over_all(values: torch.Tensor) -> torch.Tensor:
    """Element-wise sum over the processes, of equal shapes."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather(items: list[T]) -> list[T]:
    """All processes' items, in the order of the processes; every process must call it."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return items
    lists: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]
