"""Parallel batches: one thread per image, and one inside each torch call.

torch's own parallelism splits every call over all threads and waits for the slowest, here thousands of times per step.
If the machine runs anything else, each wait can last a scheduler's time slice. With images of its own for every thread
there is one wait, at the end, and a tile stays in one core's cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from typing import TypeVar

import torch

# Elements of a feature map that other devices process at once: they have no cache to stay in, and launches cost more.
_DEVICE_ELEMENTS = 1 << 25

Item = TypeVar("Item")
Result = TypeVar("Result")


def group_elements(on_cpu: int, device: torch.device) -> int:
    """Elements of a feature map per group of images or tile."""
    return on_cpu if device.type == "cpu" else _DEVICE_ELEMENTS


def map_in_order(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """``list(map(function, items))``, on a CPU with all the threads torch may use.

    Fewer items than threads run sequentially, with torch's own parallelism inside each. Items must write to disjoint
    memory. No gradients are recorded.
    """
    if device.type == "cpu":
        _keep_freed_memory()
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(items) < threads:
        return [function(item) for item in items]

    inference = torch.is_inference_mode_enabled()

    def run(item: Item) -> Result:
        # Modes are per thread; tensors created in inference mode can only be written in that mode.
        with torch.inference_mode(inference), torch.no_grad():
            return function(item)

    # Keyed by process: a forked child inherits the pool but not its threads.
    return list(_pool(threads, os.getpid()).map(run, items))


@cache
def _keep_freed_memory() -> None:
    """Let glibc reuse what a tile frees.

    Without this it returns the memory to the system after each tile of some sizes, and the next one pays for page
    faults: a third of the time of 64 images of 96². glibc keeps twice the largest block that was freed (mallopt(3),
    M_MMAP_THRESHOLD): here 8 MiB, a few maps of a tile; the block itself is never touched. Larger maps still go back.
    Other allocators do not notice.
    """
    torch.empty((4 << 20) - 8192, dtype=torch.uint8)


@lru_cache(maxsize=1)
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="learned_resizer")
    started = threading.Barrier(threads)

    def start(_: int) -> None:
        # A thread's first call of get_num_threads resets the number to the process's: make it before setting.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    list(pool.map(start, range(threads)))
    # set_num_threads also changed the default of the user's new threads: restore it.
    torch.set_num_threads(threads)
    return pool
