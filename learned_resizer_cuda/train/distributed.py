"""A run's processes: one, or several started by Lightning (``--devices``) or torchrun."""

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
"""Lightning's, in the first process of a node, after it has started the others, which serve every stage of the run."""


def is_first_process() -> bool:
    """Whether this process is the one that writes; known before Lightning starts.

    torchrun sets RANK. Lightning's launcher sets LOCAL_RANK in the processes that it starts, and NODE_RANK.
    """
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK")
    return all(int(os.environ.get(name, 0)) == 0 for name in names)


def is_alone() -> bool:
    """Whether no other process trains with this one."""
    return not (dist.is_initialized() and dist.get_world_size() > 1)


def under_torchrun() -> bool:
    """Whether torchrun started this process, one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and world_size() > 1


def world_size() -> int:
    """Number of processes started by torchrun or Lightning's launcher, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(accelerator: str) -> None:
    """Connects torchrun's processes before the run's folder is made.

    Lightning's launcher starts its processes only after that.
    """
    if under_torchrun() and not dist.is_initialized():
        on_gpu = accelerator != "cpu" and torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if on_gpu else "gloo")


def start_others(launcher: Any) -> None:
    """Starts the other processes of this node, once; ``end_others`` ends them.

    A terminal sends Ctrl-C to all of them. They leave it to this one, from their very start: signals that are blocked
    here stay blocked in a new process, until ``leave_group``.

    Args:
        launcher: of Lightning's strategy; None for a single device.
    """
    if launcher is None or "LOCAL_RANK" in os.environ:
        return
    _launchers.append(launcher)
    with signals_deferred():
        launcher.launch(lambda: None)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Blocks signals in processes the body starts; raises this process's after it.

    A body that is interrupted would leave behind a process that nobody knows yet. Blocking does not prevent that,
    since other threads receive the signals.
    """
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
        # Before the handlers: signals that are pending arrive now
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in former.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def leave_group() -> None:
    """Separates a process started by ``start_others`` or ``jobs`` from its terminal's signals.

    Discards those it has received and leaves the process group. No effect in other processes.
    """
    if signal.pthread_sigmask(signal.SIG_BLOCK, ()) >= {*_SIGNALS}:
        os.setpgid(0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.signal(number, signal.SIG_IGN))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def end_others() -> None:
    """Kills ``start_others``' processes and their workers, which may await this one."""
    for launcher in _launchers:
        started = [*launcher.procs]
        # A thread of Lightning's watches this list, and kills this process, too, once one of them was killed
        launcher.procs.clear()
        for process in started:
            with contextlib.suppress(ProcessLookupError):  # still in this one's group, or gone
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
    _launchers.clear()


def wait_for_all() -> None:
    """Waits until every process has called this."""
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
    if is_alone():
        return values
    return sum_over_all(values) / dist.get_world_size()


def sum_over_all(values: torch.Tensor) -> torch.Tensor:
    """Element-wise sum over the processes, of equal shapes."""
    if is_alone():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather(items: list[T]) -> list[T]:
    """All processes' items, in process order; every process must call this."""
    if is_alone():
        return items
    lists: list[list[T]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [item for one in lists for item in one]
