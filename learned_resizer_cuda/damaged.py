"""Files of a run's folder that cannot be read back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from .shown import shorten


class DamagedFileError(ValueError):
    """A file is damaged or missing; the message names it and says what to do. Nothing was changed."""


@contextlib.contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Raises ``DamagedFileError`` for whatever the body, which reads ``path``, raises because of what is in it.

    Args:
        path: the file.
        remedy: what a user has to do, after a semicolon.

    Raises:
        DamagedFileError: the file is not there, or what is in it is wrong.
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
    except Exception as error:  # of any kind: each reader has its own, which say little about the file
        raise DamagedFileError(f"{path} is damaged; {remedy}") from error
