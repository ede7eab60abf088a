"""A status line every half minute, for commands without a progress bar."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType

_SAYING = threading.Lock()
# Data loader workers are forked at any time. A lock that the thread holds at that moment, such as the output's, would
# never be released in them, so no fork happens while a line is written.
os.register_at_fork(before=_SAYING.acquire, after_in_parent=_SAYING.release, after_in_child=_SAYING.release)


class Heartbeat:
    """Context manager that prints a status line at intervals, from a thread.

    Args:
        say: prints a line; called in the thread.
        state: returns the line; called in the thread.
        every: seconds between two lines, by a monotonic clock.
    """

    def __init__(self, say: Callable[[str], object], state: Callable[[], str], every: float = 30.0) -> None:
        self._say, self._state, self._every = say, state, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # With a timeout: a reader that has stopped reading must not keep the command from exiting.
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            with _SAYING:
                if not self._ended.is_set():
                    self._say(self._state())
