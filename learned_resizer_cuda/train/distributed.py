"""The processes of a run: alone, started by Lightning (``--devices``), or by torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_launchers: list[Any] = []
"""Lightning's, in the first process of a node, once it has started the others; they serve every stage of the run."""


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


def start_others(launcher: Any) -> None:
    """Lets Lightning start the further processes of this node, once; ``end_others`` ends them.

    A terminal sends Ctrl-C to all of them. They leave it to this one, from their very start: signals that are blocked
    here stay blocked in a new process, until ``leave_group``.

    Args:
        launcher: of a trainer's strategy; None where it has none.
    """
    if launcher is None or "LOCAL_RANK" in os.environ:
        return
    _launchers.append(launcher)
    with _putting_off_signals():
        launcher.launch(lambda: None)


@contextlib.contextmanager
def _putting_off_signals() -> Iterator[None]:
    """Blocks signals for what the body starts, and lets none break it off: a process that nobody knows yet would be
    left alone. Blocking is not enough for that, since other threads take them."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    came: list[int] = []
    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            if signal.getsignal(name) is not signal.SIG_IGN:
                former[name] = signal.signal(name, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        # First, so that those that wait are counted
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in former.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def leave_group() -> None:
    """In a process that ``start_others`` has started: forgets the signals it was sent with the others, and gets no
    more of those. Elsewhere without effect."""
    if signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {*_SIGNALS}:
        os.setpgid(0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.signal(number, signal.SIG_IGN))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_others() -> None:
    """Kills the processes that ``start_others`` has started, with their workers: they may be waiting for this one."""
    for launcher in _launchers:
        started = [*launcher.procs]
        # A thread of Lightning's kills this process, too, as soon as it sees that one of them was killed
        launcher.procs.clear()
        for process in started:
            with contextlib.suppress(ProcessLookupError):  # it has not left this one's group yet, or is gone
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    _launchers.clear()


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
