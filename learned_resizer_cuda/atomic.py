"""Atomic writes: files are written whole or not at all.

This holds for every file that this package does not append to. The new content goes to a temporary file in the same
folder, and so on the same file system, where a rename is atomic (POSIX ``rename``). The file and its folder are flushed
to the disk, so that this also holds if the machine crashes. The temporary file has a random name and is created
exclusively: two writers never share one, whatever their process numbers, and a link planted in a shared folder is not
followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, cast

_PREFIX, _SUFFIX = ".learned-resizer-", ".part"
# Independent of the file's name, which may be as long as the file system allows

_AT_FDCWD, _RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object], *, overwrite: bool = True) -> None:
    """Replaces ``path`` in one step by a file that ``write`` fills.

    Concurrent readers and writers are safe; the last writer wins, or the first one without ``overwrite``. A symbolic
    link is replaced, not followed. The permissions of a replaced file are kept. After an error ``path`` is unchanged
    and no temporary file is left. A process killed by SIGKILL may leave one, which ``remove_leftovers`` removes.

    Args:
        path: the file, in an existing folder.
        write: writes the content to the unbuffered binary file that it is given. A failed write is an error even if
            ``write`` ignores it.
        overwrite: whether an existing file may be replaced.

    Raises:
        FileExistsError: the file exists and may not be replaced.
        OSError: it cannot be written (no folder, no permission, no space, over quota, a read-only file system); its
            ``filename`` is ``path``. Also whatever ``write`` raises.
    """
    path = Path(path)
    with naming(path):
        file = _create(path.parent)
    try:
        with file:
            try:
                write(cast(BinaryIO, file))
            except Exception:
                if file.failure is None:
                    raise
            with naming(path):
                if file.failure is not None:
                    raise file.failure
                _keep_permissions(file, path)
                os.fsync(file.fileno())
                _publish(Path(file.name), path, os.fstat(file.fileno()), overwrite)
                _flush_folder(path.parent)
    finally:
        # Gone after a rename
        with contextlib.suppress(OSError):
            os.unlink(file.name)


def atomic_bytes(path: str | Path, data: bytes, *, overwrite: bool = True) -> None:
    """Writes ``data`` as by ``atomic_write``."""
    atomic_write(path, lambda file: file.write(data), overwrite=overwrite)


def remove_leftovers(folder: str | Path) -> None:
    """Removes temporary files of killed writers; never raises OSError.

    Files of active writers are locked, and stay.
    """
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        found = [entry.path for entry in entries if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX)]
        for path in found:
            _remove_unlocked(path)


def is_case_sensitive(folder: str | Path) -> bool:
    """Whether names in a folder are case-sensitive.

    Raises:
        OSError: no file can be made in it.
    """
    folder = Path(folder)
    with naming(folder), _create(folder) as file:
        name = Path(file.name)
        try:
            return not name.with_name(name.name.upper()).exists()
        finally:
            name.unlink()


class _Temporary(FileIO):
    """A new file, locked while open, so never taken for a leftover.

    ``failure`` is the first error of a write, which an encoder may hide or replace by an error of its own.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "xb")
        self.failure: OSError | None = None
        # Without locks in the file system, leftovers stay
        with contextlib.suppress(OSError):
            fcntl.flock(self.fileno(), fcntl.LOCK_EX)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Writes all of ``data``, though the system may write it in parts."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
            raise
        return size


def _create(folder: Path) -> _Temporary:
    while True:
        file = _Temporary(folder / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed as a leftover between its creation and the lock


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes the body's OSError name ``path``, not a temporary file or none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _remove_unlocked(path: str) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _keep_permissions(file: FileIO, path: Path) -> None:
    """A private photograph must stay private when it is replaced."""
    with contextlib.suppress(OSError):
        former = os.lstat(path)
        if stat.S_ISREG(former.st_mode):
            os.fchmod(file.fileno(), stat.S_IMODE(former.st_mode))
            if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), former.st_uid, former.st_gid)


def _publish(temporary: Path, path: Path, status: os.stat_result, overwrite: bool) -> None:
    try:
        if overwrite:
            os.replace(temporary, path)
        else:
            _rename_to_new(temporary, path)
    except OSError:
        # A network file system may repeat a request whose answer was lost. The second answer is then that the source is
        # missing (rename) or that the target exists (link), although the file is where it should be.
        with contextlib.suppress(OSError):
            there = os.lstat(path)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                return
        raise


def _rename_to_new(temporary: Path, path: Path) -> None:
    """A rename that raises FileExistsError if the target exists."""
    if _rename_at(temporary, path):
        return
    # NFS has hard links but not this flag of rename; FAT and SMB the other way round
    os.link(temporary, path)


def _rename_at(temporary: Path, path: Path) -> bool:
    """Linux's ``renameat2`` with RENAME_NOREPLACE; False if system or file system lacks it."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # another system, or a C library from before 2018
        return False
    if call(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NOT_SUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(path))


def _flush_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable but not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot flush a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
