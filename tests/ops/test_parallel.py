"""Working on several images at a time: order, gradients, thread settings, forked children."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch

from learned_resizer_cuda import FusedResizer
from learned_resizer_cuda.ops import stem
from learned_resizer_cuda.ops.parallel import map_in_order

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_order_threads_and_settings() -> None:
    seen = set()

    def work(item: int) -> tuple[int, int, bool]:
        seen.add(threading.current_thread().name)
        return item * item, torch.get_num_threads(), torch.is_grad_enabled()

    results = map_in_order(work, range(50), CPU)
    assert results == [(item * item, 1, False) for item in range(50)]
    assert threading.current_thread().name not in seen
    assert torch.get_num_threads() == 2
    # A thread that the user starts afterwards is not left with the workers' single thread.
    counts: list[int] = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [2]


@pytest.mark.usefixtures("two_threads")
def test_few_items_stay_in_the_caller() -> None:
    assert map_in_order(lambda _: threading.current_thread(), [0], CPU) == [threading.current_thread()]


@pytest.mark.usefixtures("two_threads")
def test_error_reaches_the_caller() -> None:
    def fail(item: int) -> None:
        raise ZeroDivisionError(f"item {item}")

    with pytest.raises(ZeroDivisionError, match="item 0"):
        map_in_order(fail, range(4), CPU)


def test_same_result_with_one_thread_and_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "_TILE_ELEMENTS", 16 * 40 * 10)
    torch.manual_seed(0)
    resizer = FusedResizer(20).double()
    image = torch.rand(5, 3, 40, 40, dtype=torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            resizer.zero_grad()
            resizer(image).square().sum().backward()
            results.append([p.grad.clone() for p in resizer.parameters() if p.grad is not None])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        # Sums split between threads: float64 rounding.
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("two_threads")
def test_inference_mode_reaches_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "_TILE_ELEMENTS", 16 * 40 * 10)
    resizer = FusedResizer(20).eval()
    image = torch.rand(5, 3, 40, 40)
    with torch.inference_mode():
        out = resizer(image)
        # A size not seen before: its tables are made here and must serve training afterwards.
        resizer(image, 23)
    torch.testing.assert_close(out, resizer(image), rtol=1e-5, atol=1e-6)
    resizer.train()(image, 23).sum().backward()
    assert all(p.grad is not None for p in resizer.parameters())


def _child(queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(2)
    queue.put(map_in_order(lambda item: item + 1, range(4), CPU))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_works_in_a_forked_child() -> None:
    map_in_order(lambda item: item, range(4), CPU)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == [1, 2, 3, 4]
    child.join(timeout=60)
    assert child.exitcode == 0
