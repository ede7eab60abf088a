"""Status lines at intervals where long commands cannot show a progress bar."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType

_WRITING = threading.Lock()
# Data loader workers are forked at any time. A lock that the thread holds at a fork, for instance the output stream's,
# would never be released in the child: so no fork happens while a line is written.
os.register_at_fork(before=_WRITING.acquire, after_in_parent=_WRITING.release, after_in_child=_WRITING.release)


class Heartbeat:
    """Context manager that prints a status line at intervals, from a thread.

    Args:
        say: prints a line; called in the thread.
        state: returns the status line; called in the thread.
        every: seconds between two lines, by the monotonic clock.
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
        # With a timeout: if nobody reads the output, the thread may be blocked for ever.
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            with _WRITING:
                if not self._ended.is_set():
                    self._say(self._state())
