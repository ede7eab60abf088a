"""Which image files lie in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from .image_file import extensions


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image: by its extension, in either case, and if not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions()


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out; links to folders count."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def images_under(folder: Path) -> list[str]:
    """The image files in a folder and in the folders below it, links followed, hidden files and folders left out.

    Returns:
        Paths relative to ``folder`` with forward slashes, sorted.
    """
    found: list[str] = []
    entered = set()
    for directory, names, files in os.walk(folder, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in entered:  # a link that leads back up
            names.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        # the same folder must be met first by the same path, whatever the file system's order
        names[:] = sorted(name for name in names if not name.startswith("."))
        base = Path(os.path.relpath(directory, folder)).as_posix()
        prefix = "" if base == "." else f"{base}/"
        found += [prefix + name for name in files if is_image(name)]
    return sorted(found)
