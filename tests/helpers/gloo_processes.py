"""Processes of one machine that talk by gloo, for tests of what takes several."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch was built without gloo"
)


def run_processes(work: Callable[[int], Any], folder: Path, world: int = 2, start_method: str = "spawn") -> list[Any]:
    """What ``work(rank)``, a function of a module, returns in each of ``world`` processes of one thread.

    Args:
        folder: empty, for the results, which ``torch.load`` has to take.

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of a process that failed.
    """
    torch.multiprocessing.start_processes(_process, (work, str(folder), world), world, start_method=start_method)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def _process(rank: int, work: Callable[[int], Any], folder: str, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    torch.save(work(rank), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Past the interpreter's own end, where a thread of gloo aborts one process in eighty: "terminate called".
    os._exit(0)
