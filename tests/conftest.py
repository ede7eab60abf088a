"""Setup shared by all tests.

OpenMP's threads wait as the command line's do. Under `pytest -n` the workers share the cores. `gpu` tests are skipped
where torch sees no GPU. The kernels are compiled for the host while other tests run. `benchmarks` and `tests` can be
imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded, and so without importing the package, which loads it.
_spec = importlib.util.find_spec("learned_resizer_cuda")
assert _spec is not None and _spec.origin is not None, "learned_resizer_cuda is not installed"
runpy.run_path(str(Path(_spec.origin).parent / "waiting.py"))["limit_spinning"]()
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    # Each worker would start a thread for every core, and they would wait for one another's cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# Last on the path: an installed package must win over the source tree.
sys.path.append(str(Path(__file__).resolve().parent.parent))

# isort: split
import pytest  # noqa: E402
import torch  # noqa: E402

from tests.helpers import kernels_host  # noqa: E402

# Names in test modules that run the kernels on the host.
HOST = {"kernels_host", "native_host", "native_on_host", "native_ops_on_host"}


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "dist", "no") == "load":  # `pytest -n` without --dist
        # A file's tests stay in one process, which makes their fixtures once; files run in the order of collection.
        config.option.dist, config.option.loadscopereorder = "loadfile", False


def _runs_kernels(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and bool(HOST & vars(item.module).keys())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Last, as the kernels are compiled while the others run.
    items.sort(key=_runs_kernels)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU; torch sees none here")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly and any(map(_runs_kernels, session.items)):
        kernels_host.start()


@pytest.fixture(autouse=True)
def stages_in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a number of jobs train in the test's process, where it can look into them."""
    if {"train", "cli", "report"} & {*request.path.parts} and importlib.util.find_spec("lightning"):
        run = importlib.import_module("learned_resizer_cuda.train.run")
        shares = run.shares
        monkeypatch.setattr(run, "shares", lambda config, stages: (config.jobs or 1, shares(config, stages)[1]))


@pytest.fixture
def signals_count() -> Iterator[None]:
    """Ctrl-C and SIGHUP end a process, also of tests that run in the background or under ``nohup``."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    former = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)
