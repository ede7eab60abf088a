"""A line every half minute from a command at work, where nobody sees a progress bar move."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType

_SAYING = threading.Lock()
# Data loader workers are forked at any time, and a lock that the thread holds then would never be released in them, one
# of the output's among them: so no fork comes while a line is written.
os.register_at_fork(before=_SAYING.acquire, after_in_parent=_SAYING.release, after_in_child=_SAYING.release)


class Heartbeat:
    """Says what goes on, every so many seconds, from a thread of its own. A context manager.

    Args:
        say: prints a line; called in the thread.
        state: what goes on, in one line; called in the thread.
        every: seconds between two lines, by a clock that nobody sets.
    """

    def __init__(self, say: Callable[[str], object], state: Callable[[], str], every: float = 30.0) -> None:
        self._say, self._state, self._every = say, state, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        # Not for ever: a reader that has stopped reading would keep the command from ending.
        self._thread.join(timeout=5)

    def _work(self) -> None:
        while not self._ended.wait(self._every):
            with _SAYING:
                if not self._ended.is_set():
                    self._say(self._state())
