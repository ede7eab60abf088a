"""Image files and subfolders of a folder."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path

from .image_file import extensions


def is_image(name: str) -> bool:
    """Whether a name is an image's: known extension (either case), not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions()


def is_for_testing(path: Path) -> bool:
    """Whether a user's photograph is for testing, by its file name.

    A fifth are, by the CRC-32 of the name: adding or removing other files, or moving the folder, changes nothing.
    """
    return checksum(path.name) % 5 == 0


def split_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths to train on and paths to test on, by ``is_for_testing``.

    If that leaves a split empty, as it may with a few images, the one of the lowest checksum is for testing.

    Args:
        names: at least two paths, with forward slashes.
    """
    chosen = {name for name in names if is_for_testing(Path(name))}
    if not 0 < len(chosen) < len(names):
        chosen = {min(names, key=lambda name: (checksum(Path(name).name), name))}
    return [name for name in names if name not in chosen], [name for name in names if name in chosen]


def checksum(name: str) -> int:
    """CRC-32 of a file's name."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))


def subfolders(folder: Path) -> list[str]:
    """Sorted names of subfolders, including links to folders, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images_under(folder: Path) -> list[str]:
    """Image files at any depth, links followed, hidden files and folders skipped.

    Returns:
        Paths relative to ``folder`` with forward slashes, sorted.
    """
    found: list[str] = []
    entered = set()
    for directory, names, files in os.walk(folder, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in entered:  # a link back to a folder above
            names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # sorted, so that a folder with several paths always gets the same one
        names[:] = sorted(name for name in names if not name.startswith("."))
        base = Path(os.path.relpath(directory, folder)).as_posix()
        prefix = "" if base == "." else f"{base}/"
        found += [prefix + name for name in files if is_image(name)]
    return sorted(found)
