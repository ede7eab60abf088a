"""Ctrl-C, SIGTERM and SIGHUP as an exception, so that a command cleans up and says how far it has come."""

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
    """The process was asked to end. No KeyboardInterrupt: libraries catch that one and exit in their own way.

    Attributes:
        name: of the signal, as a user knows it.
        code: the exit code that shells give to it, 128 + number.
    """

    def __init__(self, number: int) -> None:
        self.name, self.code = _NAMES[signal.Signals(number).name], 128 + number
        super().__init__(f"stopped by {self.name}")


class _Process:
    """What this process has been asked, and whether it must finish something first."""

    asked: Stopped | None = None
    finishing = False


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raises ``Stopped`` in the body when the process is asked to end; asked again, it ends at once.

    Code in C is not always ready for it, and raises an error of its own: any error after it counts as ``Stopped``.

    A signal that is ignored stays ignored, as ``nohup`` wants it. Processes that are forked in the body leave Ctrl-C
    and SIGHUP, which a terminal sends to all of them, to this one. Without effect outside the main thread, where Python
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
        # From now on it is no error that workers end: torch would raise one
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
    """Lets the body end before ``Stopped`` is raised: what belongs together is done and counted, or neither."""
    _Process.finishing = True
    try:
        yield
    finally:
        _Process.finishing = False
        raise_if_asked()


def raise_if_asked() -> None:
    """Raises ``Stopped`` where it was raised before and got lost, or was put off."""
    if _Process.asked is not None:
        raise _Process.asked from None
