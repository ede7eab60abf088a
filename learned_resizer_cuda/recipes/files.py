"""Files that are always whole: what stands under a name is the former content or the new one, never a part.

The new content goes to a temporary file in the same folder, hence on the same file system, where a rename is atomic
(POSIX ``rename``). Both the file and its folder are flushed to the disk, so that this also holds when the machine
stops, not the process only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path

_SUFFIX = ".part"


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Replaces ``path`` by what ``write`` makes of an empty temporary file, in one step.

    Readers and writers at the same time are safe; of several writers the last one wins. A symbolic link is replaced,
    not followed. Whatever ``write`` raises leaves ``path`` as it was and no temporary file behind. A process that is
    killed leaves its temporary file; ``remove_leftovers`` takes it away.

    Args:
        path: the file; its folder exists.
        write: writes the content to the path that it is given.

    Raises:
        OSError: where the folder does not exist or the disk is full, or what ``write`` raises.
    """
    # Not mkstemp, whose files nobody else may read
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}{_SUFFIX}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _flush(path.parent)


def atomic_bytes(path: Path, data: bytes) -> None:
    """Replaces the content of ``path`` by ``data`` in one step; see ``atomic_write``."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    atomic_write(path, write)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of writers that were killed; only where nobody is writing to the folder."""
    for path in folder.glob(f".*{_SUFFIX}"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder; there is nothing more to be done on those
        if not (error.errno == errno.EINVAL and path.is_dir()):
            raise
    finally:
        os.close(descriptor)
