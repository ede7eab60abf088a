"""Plan of `resize`: input files, their targets, and conflicts between them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ..atomic import is_case_sensitive
from ..shown import shown_path


class Job(NamedTuple):
    """Source file and target, as text: 100,000 ``Path`` objects take 100 MB."""

    source: str
    target: str


class Unread(NamedTuple):
    """A path below an input that cannot be read, with the reason."""

    path: str
    reason: str


def plan(inputs: Sequence[Path], output: Path) -> tuple[list[Job], list[Unread]]:
    """Lists the files to resize with their targets.

    Args:
        inputs: files and folders; a folder stands for everything below it that is not hidden, in name order, except
            the output folder.
        output: the output folder.

    Returns:
        The jobs, each source once; and what is not read: folders that cannot be listed, and links to folders.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: two sources have the same target, or there are no files.
    """
    unread: list[Unread] = []
    jobs: dict[str, Job] = {}
    for job in _jobs(inputs, output, unread):
        first = jobs.setdefault(job.target, job)
        if first is not job and not same_file(first.source, job.source):
            raise ValueError(_same_target(first, job))
    if not jobs and not unread:
        raise ValueError(f"IN: no files in {', '.join(shown_path(path) for path in inputs)}")
    return list(jobs.values()), unread


def check_targets(jobs: Sequence[Job], output: Path, overwrite: bool) -> None:
    """Checks targets against existing files, and makes the output folder.

    Raises:
        FileExistsError: a target is a folder, or a file that may not be replaced.
        ValueError: a target is the source of another job, under this name or another; or it differs from another
            target only in case, in a folder that ignores case.
        OSError: the output folder cannot be made or written to.
    """
    there = {job.target: status for job in jobs if (status := _status(job.target))} if output.is_dir() else {}
    taken = [target for target, status in there.items() if not overwrite or stat.S_ISDIR(status.st_mode)]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        is_folder = stat.S_ISDIR(there[taken[0]].st_mode)
        hint = "is a folder" if is_folder else "exists; pass --overwrite to replace it"
        raise FileExistsError(f"--output: {shown_path(taken[0])}{more} {hint}")
    moved = [job for job in jobs if job.target in there and job.target != job.source]
    if moved:
        sources = {_identity(status): job.source for job in jobs if (status := _status(job.source))}
        for job in moved:
            other = sources.get(_identity(there[job.target]))
            if other is not None and not same_file(other, job.source):
                raise ValueError(
                    f"--output: {shown_path(job.target)}, the target of {shown_path(job.source)}, is "
                    f"{shown_path(other)}, which is to be resized itself; choose another folder"
                )
    _make_writable(output)
    alike = _differ_only_in_case(jobs)
    if alike and not is_case_sensitive(output):
        first, second = alike
        raise ValueError(f"{_same_target(first, second)}, because {shown_path(output)} ignores case")


def _same_target(first: Job, second: Job) -> str:
    sources = f"{shown_path(first.source)} and {shown_path(second.source)}"
    return f"IN: {sources} would both become {shown_path(second.target)}"


def _jobs(inputs: Sequence[Path], output: Path, unread: list[Unread]) -> Iterator[Job]:
    avoid = _status(output)
    for given in inputs:
        if given.is_dir():
            root = len(os.path.join(given, ""))
            for source in _files_below(str(given), avoid, unread):
                yield Job(source, os.path.join(output, source[root:]))
        elif given.exists():
            yield Job(str(given), os.path.join(output, given.name))
        else:
            raise FileNotFoundError(f"IN: no such file or folder: {shown_path(given)}")


def _files_below(folder: str, avoid: os.stat_result | None, unread: list[Unread]) -> Iterator[str]:
    """Files of a folder, then of its subfolders.

    Broken links and special files are among them, as they are reported later.
    """
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
        except OSError as error:
            unread.append(Unread(folder, error.strerror or str(error)))
            continue
        folders = []
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                if avoid is None or not os.path.samestat(entry.stat(), avoid):
                    folders.append(entry.path)
            elif entry.is_symlink() and entry.is_dir():
                unread.append(Unread(entry.path, "a link to a folder, which is not followed"))
            else:
                yield entry.path
        waiting += reversed(folders)


def _differ_only_in_case(jobs: Sequence[Job]) -> tuple[Job, Job] | None:
    """Two jobs whose targets differ only in case or accents' composition."""
    first: dict[str, Job] = {}
    for job in jobs:
        name = job.target if job.target.isascii() else unicodedata.normalize("NFC", job.target)
        other = first.setdefault(name.casefold(), job)
        if other is not job:
            return other, job
    return None


def same_file(first: str, second: str) -> bool:
    """Whether two paths are equal, or lead to the same existing file."""
    a, b = _status(first), _status(second)
    return first == second or (a is not None and b is not None and os.path.samestat(a, b))


def _status(path: str | Path) -> os.stat_result | None:
    """Of the file, of a link that leads nowhere, or None."""
    for call in (os.stat, os.lstat):
        try:
            return call(path)
        except OSError:
            continue
    return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _make_writable(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--output: cannot make the folder {shown_path(output)}: {error.strerror or error}") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise PermissionError(f"--output: cannot write into the folder {shown_path(output)}")
