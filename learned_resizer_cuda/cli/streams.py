"""Standard output and error that take every text and end no command, whatever their encoding, full, or closed."""

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
def take_every_text() -> Iterator[None]:
    """Replaces standard output and error by streams that take every text, for the length of the body.

    Signs that the encoding lacks are substituted (``substitutes``). No write raises OSError: a long training does not
    end because the reader of its progress went away. What a reader that went away, or a closed stream, does not get is
    nobody's loss; anything else that could not be written is told at the end.

    Raises:
        SystemExit: with code 1, where standard output could not be written and the body ends well.
    """
    _occupy_standard_descriptors()
    former = sys.stdout, sys.stderr
    output, errors = _tolerant(sys.stdout), _tolerant(sys.stderr)
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
    """Ends the program with one line on standard error that says why."""
    raise SystemExit(complain(command, error, code))


def complain(command: str, error: BaseException | str, code: int = 2) -> int:
    """Prints that line and returns the exit code."""
    name = f"learned-resizer {command}".strip()
    print(f"{name}: {error}", file=sys.stderr)
    return code


class _Raw(io.RawIOBase):
    """Hands on to another file. A write that fails is forgotten, except its error."""

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
            while (written := self._raw.write(data)) is None:  # a pipe that does not block, and is full
                select.select([], [self._raw], [])
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.failure = error
            return len(data)
        return written


class _Tolerant(io.TextIOWrapper):
    def __init__(self, raw: _Raw, like: TextIO) -> None:
        super().__init__(
            io.BufferedWriter(raw),
            like.encoding,
            ERRORS,
            line_buffering=bool(like.line_buffering),
            write_through=getattr(like, "write_through", False),
        )
        self._raw, self._like = raw, like  # one that nobody refers to is closed

    @property
    def failure(self) -> OSError | None:
        """Why something that was written is lost."""
        return self._raw.failure

    @property
    def buffer(self) -> NoReturn:  # type: ignore[override]
        """None, as StringIO: typer would write UTF-8 into it where the encoding is ASCII."""
        raise AttributeError("buffer")


def _tolerant(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed before Python started
        stream = io.TextIOWrapper(io.FileIO(os.devnull, "w"), "utf-8")
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a text in memory that a program has put there
        return stream
    stream.flush()
    return _Tolerant(_Raw(getattr(buffer, "raw", buffer)), stream)


def _occupy_standard_descriptors() -> None:
    """Where a standard stream is closed, the next file to be opened would have its number, and get what libraries
    print."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
