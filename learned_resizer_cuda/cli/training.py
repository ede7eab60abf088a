"""What the training commands share: the run's folder, the progress, and what is printed in the end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..damaged import DamagedFileError
from ..train.config import RunConfig
from .options import configuration
from .stopping import Stopped, stoppable
from .streams import fail

if TYPE_CHECKING:
    from ..report.summary import Summary
    from ..train.progress import Watcher

FOLDER = "LEARNED_RESIZER_RUN"
"""Tells the processes that Lightning starts which folder the first one has chosen."""
_CURES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "make the file system writable",
}


def run_command(
    command: str, values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool
) -> None:
    """Runs a command in its folder, alone or as one of several processes; ends the program where it fails.

    Exit code: 2 for what the user has to change before anything runs, 1 for a training that could not go on.
    """
    from ..train import distributed
    from ..train.limits import check_machine
    from ..train.run_folder import FolderInUseError, RunFolder, find_folder, wait_for_folder

    first = distributed.is_first_process()
    distributed.leave_group()
    try:
        settings = configuration(command, values, config)
        check_machine(settings)
        if output is None and settings.nodes > 1 and not distributed.under_torchrun():
            raise ValueError("output: got none; expected a folder that all nodes share, with --nodes above 1")
        if distributed.under_torchrun() and distributed.world_size() != settings.devices * settings.nodes:
            raise ValueError(
                f"devices: got {settings.devices} on {settings.nodes} nodes; expected {distributed.world_size()} in "
                "all, as many as torchrun has started"
            )
        distributed.join(settings.accelerator)
        if not first and not distributed.under_torchrun():
            chosen = Path(os.environ.get(FOLDER) or str(output))
            if settings.nodes > 1:
                wait_for_folder(chosen, settings)
            return _run(settings, chosen, False, "here")
        held = None
        problem: Exception | None = None
        path = output
        if first:
            try:
                path = output or find_folder(settings)
                held = RunFolder(path, settings, overwrite)
            except (TypeError, ValueError, OSError, FolderInUseError) as error:
                problem = error
        # Under torchrun the others wait for the first one's folder, and end with it where there is none.
        path, failed = distributed.from_first((path, problem is not None))
        if problem is not None:
            raise problem
        if failed:
            raise ValueError("the first process could not make the run's folder")
    except DamagedFileError as error:
        fail(command, error, 1)
    except OSError as error:
        fail(command, _told(error), 1 if error.errno in _CURES else 2)
    except (TypeError, ValueError, FolderInUseError) as error:
        fail(command, error)
    assert path is not None
    where = "here" if output else f"here, in {path}"
    if held is None:
        return _run(settings, path, False, where)
    os.environ[FOLDER] = str(path)
    with held:
        _run(settings, path, held.goes_on, where)
    return None


def _told(error: OSError) -> str:
    """What a system's error means for who called the command."""
    if error.errno is None or error.filename is None:
        return str(error)
    if cure := _CURES.get(error.errno):
        return f"cannot write {error.filename}: {error.strerror}; {cure}, then the same command goes on"
    return f"cannot use {error.filename}: {error.strerror}"


def _run(config: RunConfig, folder: Path, goes_on: bool, where: str) -> None:
    """Trains in ``folder``; ``where`` tells who stops it."""
    from ..data.errors import TooManyUnreadableError
    from ..report.terminal import open_console, print_line, print_summary
    from ..train import distributed
    from ..train.batch_size import BatchSizeError
    from ..train.memory import keep_freed_memory
    from ..train.progress import Watcher
    from ..train.record import NonFiniteLossError
    from ..train.run_folder import FILES
    from .progress import progress

    keep_freed_memory()
    first = distributed.is_first_process()
    console = open_console()
    started = time.perf_counter()
    if first:
        what = f"going on with {config.command}" if goes_on else config.command
        print_line(console, f"{what}: {config.model} on {config.data}, in {folder}")
    try:
        with stoppable(), progress(console) if first else nullcontext(Watcher()) as watcher:
            summary = train_and_report(config, folder, watcher)
    except Stopped as stopped:
        for worker in multiprocessing.active_children():
            worker.kill()  # they have nothing to keep, and one that hangs would be waited for
        if not first:
            raise SystemExit(stopped.code) from None
        fail(config.command, f"{stopped}; the same command goes on from {where}", stopped.code)
    except (NonFiniteLossError, TooManyUnreadableError, DamagedFileError) as error:
        fail(config.command, error, 1)
    except (BatchSizeError, FileNotFoundError, ValueError) as error:
        fail(config.command, error)
    except OSError as error:
        fail(config.command, _told(error), 1)
    if summary is None:
        return
    print_summary(console, summary)
    made = ", ".join(name for name in FILES if (folder / name).exists())
    print_line(console, f"{time.perf_counter() - started:.0f} s. In {folder}: {made}")


def train_and_report(config: RunConfig, folder: Path, watcher: Watcher | None = None) -> Summary | None:
    """Runs a configuration in its folder, and writes tables, pictures and the report.

    Returns:
        The figures; None in all processes but the first.

    Raises:
        Exception: as ``Run`` and ``Run.train_stages``. The processes that Lightning has started are ended then.
    """
    from ..report.write import write_report
    from ..train import distributed
    from ..train.run import Run

    started = time.perf_counter()
    try:
        run = Run(config, folder, watcher)
        results = run.train_stages()
        if not run.first:
            return None
        run.watcher.doing("writing the report")
        return write_report(run, results, time.perf_counter() - started)
    except BaseException:
        distributed.end_others()
        raise
