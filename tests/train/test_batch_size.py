"""The search for the largest batch: on a CPU with steps that really allocate, on a pretended GPU, and its readings."""

import ctypes
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from learned_resizer_cuda.train import batch_size
from learned_resizer_cuda.train.batch_size import largest_batch_size

MIB = 1 << 20
CPU = torch.device("cpu")
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


class Step:
    """Holds ``each`` MiB per image while it runs."""

    def __init__(self, each):
        self.each, self.sizes = each, []

    def __call__(self, size):
        self.sizes.append(size)
        np.ones(size * self.each * MIB, np.uint8)


def resident():
    batch_size._reset_peak()
    return batch_size._peak()


@pytest.fixture
def room(monkeypatch):
    """Pretends that ``room(m)`` leaves a share of the memory of m MiB above what the process holds."""

    def pretend(mib):
        monkeypatch.setattr(batch_size, "usable_memory", lambda: (resident() + mib * MIB) / batch_size._SHARE)

    return pretend


@linux
@pytest.mark.parametrize(
    ("each", "mib", "limit", "expected"),
    [
        # 12 MiB an image: 16 of them need 192, 32 need 384; 64 MiB off either bound for what python itself takes
        (12, 256, 1024, 16),
        (12, 320, 1024, 16),
        # all that is asked for fits, limit a power of two or not
        (1, 256, 8, 8),
        (1, 256, 13, 8),
        # too little growth to extrapolate from at first: 4 images are 2 MiB more than 2
        (1, 192, 4096, 128),
    ],
)
def test_cpu_takes_the_largest_that_fits(room, each, mib, limit, expected):
    room(mib)
    step = Step(each)
    assert largest_batch_size(step, CPU, limit) == expected
    assert max(step.sizes) <= expected
    assert step.sizes == sorted(step.sizes)


@linux
def test_cpu_extrapolates_instead_of_filling_the_memory(room):
    room(1536)
    step = Step(16)
    assert largest_batch_size(step, CPU, 1 << 20) == 64  # 1024 MiB; 128 images would take 2048
    assert (
        max(step.sizes) * step.each <= 128
    )  # 2 and 4 images differ by 32 MiB, 4 and 8 by more than is asked for in any case


@linux
def test_cpu_never_tries_a_size_that_would_not_fit(room):
    room(192)
    step = Step(64)
    assert largest_batch_size(step, CPU, 1024) == 2  # 128 MiB; 4 images would take 256
    assert step.sizes == [2, 2]


@linux
def test_cpu_counts_what_a_step_keeps_only_once(room):
    kept = []

    def step(size):
        if not kept:
            kept.append(np.ones(64 * MIB, np.uint8))  # as gradients and optimiser state
        np.ones(size * 16 * MIB, np.uint8)

    room(64 + 16 * 16 + 64)
    assert largest_batch_size(step, CPU, 1024) == 16


@linux
def test_cpu_names_the_memory_where_nothing_fits(room):
    room(16)
    step = Step(32)
    with pytest.raises(RuntimeError, match=r"a training step of 2 images needs more than the \d+\.\d\d GiB of memory"):
        largest_batch_size(step, CPU, 64)
    assert step.sizes == [2]


@linux
def test_cpu_sees_a_peak_inside_memory_that_was_freed(room):
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("another C library than glibc")
    # Many small blocks come from the heap, which glibc keeps when they are freed.
    blocks = [bytearray(64 << 10) for _ in range(4096)]
    guard = bytearray(64 << 10)
    del blocks
    room(256)
    assert largest_batch_size(Step(12), CPU, 1024) == 16
    assert guard is not None


def test_other_errors_pass_through():
    def step(size):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        batch_size._runs(step, 2)


@pytest.mark.parametrize("limit", [-3, 0, 1])
def test_limit_below_the_least(limit):
    with pytest.raises(ValueError, match=f"limit: got {limit}; expected one with a power of two from 2"):
        largest_batch_size(Step(1), CPU, limit)


def test_devices_and_systems_that_cannot_be_measured(monkeypatch, tmp_path):
    with pytest.raises(RuntimeError, match="device mps; give a number"):
        largest_batch_size(Step(1), torch.device("mps"), 8)
    monkeypatch.setattr(batch_size, "_PROC", tmp_path / "absent")
    step = Step(1)
    with pytest.raises(RuntimeError, match="cannot measure a process's memory on this system; give a number"):
        largest_batch_size(step, CPU, 8)
    assert step.sizes == []


