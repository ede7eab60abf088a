"""Work on the images of a batch in parallel: a thread an image, and one thread inside each torch call.

torch's own parallelism splits every call over all threads and waits for the last one, thousands of times a step
here. Where the machine does anything else at the same time, each of those waits can last a scheduler's time
slice. Giving every thread images of its own leaves one wait at the end, and keeps a tile in one core's cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(function: Callable[[Item], Result], items: Sequence[Item], device: torch.device) -> list[Result]:
    """``[function(item) for item in items]``, on a CPU with as many threads as torch may use.

    Fewer items than threads run one after the other, with torch's own parallelism inside each. The items must
    write to disjoint memory. No gradients are recorded.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(items) < threads:
        return [function(item) for item in items]

    inference = torch.is_inference_mode_enabled()

    def run(item: Item) -> Result:
        # Modes belong to a thread; what the caller made in inference mode can be written in that mode only.
        with torch.inference_mode(inference), torch.no_grad():
            return function(item)

    # The process is part of the key: a forked child inherits the pool but not its threads.
    return list(_pool(threads, os.getpid()).map(run, items))


@lru_cache(maxsize=1)
def _pool(threads: int, _process: int) -> ThreadPoolExecutor:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="learned_resizer")
    started = threading.Barrier(threads)

    def start(_: int) -> None:
        # A thread's first question for the number sets it to the process's, over what it was told before.
        torch.get_num_threads()
        torch.set_num_threads(1)
        started.wait()

    list(pool.map(start, range(threads)))
    # The call above also set the number that threads of the user's will start with: put it back.
    torch.set_num_threads(threads)
    return pool
