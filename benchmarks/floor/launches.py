"""Kernel launches and host time of the learned resizer, native, without a GPU.

    python -m benchmarks.floor.launches [--json]

One inference and one training step (forward and backward; no optimiser) of ``FusedResizer`` with the kernels of
csrc/core compiled for the host. Launches are counted: the native module's own, and every ATen call around them that is
neither a view nor an allocation. Host time is the processor time of one thread with the kernels stubbed: Python,
dispatcher, autograd, the launchers and the native module's arguments. The CUDA runtime is not in it: about 2 to 3 µs a
launch.

Beside it, in the same run, eager ``reference.Resizer`` on images so small that its kernels take little of the time:
they are in it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from learned_resizer_cuda import FusedResizer, reference
from learned_resizer_cuda.kernels import native
from tests.helpers.calls import Calls
from tests.helpers.native_host import native_ops_on_host

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SIZES = ((1, 3, 12, 10), (6, 5))


def kernel_launches(stubbed: bool) -> int:
    """Launches of the native module so far; from now on its kernels run or not."""
    library = ctypes.CDLL(native.load().__file__)
    library.learned_resizer_host_launches.restype = ctypes.c_int64
    return int(library.learned_resizer_host_launches(ctypes.c_bool(stubbed)))


@contextlib.contextmanager
def stubbed_kernels() -> Iterator[None]:
    """Within, the ops run natively on CPU tensors, but no kernel runs."""
    with native_ops_on_host():
        kernel_launches(stubbed=True)
        try:
            yield
        finally:
            kernel_launches(stubbed=False)


class Case:
    """A module in a dtype, plain or under autocast.

    Args:
        dtype: of the module's parameters, or of autocast around a float32 module.
        autocast: which of the two.
        kind: class of the module.
        memory_format: of the module's parameters.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        autocast: bool = False,
        kind: type[nn.Module] = FusedResizer,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        torch.manual_seed(0)
        shape, size = _SIZES
        own = torch.float32 if autocast else dtype
        self.module = kind(size).to(own, memory_format=memory_format)
        self.image = torch.rand(shape).to(own)
        self.grad = torch.rand(*shape[:2], *size).to(own)  # of the result, which has the image's dtype
        self._autocast = dtype if autocast else None

    def context(self) -> contextlib.AbstractContextManager[object]:
        """Autocast, if the case has it, around any number of steps."""
        return torch.autocast("cpu", self._autocast) if self._autocast else contextlib.nullcontext()

    def inference(self) -> Callable[[], None]:
        """A call in eval mode without gradients."""
        self.module.eval()

        def step() -> None:
            with torch.no_grad():
                self.module(self.image)

        return step

    def train(self) -> Callable[[], None]:
        """A forward and backward pass in training mode."""
        self.module.train()
        leaves = [*self.module.parameters(), self.image]

        def step() -> None:
            for leaf in leaves:
                leaf.grad = None
            self.module(self.image).backward(self.grad)

        return step


def launches(step: Callable[[], object]) -> Counter[str]:
    """Everything that a step launches on a GPU once its tables are stored, by name."""
    with native_ops_on_host():
        step()
    inside, around = Calls(), Calls()
    with native_ops_on_host(lambda: inside):
        before = kernel_launches(stubbed=False)
        with around:
            step()
        kernels = kernel_launches(stubbed=False) - before
    assert not inside.waits and not around.waits
    # An op of ours launches what is seen inside it.
    aten = Counter({name: n for name, n in around.launches.items() if name not in _OURS})
    return aten + inside.launches + Counter({"native kernels": kernels})


_OURS = ("resample", "resample_backward", "resizer", "resizer_backward", "update_running")


def host_microseconds(steps: list[Callable[[], object]], rounds: int) -> list[float]:
    """Processor time of each step in this thread, the median of all rounds, in µs.

    In alternating blocks of 50 rounds, the first ten of them not counted: what else runs on the machine reaches all
    steps alike, and none pays for the caches that another has used.
    """
    times: list[list[float]] = [[] for _ in steps]
    with torch.autograd.set_multithreading_enabled(False):
        while len(times[-1]) < rounds:
            for step, found in zip(steps, times, strict=True):
                for index in range(50):
                    start = time.thread_time_ns()
                    step()
                    if index >= 10:
                        found.append((time.thread_time_ns() - start) / 1e3)
    return [statistics.median(found) for found in times]


def measure(rounds: int) -> dict[str, dict[str, Any]]:
    """Launches, host time and eager host time of each case, by name."""
    torch.set_num_threads(1)
    results = {}
    for dtype in DTYPES:
        for autocast in (False, True) if dtype != torch.float32 else (False,):
            ours, eager = Case(dtype, autocast), Case(dtype, autocast, reference.Resizer)
            for name in ("inference", "train"):
                steps = [getattr(case, name)() for case in (ours, eager)]
                with ours.context():
                    found = launches(steps[0])
                    with stubbed_kernels():
                        host, eager_host = host_microseconds(steps, rounds)
                label = f"{name} {str(dtype).removeprefix('torch.')}{' autocast' if autocast else ''}"
                results[label] = {
                    "launches": found.total(),
                    "host_us": round(host, 1),
                    "eager_host_us": round(eager_host, 1),
                    "launched": dict(found),
                }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=300, help="timed rounds of each case (default: %(default)s)")
    options = parser.parse_args()
    results = measure(options.rounds)
    if options.json:
        print(json.dumps(results, indent=1))
        return
    print("| | launches | of them native | host, µs | eager `reference.Resizer`, host, µs |\n|---|---|---|---|---|")
    for name, row in results.items():
        native_launches = row["launched"]["native kernels"]
        print(f"| {name} | {row['launches']} | {native_launches} | {row['host_us']:.0f} | {row['eager_host_us']:.0f} |")


if __name__ == "__main__":
    main()
