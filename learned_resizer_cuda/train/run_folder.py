"""The folder of a run: made once, locked while a run works in it, found again by a run that goes on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType

from ..atomic import remove_leftovers
from ..damaged import reading
from ..shown import shorten, shown
from .config import RunConfig

CONFIG, SUMMARY, REPORT = "config.yaml", "summary.json", "report.html"
FILES = (
    CONFIG, "metrics.csv", SUMMARY, REPORT, "curves.png", "samples.png", "spectrum.png", "ablation.png",
    "transfer.png", "resizer.safetensors", "unreadable.tsv", "batch-sizes.json",
)  # fmt: skip
"""What a run writes at the top of its folder, besides ``stages/``."""
STAGES, LOCK = "stages", ".lock"
PATIENCE = 7.0
"""Seconds to wait for a lock: the workers of a killed process hold it until they see, within 5 s, that it is gone."""


class FolderInUseError(RuntimeError):
    """Another process works in the folder."""


class RunFolder:
    """A run's folder, locked until ``close`` or the end of the process, however that comes. A context manager.

    Args:
        path: the folder.
        config: what is to be run in it.
        overwrite: replace a former run's files, and only those.

    Raises:
        FolderInUseError: another process works in it.
        FileExistsError: it holds a finished run, another run, files that are none of a run, or a link as its lock.
        NotADirectoryError: the path is a file.
        DamagedFileError: its config.yaml cannot be read.
        OSError: it cannot be made, or written to.

    Attributes:
        goes_on: whether it holds an unfinished run of the same configuration, to be gone on with.
    """

    def __init__(self, path: Path, config: RunConfig, overwrite: bool = False) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"output: {path} is a file; expected a folder, or a path where none is yet")
        self.goes_on = False
        self._lock: int | None = None
        try:
            self._lock = _lock(path)
            self.goes_on = self._settle(config, overwrite)
        except BaseException:
            self._leave()
            raise

    def _settle(self, config: RunConfig, overwrite: bool) -> bool:
        remove_leftovers(self.path)
        held = [entry.name for entry in self.path.iterdir() if entry.name != LOCK]
        if overwrite and CONFIG not in held and (foreign := sorted({*held} - {*FILES, STAGES})):
            raise FileExistsError(
                f"output: {self.path} holds no run but {', '.join(foreign[:3])}; choose another folder, for only a "
                "former run is overwritten"
            )
        if overwrite:
            self._clear()
            held = []  # a stranger's files stay
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
            names = [name for name in mine if mine[name] != other[name]]
            changed = ", ".join(f"{name} {shown(other[name])} → {shown(mine[name])}" for name in names)
            raise FileExistsError(
                f"output: {self.path} holds an unfinished run of another configuration ({shorten(changed, 400)}); "
                "choose another folder or pass --overwrite"
            )
        return True

    def _clear(self) -> None:
        import shutil

        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / STAGES, ignore_errors=True)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            with contextlib.suppress(OSError):  # unlocked, it keeps nobody away
                (self.path / LOCK).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    def _leave(self) -> None:
        """After an error: gives the lock back, and takes an empty folder away."""
        self.close()
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        trained = self.goes_on or any(path.is_file() for path in (self.path / STAGES).rglob("*"))
        if error is not None and not trained:
            # The data or an argument was wrong: nothing is left behind.
            with contextlib.suppress(OSError):
                self._clear()
        if error is None:
            self.close()
        else:
            self._leave()


def _lock(path: Path) -> int:
    """Makes a folder and locks it; the descriptor of its lock file."""
    latest = time.monotonic() + PATIENCE
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:
            descriptor = _open_lock(path / LOCK, os.O_RDWR | os.O_CREAT)
            opened.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Else who held it has taken it away, and the next one will lock a new file
                if os.fstat(descriptor).st_nlink:
                    opened.pop_all()
                    return descriptor
            except BlockingIOError:
                if time.monotonic() >= latest:
                    raise FolderInUseError(
                        f"output: another process works in {path}; wait for it or choose another folder"
                    ) from None
        time.sleep(0.1)


def _open_lock(path: Path, flags: int) -> int:
    """Follows no link, empties no file and waits for no pipe: what is there may be a trap of somebody else's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise FileExistsError(f"output: {path} is a link; expected a file of this program's, or none") from None


def wait_for_folder(path: Path, config: RunConfig, seconds: float = 300) -> None:
    """Returns when the first process, of another node, has made the run's folder and works in it.

    Raises:
        FolderInUseError: it has not after so many seconds, or works at something else.
    """
    latest = time.monotonic() + seconds
    while True:
        with contextlib.suppress(TypeError, ValueError, OSError):  # not there yet, or half an old one
            if _busy(path) and not (path / SUMMARY).exists() and RunConfig.load(path / CONFIG) == config:
                return
        if time.monotonic() >= latest:
            raise FolderInUseError(
                f"output: nothing of the first node works at this run in {path}; expected a folder that all share"
            )
        time.sleep(0.2)


def find_folder(config: RunConfig, runs: Path = Path("runs")) -> Path:
    """Where a run without a named folder works: in the newest unfinished run of the same configuration below ``runs``
    in which nobody works, so that the same command goes on after a crash; else in a new one named by the time.

    The new folder is made here: two commands at once get two. Clocks decide its name alone, and which of several such
    runs goes on.
    """
    for path in sorted(runs.glob(f"*/{CONFIG}"), key=_changed, reverse=True):
        folder = path.parent
        if (folder / SUMMARY).exists() or _busy(folder):
            continue
        try:
            if RunConfig.load(path) == config:
                return folder
        except (TypeError, ValueError, OSError):
            continue  # of another version, or not ours
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
    except OSError:  # a link to nowhere, or just removed
        return -math.inf


def _busy(folder: Path) -> bool:
    try:
        descriptor = _open_lock(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def remedy(stage: Path) -> str:
    """What to do about a damaged file of a stage that has ended.

    Args:
        stage: its folder.
    """
    summary = stage.parents[1] / SUMMARY
    files = f"{stage} and {summary}" if summary.exists() else stage
    return f"delete {files}, then the run's command trains that stage again"
