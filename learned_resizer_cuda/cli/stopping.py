"""Ctrl-C, SIGTERM and SIGHUP as an exception, so that a command cleans up and says how far it has come."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

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


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raises ``Stopped`` in the body when the process is asked to end; asked again, it ends at once.

    A signal that is ignored stays ignored, as ``nohup`` wants it. Without effect outside the main thread, where Python
    has no signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = {}
    for name in _NAMES:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """Lets the body end before ``Stopped`` is raised: what belongs together is done and counted, or neither."""
    _Delayed.active, _Delayed.number = True, None
    try:
        yield
    finally:
        _Delayed.active = False
    if _Delayed.number is not None:
        raise Stopped(_Delayed.number)


class _Delayed:
    active = False
    number: int | None = None


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    if _Delayed.active:
        _Delayed.number = number
    else:
        raise Stopped(number)
