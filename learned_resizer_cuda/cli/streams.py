"""Standard output and error on which no write ends a command."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from ..substitutes import ERRORS


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Replaces standard output and error by streams whose writes never raise.

    Characters that the encoding lacks are substituted (``substitutes``). A long training does not end because the
    reader of its progress went away. Output to such a reader, or to a closed stream, is dropped silently; any other
    failed write is reported at the end.

    Raises:
        SystemExit: with code 1, if standard output could not be written and the body succeeded.
    """
    _occupy_standard_descriptors()
    former = sys.stdout, sys.stderr
    output, errors = _forgiving(sys.stdout), _forgiving(sys.stderr)
    sys.stdout, sys.stderr = output, errors
    ended: SystemExit | None = None
    try:
        try:
            yield
        except SystemExit as end:
            if end.code:
                raise
            ended = end
        output.flush()
        if (failure := getattr(output, "failure", None)) is not None:
            raise SystemExit(complain("", f"cannot write to standard output: {failure.strerror}", 1))
        if ended is not None:
            raise ended
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = former


def fail(command: str, error: BaseException | str, code: int = 2) -> NoReturn:
    """Exits the program after one line on standard error that says why."""
    raise SystemExit(complain(command, error, code))


def complain(command: str, error: BaseException | str, code: int = 2) -> int:
    """Prints that line and returns the exit code."""
    name = f"learned-resizer {command}".strip()
    print(f"{name}: {error}", file=sys.stderr)
    return code


class _ForgivingFile(io.RawIOBase):
    """Passes writes on to another file and remembers a failed one's error."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()

    def write(self, data: Any) -> int:
        try:
            while (written := self._raw.write(data)) is None:  # a full pipe that does not block
                select.select([], [self._raw], [])
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            return len(data)
        return written


class _ForgivingText(io.TextIOWrapper):
    def __init__(self, raw: _ForgivingFile, like: TextIO) -> None:
        super().__init__(
            io.BufferedWriter(raw),
            like.encoding,
            ERRORS,
            line_buffering=bool(like.line_buffering),
            write_through=getattr(like, "write_through", False),
        )
        self._raw, self._like = raw, like  # without a reference, the original would be closed

    @property
    def failure(self) -> OSError | None:
        """Why output was lost."""
        return self._raw.failure

    @property
    def buffer(self) -> NoReturn:  # type: ignore[override]
        """Missing, as in StringIO: typer would write UTF-8 whatever the encoding is."""
        raise AttributeError("buffer")


def _forgiving(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed before Python started
        stream = io.TextIOWrapper(io.FileIO(os.devnull, "w"), "utf-8")
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a StringIO that a program has put there
        return stream
    stream.flush()
    return _ForgivingText(_ForgivingFile(getattr(buffer, "raw", buffer)), stream)


def _occupy_standard_descriptors() -> None:
    """Opens closed descriptors 0 to 2, so libraries never print into files."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
