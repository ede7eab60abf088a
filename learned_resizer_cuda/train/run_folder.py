"""The folder of a run: made, locked, and found again to resume."""

from __future__ import annotations

import contextlib
import errno
import math
import shutil
import time
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from ..atomic import remove_leftovers
from ..damaged import reading
from ..shown import shorten, shown
from .config import RunConfig

CONFIG, SUMMARY, REPORT = "config.yaml", "summary.json", "report.html"
FILES = (
    CONFIG, "metrics.csv", SUMMARY, REPORT, "curves.png", "samples.png", "spectrum.png", "ablation.png",
    "transfer.png", "resizer.safetensors", "unreadable.tsv", "batch-sizes.json", "teacher.safetensors",
)  # fmt: skip
"""Files that a run may write at the top of its folder, beside ``stages/``."""
STAGES, LOCK = "stages", ".lock"
PATIENCE = 7.0
"""Seconds to wait for a lock, for a process that is just ending."""


class FolderInUseError(RuntimeError):
    """Another process works in the folder, or none does where one should."""


class RunFolder:
    """A run's folder, locked. A context manager.

    The lock lasts until ``close``, or until the process ends in any way. Keep a reference: the lock of an object that
    is collected is released.

    Args:
        path: the folder; made if missing.
        config: the run.
        overwrite: replace the files of a former run, and only those.

    Raises:
        FolderInUseError: another process works in it.
        FileExistsError: it holds a finished run, another run, files that are not a run's, or a link as its lock.
        NotADirectoryError: the path is a file.
        DamagedFileError: its config.yaml cannot be read.
        OSError: it cannot be made or written to.

    Attributes:
        resuming: whether it holds an unfinished run of the same configuration.
    """

    def __init__(self, path: Path, config: RunConfig, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"output: {path} is a file; expected a folder, or a path that does not exist")
        self.resuming = False
        self._lock: FileLock | None = None
        try:
            self._lock = _lock(path)
            self.resuming = self._prepare(config, overwrite)
        except BaseException:
            self._leave()
            raise

    def _prepare(self, config: RunConfig, overwrite: bool) -> bool:
        """Whether to resume; the folder then holds the configuration, no other run."""
        remove_leftovers(self.path)
        held = [entry.name for entry in self.path.iterdir() if entry.name != LOCK]
        if overwrite and CONFIG not in held and (foreign := sorted({*held} - {*FILES, STAGES})):
            raise FileExistsError(
                f"output: {self.path} holds no run but {', '.join(foreign[:3])}; choose another folder: only a "
                "former run is overwritten"
            )
        if overwrite:
            self._clear()
            held = []  # files that are not a run's stay
        if not held:
            config.save(self.path / CONFIG)
            return False
        if CONFIG not in held:
            raise FileExistsError(f"output: {self.path} is not empty; choose another folder or pass --overwrite")
        if (self.path / SUMMARY).exists():
            raise FileExistsError(
                f"output: {self.path} holds a finished run; choose another folder or pass --overwrite"
            )
        with reading(self.path / CONFIG, "choose another folder or pass --overwrite"):
            there = RunConfig.load(self.path / CONFIG)
        if there != config:
            mine, other = config.as_dict(), there.as_dict()
            names = [field.name for field in fields(config) if field.compare and mine[field.name] != other[field.name]]
            changed = ", ".join(f"{name} {shown(other[name])} → {shown(mine[name])}" for name in names)
            raise FileExistsError(
                f"output: {self.path} holds an unfinished run of another configuration ({shorten(changed, 400)}); "
                "choose another folder or pass --overwrite"
            )
        return True

    def _clear(self) -> None:
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / STAGES, ignore_errors=True)

    def close(self) -> None:
        """Releases the lock and removes its file."""
        if self._lock is not None:
            # Unlinked while it is locked: a process that waits for it then sees that, and makes a new file
            with contextlib.suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def _leave(self) -> None:
        """Releases the lock after an error and removes the folder if empty."""
        self.close()
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trained = self.resuming or any(path.is_file() for path in (self.path / STAGES).rglob("*"))
        if error is not None and not trained:
            # The data or an argument was wrong: leave nothing behind
            with contextlib.suppress(OSError):
                self._clear()
        if error is None:
            self.close()
        else:
            self._leave()


def _lock(path: Path) -> FileLock:
    """Locks a folder; ``FileLock`` makes it if it is missing."""
    lock = FileLock(path / LOCK, timeout=PATIENCE, poll_interval=0.1)
    while True:
        try:
            lock.acquire()
            return lock
        except Timeout:
            raise FolderInUseError(
                f"output: another process works in {path}; wait for it or choose another folder"
            ) from None
        except FileNotFoundError:
            continue  # the lock's holder has just removed the empty folder
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise FileExistsError(
                f"output: {path / LOCK} is a link; expected a lock file of a run, or no file"
            ) from None


def wait_for_folder(path: Path, config: RunConfig, seconds: float = 300) -> None:
    """Waits until the first node's process has locked the run's folder.

    Raises:
        FolderInUseError: it has not within ``seconds``, or for another run.
    """
    latest = time.monotonic() + seconds
    while True:
        with contextlib.suppress(TypeError, ValueError, OSError):  # not there yet, or a former run's being replaced
            if _busy(path) and not (path / SUMMARY).exists() and RunConfig.load(path / CONFIG) == config:
                return
        if time.monotonic() >= latest:
            raise FolderInUseError(
                f"output: got {path}, where the first node does not work at this run; expected a folder that all share"
            )
        time.sleep(0.2)


def find_folder(config: RunConfig, runs: Path = Path("runs")) -> Path:
    """The folder of a run for which none was given.

    It is the newest unfinished run of the same configuration below ``runs`` in which no process works, so that the
    same command resumes after a crash; otherwise a new one, named by the time. The new folder is made here, so two
    commands at the same time get two. Clocks decide only its name, and which of several unfinished runs is resumed.
    """
    for path in sorted(runs.glob(f"*/{CONFIG}"), key=_changed, reverse=True):
        folder = path.parent
        if (folder / SUMMARY).exists() or _busy(folder):
            continue
        try:
            if RunConfig.load(path) == config:
                return folder
        except (TypeError, ValueError, OSError):
            continue  # of another version, or not a run's
    runs.mkdir(parents=True, exist_ok=True)
    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder, number = runs / name, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
            folder = runs / f"{name}-{number}"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a broken link, or just removed
        return -math.inf


def _busy(folder: Path) -> bool:
    lock = folder / LOCK
    if not lock.exists():  # trying to lock it would make it
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except (Timeout, PermissionError):  # another process's, or another user's
        return True
    except OSError:  # a link, or a folder in its place
        return False


def remedy(stage: Path) -> str:
    """Remedy for a damaged file of a finished stage, for error messages.

    Args:
        stage: the stage's folder.
    """
    summary = stage.parents[1] / SUMMARY
    files = f"{stage} and {summary}" if summary.exists() else stage
    return f"delete {files}, then the run's command trains that stage again"
