"""Damaged files in a run's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .shown import shorten


class DamagedFileError(ValueError):
    """A file is damaged or missing.

    The message names it and says what to do. No file was changed.
    """


@contextlib.contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Turns errors of the body, which reads ``path``, into ``DamagedFileError``.

    Args:
        path: the file.
        remedy: what the user has to do; follows a semicolon.

    Raises:
        DamagedFileError: the file is missing, or its content is wrong.
        OSError: the system refuses to read it.
    """
    try:
        yield
    except FileNotFoundError:
        raise DamagedFileError(f"{path} is missing; {remedy}") from None
    except OSError:
        raise
    except ValueError as error:
        reason = shorten(str(error).removeprefix(f"{path} ").partition("\n")[0], 160)
        raise DamagedFileError(f"{path} is damaged ({reason}); {remedy}") from error
    except Exception as error:  # each reader has its own errors, which say little about the file
        raise DamagedFileError(f"{path} is damaged; {remedy}") from error
