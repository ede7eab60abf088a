"""Ctrl-C, SIGTERM and SIGHUP as an exception, so that commands clean up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

_NAMES = {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}  # Windows has no SIGHUP


class Stopped(BaseException):
    """The process was asked to end.

    Not a KeyboardInterrupt, which libraries catch to exit in their own way.

    Attributes:
        name: the signal's, as users know it.
        code: exit code by the convention of shells, 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.name, self.code = _NAMES[signal.Signals(number).name], 128 + number
        super().__init__(f"stopped by {self.name}")


class _Process:
    """The signal this process received, and whether it must finish something first."""

    asked: Stopped | None = None
    finishing = False


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raises ``Stopped`` in the body at the first signal.

    A second one ends the process at once. C code may turn the exception into another error, so any error after the
    signal counts as ``Stopped``.

    An ignored signal stays ignored, as ``nohup`` needs. A terminal sends Ctrl-C and SIGHUP to every process: those that
    are forked in the body ignore them and leave them to this one. Without effect outside the main thread, where Python
    has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    former: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        signal.signal(number, signal.SIG_DFL)
        # Workers may end from now on: torch would raise an error for it
        former.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        _Process.asked = Stopped(number)
        if not _Process.finishing:
            raise _Process.asked

    _Process.asked = None
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, stop)
    try:
        yield
    except Exception:
        raise_if_asked()
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Puts off ``Stopped`` until the body's end, for steps that belong together."""
    _Process.finishing = True
    try:
        yield
    finally:
        _Process.finishing = False
        raise_if_asked()


def raise_if_asked() -> None:
    """Raises ``Stopped`` if it was put off, or raised before and lost."""
    if _Process.asked is not None:
        raise _Process.asked from None
