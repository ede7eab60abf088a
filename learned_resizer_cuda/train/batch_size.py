"""The largest batch that a training step has memory for."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_RESERVE = 0.1  # of a GPU's memory: fragments, other batches' workspaces, the evaluation
_SHARE = 0.8  # of a CPU's memory: a machine that runs out of it kills processes instead of raising an error
_GROWTH = 32 << 20  # bytes; a smaller difference of two peaks is mostly the allocator's granularity
_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class BatchSizeError(RuntimeError):
    """No batch size can be found: nothing fits, or memory cannot be measured here."""


def largest_batch_size(step: Callable[[int], None], device: torch.device, limit: int, least: int = 2) -> int:
    """The largest power of two from ``least`` to ``limit`` for which ``step`` has enough memory.

    On a GPU every size is tried, upwards, until one fails or leaves less than a tenth of the memory free. On a CPU
    small sizes are tried and their peaks extrapolated: memory is taken to grow linearly with the batch, and the
    predicted peak stays below 0.8 of what this process may use, of the machine's memory or its control group's. The
    answer depends on what else uses the memory meanwhile; the memory of other processes, such as data loader workers
    that start later, is not foreseen.

    Args:
        step: one whole training step on a batch of that many images. It is called with sizes in ascending order,
            the smallest one twice; whatever it changes (weights, optimiser, random generators) the caller restores.
        device: where ``step`` computes, CUDA or CPU.
        limit: largest size, such as the number of images.
        least: smallest size; batch norm in training needs 2.

    Raises:
        ValueError: there is no power of two from ``least`` to ``limit``.
        BatchSizeError: not even the smallest size fits, with the memory in question; or memory cannot be measured on
            this device or system.
    """
    sizes = [1 << power for power in range(max(limit, 0).bit_length()) if 1 << power >= least]
    if not sizes:
        raise ValueError(f"limit: got {limit!r}; expected one with a power of two from {least} to it")
    if device.type == "cuda":
        return _largest_on_gpu(step, device, sizes)
    if device.type == "cpu":
        return _largest_on_cpu(step, sizes)
    raise BatchSizeError(f"batch size: cannot measure the memory of device {device}; give a number instead of auto")


def _largest_on_gpu(step: Callable[[int], None], device: torch.device, sizes: list[int]) -> int:
    best, total = 0, 0
    torch.cuda.empty_cache()
    for size in sizes:
        fits = _runs(step, size)
        # Before the cache is emptied: what the allocator holds after a step is what the step needed at its peak.
        free, total = torch.cuda.mem_get_info(device)
        if not fits:
            gc.collect()  # a traceback may have left cycles that hold tensors
        torch.cuda.empty_cache()
        if not fits or free < _RESERVE * total:
            break
        best = size
    if not best:
        raise BatchSizeError(
            f"batch size: a training step of {sizes[0]} images does not fit {device} with {_gib(total)} of memory, "
            f"{_gib(torch.cuda.mem_get_info(device)[0])} of it free, a tenth kept in reserve; make the images or the "
            "network smaller"
        )
    return best


def _largest_on_cpu(step: Callable[[int], None], sizes: list[int]) -> int:
    gc.collect()
    _reset_peak()
    budget = int(_SHARE * usable_memory())
    # The first step also allocates what is kept (gradients, optimiser state) and thread pools: it is no measure.
    if not _runs(step, sizes[0]) or _peak() > budget:
        raise BatchSizeError(_too_large(sizes[0], budget))
    _reset_peak()
    base = _peak()
    best, previous, slope = 0, 0, 0.0
    for size in sizes:
        predicted = previous + slope * (size - best)
        if best and predicted > budget:
            break
        _reset_peak()
        fits = _runs(step, size)
        peak = _peak()
        if not fits or peak > budget:
            break
        # From the first size alone, all above the base is taken to grow with the batch: more than it can.
        growth = peak - (previous if best else base)
        slope = max(growth, 0) / (size - best)
        measured, best, previous = best > 0, size, peak
        if measured and growth >= _GROWTH:
            while best * 2 <= sizes[-1] and peak + slope * (best * 2 - size) <= budget:
                best *= 2
            break
    if not best:
        raise BatchSizeError(_too_large(sizes[0], budget))
    return best


def _runs(step: Callable[[int], None], size: int) -> bool:
    """Whether a step ran, or else ran out of memory; other errors pass through."""
    try:
        step(size)
    except MemoryError:
        return False
    except RuntimeError as error:
        # CUDA's libraries have errors of their own for it, and so has the CPU allocator.
        signs = ("out of memory", "ALLOC_FAILED", "not enough memory", "can't allocate memory")
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        return False
    return True


def _too_large(size: int, budget: int) -> str:
    return (
        f"batch size: a training step of {size} images needs more than the {_gib(budget)} of memory that this process "
        f"may use ({_SHARE:g} of what is available); make the images or the network smaller"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _reset_peak() -> None:
    """Sets the peak to what the process holds now."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library, or another system
        # Freed memory that glibc has kept would hide a peak.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROC / "self/clear_refs").write_text("5")
    except OSError as error:
        raise _unmeasurable(error) from error


def _peak() -> int:
    return _table(_PROC / "self/status", "VmHWM")


def _table(path: Path, field: str) -> int:
    """Bytes of a field in one of /proc's tables of kB."""
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) << 10
    except OSError as error:
        raise _unmeasurable(error) from error
    raise _unmeasurable(f"{path} has no {field}")


def _unmeasurable(why: object) -> BatchSizeError:
    return BatchSizeError(
        f"batch size: cannot measure a process's memory on this system; give a number instead of auto ({why})"
    )


def usable_memory() -> int:
    """Bytes that this process may hold in all, what it holds now included."""
    room = min([_table(_PROC / "meminfo", "MemAvailable"), *_control_group_rooms()])
    return room + _table(_PROC / "self/status", "VmRSS")


def _control_group_rooms() -> list[int]:
    """Bytes left in each control group above this process that has a limit, of either version of control groups."""
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be the host's, of which only the root is to be seen.
        group = root / path.strip("/")
        while group.is_relative_to(root):
            rooms += _room(group, *files)
            if group == root:
                break
            group = group.parent
    return rooms


def _room(group: Path, limit: str, usage: str, inactive: str) -> list[int]:
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return []
        # File pages not in use count as usage but are dropped where memory is short.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / usage).read_text()) - int(stat.get(inactive, 0))
        return [max(int(most) - used, 0)]
    except (OSError, ValueError):
        return []
