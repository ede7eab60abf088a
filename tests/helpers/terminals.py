"""Streams for tests of output: terminals, pipes, full disks; and the command line in this process."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from typing import Any

from rich.console import Console

from learned_resizer_cuda.cli.main import main
from learned_resizer_cuda.substitutes import ERRORS

CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Broken(io.RawIOBase):
    """A file on which writes fail with ``code`` after the first ``writes``."""

    def __init__(self, code: int, writes: int = 0) -> None:
        self.code, self.writes = code, writes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.writes -= 1
        if self.writes < 0:
            raise OSError(self.code, os.strerror(self.code))
        return len(data)


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def stream(binary: Any, encoding: str = "utf-8") -> io.TextIOWrapper:
    """A stream like Python's standard output: it raises for characters that the encoding lacks."""
    return io.TextIOWrapper(binary, encoding, "strict")


def command(*arguments: object) -> int:
    """The exit code of a command line."""
    try:
        return main([*map(str, arguments)])
    except SystemExit as end:
        return int(end.code or 0)


def console(width: int, encoding: str = "utf-8", terminal: bool = True) -> tuple[Console, Callable[[], list[str]]]:
    """A console of that width, and a function that returns its lines."""
    file = io.TextIOWrapper(io.BytesIO(), encoding, ERRORS)
    made = Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False)

    def lines() -> list[str]:
        file.flush()
        return CONTROLS.sub("", file.buffer.getvalue().decode(encoding)).splitlines()  # type: ignore[attr-defined]

    return made, lines
