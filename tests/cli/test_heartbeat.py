"""Status lines of a command in a pipe, from a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")


from learned_resizer_cuda.cli.heartbeat import Heartbeat


def wait_until(true: Callable[[], object]) -> None:
    latest = time.monotonic() + 10
    while not true():
        assert time.monotonic() < latest
        time.sleep(0.002)


def test_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """It continues if the system's clock is set back, and ends with the body, also on an error."""
    said: list[str] = []
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600 * len(said))
    with pytest.raises(KeyError), Heartbeat(said.append, lambda: f"line {len(said)}", every=0.005):
        wait_until(lambda: len(said) >= 3)
        raise KeyError
    count = len(said)
    assert said[:3] == ["line 0", "line 1", "line 2"]
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]
    time.sleep(0.03)
    assert len(said) == count


def test_heartbeat_waits_its_time() -> None:
    said: list[str] = []
    with Heartbeat(said.append, lambda: "line", every=60):
        time.sleep(0.05)
    assert said == []


def test_no_worker_is_forked_while_a_line_is_written() -> None:
    """A worker would inherit the locks that the thread holds, such as the output buffer's, for ever."""
    lock = threading.Lock()

    def say(text: str) -> None:
        with lock:
            time.sleep(0.01)

    with Heartbeat(say, lambda: "", every=0.0005):
        for _ in range(5):
            wait_until(lock.locked)
            child = os.fork()
            if not child:
                os._exit(0 if lock.acquire(timeout=1) else 1)
            assert os.waitpid(child, 0)[1] == 0
