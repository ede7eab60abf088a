"""`learned-resizer train`, `transfer` and `ablate`."""

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
from .options import configuration, with_options
from .stopping import Stopped, stoppable
from .streams import fail

if TYPE_CHECKING:
    from ..report.summary import Summary
    from ..report.tables import Table
    from ..train.progress import Watcher

FOLDER = "LEARNED_RESIZER_RUN"
"""Environment variable that names the run's folder to the processes that Lightning starts."""
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EROFS: "make the file system writable",
}


@with_options("resizer")
def train(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Train the learned resizer together with a network, as in the paper.

    First a baseline is trained behind each fixed filter. The other arms start from the baseline's network: learned
    trains the resizer and the network together; blind does the same with a resizer that sees only the filter's
    output; control trains the baseline for as long again, and control-long ten times as long. Together they tell
    a gain from the image's detail from a gain from more parameters or more training.

    Without --data the images are real and come with the installed packages, no network needed: handwritten
    digits on photographs, 96×96, resized to 16×16; with --task segmentation, the same with masks; with --task iqa,
    photographs with graded distortions. The built-in data has its own settings where the defaults, the paper's, do
    not suit it. --models trains one resizer for several networks, each with its own loss.

    After an interruption, the same command in the same folder resumes the run. Writes config.yaml, metrics.csv,
    summary.json, report.html with its pictures, and resizer.safetensors.
    """
    run_command("train", values, config, output, overwrite)


@with_options("arms", "interpolation", "num_filters", "num_blocks", "zero_init")
def transfer(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Tune a trained resizer with another network: the paper's test of generality.

    The network is first trained behind the fixed filter of --baseline. Three arms start from it: transfer, behind
    the resizer of --resizer (several have a name each, an arm each); fresh, behind the same architecture with random
    weights; control, still behind the fixed filter. Each is tested before tuning (epoch 0) and after each epoch, or
    after those of --epochs.
    """
    run_command("transfer", values, config, output, overwrite)


@with_options("arms", "resizer")
def ablate(values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool) -> None:
    """Train resizers for all combinations of --num-blocks and --num-filters, from one baseline.

    Writes a table and a plot of accuracy against GFLOP and parameters, with the baseline and its control, which
    trains for as long.
    """
    run_command("ablate", values, config, output, overwrite)


def run_command(
    command: str, values: dict[str, Any], config: Path | None, output: Path | None, overwrite: bool
) -> None:
    """Runs a training command, alone or as one of several processes.

    Exits the program on failure. Exit code: 2 for what the user has to change before anything runs, 1 for a training
    that could not continue.
    """
    from ..train import distributed
    from ..train.limits import check_machine
    from ..train.run_folder import FolderInUseError, RunFolder, find_folder, wait_for_folder
    from ..train.server import started_early

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
            return _run(settings, chosen)
        held = None
        problem: Exception | None = None
        path = output
        if first:
            try:
                path = output or find_folder(settings)
                held = RunFolder(path, settings, overwrite)
            except (TypeError, ValueError, OSError, FolderInUseError) as error:
                problem = error
        # Under torchrun the other processes wait for the first one's folder, and exit with it if it fails.
        path, failed = distributed.from_first((path, problem is not None))
        if problem is not None:
            raise problem
        if failed:
            raise ValueError("the first process could not make the run's folder")
    except DamagedFileError as error:
        fail(command, error, 1)
    except OSError as error:
        fail(command, _explain(error), 1 if error.errno in _REMEDIES else 2)
    except (TypeError, ValueError, FolderInUseError) as error:
        fail(command, error)
    assert path is not None
    if held is None:
        return _run(settings, path)
    os.environ[FOLDER] = str(path)
    with held, started_early(settings):
        _run(settings, path, held.resuming, "here" if output else f"here, in {path}")
    return None


def _explain(error: OSError) -> str:
    """A system's error in words that help the user."""
    if error.errno is None or error.filename is None:
        return str(error)
    if remedy := _REMEDIES.get(error.errno):
        return f"cannot write {error.filename}: {error.strerror}; {remedy}, then the same command resumes"
    return f"cannot use {error.filename}: {error.strerror}"


def _run(config: RunConfig, folder: Path, resuming: bool = False, where: str = "here") -> None:
    """Trains in ``folder``; after interruptions, the same command resumes from ``where``."""
    from ..data.errors import TooManyUnreadableError
    from ..report.terminal import open_console, print_line, print_summary
    from ..train import distributed
    from ..train.batch_size import BatchSizeError
    from ..train.jobs import WorkerError
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
        what = f"resuming {config.command}" if resuming else config.command
        print_line(console, f"{what}: {config.title}, in {folder}")
    try:
        with stoppable(), progress(console) if first else nullcontext(Watcher()) as watcher:
            report = train_and_report(config, folder, watcher)
    except Stopped as stopped:
        for worker in multiprocessing.active_children():
            worker.kill()  # workers have nothing to save, and the exit would wait for one that hangs
        if not first:
            raise SystemExit(stopped.code) from None
        fail(config.command, f"{stopped}; the same command resumes from {where}", stopped.code)
    except WorkerError as error:
        fail(config.command, f"{error}; the same command resumes from {where}", 1)
    except (NonFiniteLossError, TooManyUnreadableError, DamagedFileError) as error:
        fail(config.command, error, 1)
    except (BatchSizeError, FileNotFoundError, ValueError) as error:
        fail(config.command, error)
    except OSError as error:
        fail(config.command, _explain(error), 1)
    if report is None:
        return
    print_summary(console, *report)
    made = ", ".join(name for name in FILES if (folder / name).exists())
    print_line(console, f"{time.perf_counter() - started:.0f} s. In {folder}: {made}")


def train_and_report(
    config: RunConfig, folder: Path, watcher: Watcher | None = None
) -> tuple[Summary, list[Table]] | None:
    """Trains a configuration in its folder and writes its report.

    Returns:
        The summary and its tables; None in every process but the first.

    Raises:
        Exception: what ``Run`` and ``train_stages`` raise, after ending the processes that Lightning has started.
    """
    from ..report.write import write_report
    from ..train import distributed
    from ..train.jobs import train_stages
    from ..train.run import Run

    started = time.perf_counter()
    try:
        run = Run(config, folder, watcher)
        results = train_stages(run)
        if not run.first:
            return None
        run.watcher.doing("writing the report")
        return write_report(run, results, time.perf_counter() - started)
    except BaseException:
        distributed.end_others()
        raise
