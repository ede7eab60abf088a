"""A process that imports for all workers of ``jobs``.

They are forks of it: each would need ten seconds of a core to import torch and Lightning by itself. As it computes
nothing, its forks lack no thread of OpenMP.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from .config import RunConfig
from .distributed import signals_deferred
from .limits import shares
from .protocol import plan

# macOS's own libraries do not survive a fork; Python 3.10 would import from the working directory before all others.
FORKS = sys.platform == "linux" and sys.version_info >= (3, 11)


def worker_context() -> ForkServerContext | SpawnContext:
    """The context of multiprocessing that starts workers."""
    if not FORKS:
        return multiprocessing.get_context("spawn")
    resource_tracker.ensure_running()  # its first start would unblock the signals that ``signals_deferred`` blocks
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def started_early(config: RunConfig) -> Iterator[None]:
    """Lets the server import at the same time as this process.

    It ends with the body. Without effect where no stages of ``config`` can train side by side.
    """
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    # The steps of an epoch, which the data decide on, do not matter
    if not FORKS or shares(config, plan(config, lambda _: 1.0))[0] < 2 or server._forkserver_pid is not None:
        yield
        return
    resource_tracker.ensure_running()  # as above
    forkserver.set_forkserver_preload([f"{__package__}.jobs"])
    # Where this process found its modules, which differ if an older version is installed
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    try:
        with signals_deferred(), _environment(PYTHONPATH=path, PYTHONSAFEPATH="1"):
            forkserver.ensure_running()
        yield
    finally:
        forkserver.set_forkserver_preload(["__main__"])  # the default
        if server._forkserver_pid is not None:
            # While it imports it would not notice the end of this process, and keep the terminal's pipes open
            os.kill(server._forkserver_pid, signal.SIGKILL)
            server._stop()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables for processes the body starts."""
    former = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
