"""Unreadable images of a run: listed in a file, counted once, limited."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..atomic import naming
from ..damaged import reading
from .errors import TooManyUnreadableError
from .source import Batch, Unreadable

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PLAIN = {escape: plain for plain, escape in _ESCAPES.items()}


class UnreadableLog:
    r"""Distinct unreadable images, appended to a file as met: lines ``path<TAB>reason``.

    In the file, backslashes, tabs and line ends of a path are written ``\\``, ``\t``, ``\n``, ``\r``. If the file
    exists, counting continues from it.

    Args:
        limit: how many distinct files may be unreadable, at least 0.
        path: the file, for instance ``unreadable.tsv``; its folder exists. Made with the first image. None: no file.

    Raises:
        ValueError: ``limit`` is negative.
        DamagedFileError: the file is not such a list.
        OSError: it cannot be read.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        if limit < 0:
            raise ValueError(f"limit: got {limit}; expected at least 0")
        self.limit, self.path = limit, path
        self._paths: set[str] = set(_restored(path)) if path is not None and path.exists() else set()

    def __len__(self) -> int:
        """Number of distinct files."""
        return len(self._paths)

    def add(self, items: Iterable[Unreadable]) -> None:
        """Counts those of ``items`` that are new.

        Raises:
            TooManyUnreadableError: there are now more than ``limit`` distinct files, all of them listed.
            OSError: the file cannot be written.
        """
        last: Unreadable | None = None
        new: dict[str, str] = {}
        for last in items:
            if last.path not in self._paths:
                new.setdefault(last.path, last.reason)
        if last is None:
            return
        self._paths.update(new)
        if new and self.path is not None:
            lines = "".join(f"{_escaped(path)}\t{_escaped(reason)}\n" for path, reason in new.items())
            with naming(self.path), open(self.path, "ab") as file:
                file.write(lines.encode("utf-8", "surrogateescape"))
        if len(self._paths) > self.limit:
            listed = "" if self.path is None else f"; all are listed in {self.path}"
            raise TooManyUnreadableError(
                f"{len(self._paths)} images could not be read, more than the limit of {self.limit}; the last is "
                f"{last.path}: {last.reason}{listed}"
            )

    def counting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with their unreadable images counted by ``add``."""
        for batch in batches:
            self.add(batch.unreadable)
            yield batch


def _escaped(text: str) -> str:
    return re.sub(r"[\\\t\n\r]", lambda found: _ESCAPES[found[0]], text)


def _restored(path: Path) -> list[str]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # killed in the middle of a line, which the next one must not continue
        os.truncate(path, len(whole))
    with reading(path, "delete it, then the same command counts unreadable images from 0"):
        entries = [line.split("\t") for line in whole.decode("utf-8", "surrogateescape").split("\n")[:-1]]
        if any(len(entry) != 2 for entry in entries):
            raise ValueError("a line without a path and a reason")
        return [re.sub(r"\\.", lambda found: _PLAIN.get(found[0], found[0]), name) for name, _ in entries]
