"""Readings of the memory that a process may use, from /proc and control groups."""

import math

import pytest

from learned_resizer_cuda.train import memory

MIB = 1 << 20


@pytest.fixture
def groups(monkeypatch, tmp_path):
    """Writes a process's view of control groups: ``groups(lines, {folder: {file: text}})``."""

    def write(lines, tree):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(lines)
        (tmp_path / "proc/self/status").write_text("VmHWM:\t 3000 kB\nVmRSS:\t    2048 kB\n")
        (tmp_path / "proc/meminfo").write_text("MemTotal: 900000 kB\nMemAvailable:  102400 kB\n")
        for folder, files in tree.items():
            (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (tmp_path / "groups" / folder / name).write_text(text)
        monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
        monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "groups")

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
        # no group, or none with a limit: the machine's
        ("", {}, 100 * MIB),
        ("0::/a/b\n", {"a/b": version2("max", 7, 0)}, 100 * MIB),
        # the lowest limit counts, anywhere in the tree; file pages that can be dropped count as free
        ("0::/a/b\n", {"a": version2(50 * MIB, 30 * MIB, 5 * MIB), "a/b": version2(90 * MIB, 9 * MIB, 0)}, 25 * MIB),
        # a container sees its own group as the root, whatever its name on the host
        ("0::/docker/1f\n", {".": version2(64 * MIB, 4 * MIB, 0)}, 60 * MIB),
        ("3:cpu:/a\n5:memory:/docker/1f\n", {"memory": version1(64 * MIB, 4 * MIB, 2 * MIB)}, 62 * MIB),
        # version 1 shows a huge number if there is no limit
        ("5:hugetlb,memory:/a\n", {"memory/a": version1((1 << 63) - 4096, 4 * MIB, 0)}, 100 * MIB),
        # used up
        ("0::/\n", {".": version2(10 * MIB, 12 * MIB, 0)}, 0),
    ],
)
def test_control_groups(groups, lines, tree, room):
    groups(lines, tree)
    assert memory.usable_memory() == room + 2 * MIB


def test_systems_that_do_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROC", tmp_path / "absent")
    assert memory.usable_memory() == math.inf
    (tmp_path / "self").mkdir()
    (tmp_path / "meminfo").write_text("MemTotal: 900000 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    assert memory.usable_memory() == math.inf


def test_malformed_control_groups_are_ignored(groups):
    groups("0::/a\n", {"a": version2("much", 7, 0)})
    assert memory.usable_memory() == 102 * MIB