class Gpu:
    """A GPU of ``total`` bytes whose allocator keeps what it had until its cache is emptied."""

    def __init__(self, monkeypatch, total):
        self.total, self.held, self.emptied = total, 0, 0
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (self.total - self.held, self.total))
        monkeypatch.setattr(torch.cuda, "empty_cache", self.empty)

    def empty(self):
        self.held, self.emptied = 0, self.emptied + 1

    def step(self, each, error=torch.OutOfMemoryError):
        def run(size):
            if size * each > self.total:
                self.held = self.total
                raise error("CUDA out of memory. Tried to allocate")
            self.held = max(self.held, size * each)

        return run


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(
    ("each", "limit", "expected"),
    [
        (10, 1024, 64),  # 640 of 1000; 1280 runs out
        (15, 1024, 32),  # 64 take 960: they run, but leave less than the tenth
        (14, 1024, 64),  # 896: just above it
        (1, 100, 64),  # the limit
    ],
)
def test_gpu_takes_the_largest_that_leaves_a_tenth(monkeypatch, error, each, limit, expected):
    gpu = Gpu(monkeypatch, 1000)
    assert largest_batch_size(gpu.step(each, error), torch.device("cuda"), limit) == expected
    assert gpu.held == 0


def test_gpu_names_the_memory_where_nothing_fits(monkeypatch):
    gpu = Gpu(monkeypatch, 8 << 30)
    with pytest.raises(RuntimeError, match=r"step of 4 images does not fit cuda:0 with 8\.00 GiB of memory, 8\.00 GiB"):
        largest_batch_size(gpu.step(3 << 30), torch.device("cuda:0"), 64, least=4)


def test_gpu_releases_what_the_failed_step_held(monkeypatch):
    gpu = Gpu(monkeypatch, 1000)
    alive = []

    class Held:
        pass

    def step(size):
        held = Held()
        step.held = weakref.ref(held)
        gpu.step(300)(size)

    step.held = lambda: None
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(step.held()))
    assert largest_batch_size(step, torch.device("cuda"), 64) == 2
    assert alive == [None] * 3  # before the first step, after 2 and after the failed 4


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Writes a process's view of control groups: ``groups(lines, {folder: {file: text}})``."""

    def write(lines, tree):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(lines)
        (tmp_path / "proc/self/status").write_text("VmRSS:\t    2048 kB\nVmHWM:\t 3000 kB\n")
        (tmp_path / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable:  102400 kB\n")
        for folder, files in tree.items():
            (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / "groups" / folder / name).write_text(text)
        monkeypatch.setattr(batch_size, "_PROC", tmp_path / "proc")
        monkeypatch.setattr(batch_size, "_CGROUPS", tmp_path / "groups")

    return write


def version2(most, used, inactive):
    return {
        "memory.max": f"{most}\n",
        "memory.current": f"{used}\n",
        "memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def version1(most, used, inactive):
    return {
        "memory.limit_in_bytes": f"{most}\n",
        "memory.usage_in_bytes": f"{used}\n",
        "memory.stat": f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}\n",
    }


@pytest.mark.parametrize(
    ("lines", "tree", "room"),
    [
        # none, or none with a limit: the machine's
        ("", {}, 100 * MIB),
        ("0::/a/b\n", {"a/b": version2("max", 7, 0)}, 100 * MIB),
        # the lowest one counts, wherever in the tree; file pages that can be dropped are room
        ("0::/a/b\n", {"a": version2(50 * MIB, 30 * MIB, 5 * MIB), "a/b": version2(90 * MIB, 9 * MIB, 0)}, 25 * MIB),
        # a container sees its own group as the root, whatever the host calls it
        ("0::/docker/1f\n", {".": version2(64 * MIB, 4 * MIB, 0)}, 60 * MIB),
        ("3:cpu:/a\n5:memory:/docker/1f\n", {"memory": version1(64 * MIB, 4 * MIB, 2 * MIB)}, 62 * MIB),
        # version 1 writes a huge number where there is no limit
        ("5:hugetlb,memory:/a\n", {"memory/a": version1((1 << 63) - 4096, 4 * MIB, 0)}, 100 * MIB),
        # used up
        ("0::/\n", {".": version2(10 * MIB, 12 * MIB, 0)}, 0),
    ],
)
def test_control_groups(groups, lines, tree, room):
    groups(lines, tree)
    assert batch_size.usable_memory() == room + 2 * MIB
