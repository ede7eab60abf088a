"""Stages side by side, each in a process on its cores.

On small networks threads wait for one another more than they compute: two trainings of one thread each do nearly twice
the work of one with two.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ..data.source import Unreadable
from ..data.unreadable import UnreadableLog
from . import distributed
from .config import RunConfig
from .memory import keep_freed_memory
from .progress import Watcher
from .protocol import Stage, widest
from .results import Row, StageResult
from .run import Run
from .server import worker_context

_PAUSE = 0.1
"""Least seconds between two messages on a stage's steps."""


class WorkerError(RuntimeError):
    """A process that trained a stage ended by itself."""


def train_stages(run: Run) -> list[StageResult]:
    """Trains the stages of a run that are not complete.

    Determinism: the same results, to the bit, with any number of jobs.

    Returns:
        Results of all stages, in their order.

    Raises:
        WorkerError: a process of another job ended.
        NonFiniteLossError, TooManyUnreadableError: end a training; complete stages are kept.
        DamagedFileError: a file of an earlier call cannot be read.
        OSError: a file cannot be written; the next call resumes from the last checkpoint.
    """
    missing = [stage for stage in run.stages if not run.is_complete(stage)]
    workers = min(run.jobs, widest(missing))
    with _threads(run.threads):
        if workers < 2:
            return [run.train_stage(stage) for stage in run.stages]
        results = {stage.key: run.train_stage(stage) for stage in run.stages if stage not in missing}
        results |= SideBySide(run, missing, workers).train()
        return [results[stage.key] for stage in run.stages]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Limits torch's threads in the body."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


class SideBySide:
    """Trains stages in worker processes.

    A stage can start when the one it starts from is complete. Of the stages that can start, the one with the most steps
    to come, its own and those that wait for it, is first. Workers write into the stages' folders only. They end with
    this process, however it ends, and ignore the signals of its terminal.

    Args:
        run: the run, which loads complete stages and is told of progress.
        stages: those to train.
        count: worker processes.
    """

    def __init__(self, run: Run, stages: Sequence[Stage], count: int) -> None:
        self.run, self.count = run, count
        self.waiting = {stage.key: stage for stage in stages}
        following = Counter[str | None]()
        for stage in stages:
            following[stage.start_key] = max(following[stage.start_key], stage.steps)
        self.order = sorted(self.waiting, key=lambda key: -self.waiting[key].steps - following[key])
        self.results: dict[str, StageResult] = {}
        self.idle: list[_Worker] = []
        self.busy: dict[Connection, tuple[_Worker, Stage]] = {}

    def train(self) -> dict[str, StageResult]:
        """Trains all of them; returns their results by key.

        Raises:
            WorkerError: a worker ended.
            Exception: of a stage, as ``Run.train_stage`` raises it; complete stages are kept.
        """
        self.run.watcher.doing(f"starting {self.count} processes")
        workers: list[_Worker] = []
        context = worker_context()
        try:
            with distributed.signals_deferred():
                for _ in range(self.count):
                    workers.append(_Worker(context, self.run.config, self.run.folder, self.run.threads))
            self.idle += workers
            while self.waiting or self.busy:
                self._start_stages()
                for connection in wait([*self.busy]):
                    self._receive(*self.busy[connection])  # type: ignore[index]
        finally:
            for worker in workers:
                worker.kill()
        return self.results

    def _start_stages(self) -> None:
        unfinished = self.waiting.keys() | {stage.key for _, stage in self.busy.values()}
        for key in self.order:
            if self.idle and key in self.waiting and self.waiting[key].start_key not in unfinished:
                worker, stage = self.idle.pop(), self.waiting.pop(key)
                self.busy[worker.connection] = worker, stage
                with _noticing(worker, stage):
                    worker.connection.send(key)

    def _receive(self, worker: _Worker, stage: Stage) -> None:
        with _noticing(worker, stage):
            kind, *content = worker.connection.recv()
        if kind == "error":
            error, text = content
            raise error from _Traceback(text)
        if kind == "unreadable":
            self.run.unreadable.add(*content)
        elif kind == "complete":
            self.idle.append(self.busy.pop(worker.connection)[0])
            self.results[stage.key] = self.run.load_stage(stage)
            self.run.watcher.finish(self.results[stage.key])
        else:
            getattr(self.run.watcher, kind)(*content)


@contextlib.contextmanager
def _noticing(worker: _Worker, stage: Stage) -> Iterator[None]:
    """Raises ``WorkerError`` if the process is found to have ended."""
    try:
        yield
    except (EOFError, ConnectionError):
        raise WorkerError(
            f"{stage.name}: its process ended ({worker.ending()}); if memory was short, use fewer --jobs"
        ) from None


class _Traceback(Exception):
    """Traceback of another process, as the cause of its error."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Worker:
    """A process that trains stages by key until its connection closes."""

    def __init__(self, context: ForkServerContext | SpawnContext, config: RunConfig, folder: Path, count: int) -> None:
        self.connection, theirs = context.Pipe()
        # Not a daemon, which may not start data loader workers.
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, config, folder, count))
        self.process.start()
        theirs.close()

    def ending(self) -> str:
        """How the process ended."""
        self.process.join(5)
        code = self.process.exitcode
        return f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Ends the process and its workers; files are whole at any time."""
        if self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or not yet a group of its own
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _work(connection: Connection, config: RunConfig, folder: Path, count: int) -> None:
    """The main function of a worker."""
    distributed.leave_group()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(count)
    run: Run | None = None
    try:
        while True:
            key = connection.recv()
            if run is None:
                run = Run(config, folder)
                run.watcher, run.unreadable = _RemoteWatcher(connection), _RemoteLog(connection)
            run.train_stage(next(stage for stage in run.stages if stage.key == key))
            connection.send(("complete",))
    except EOFError:  # the other side has all results
        return
    except Exception as error:
        connection.send(("error", _portable(error), traceback.format_exc()))


def _end_with_parent() -> None:
    """Ends this process with its parent.

    It must not write into a folder that is no longer locked.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error if it can be pickled, else one with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class raises
        return RuntimeError(f"{type(error).__name__}: {error}")


class _RemoteWatcher(Watcher):
    """Sends what happens in a stage to the first process."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.sent = connection, 0.0

    def start(self, stage: Stage) -> None:
        self.connection.send(("start", stage))

    def step(self, stage: Stage, step: int) -> None:
        if time.monotonic() >= self.sent + _PAUSE:
            self.sent = time.monotonic()
            self.connection.send(("step", stage, step))

    def testing(self, stage: Stage) -> None:
        self.connection.send(("testing", stage))

    def tested(self, stage: Stage, row: Row) -> None:
        self.connection.send(("step", stage, row.step))
        self.connection.send(("tested", stage, row))


class _RemoteLog(UnreadableLog):
    """Sends unreadable images to the first process, which counts them."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(0)
        self.connection = connection

    def add(self, items: Iterable[Unreadable]) -> None:
        if found := list(items):
            self.connection.send(("unreadable", found))
