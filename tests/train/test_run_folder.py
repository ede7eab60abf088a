"""The folder of a run: its lock, whose run it holds, and how it is found again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("filelock", reason="the training recipe needs the [train] extra")

from learned_resizer_cuda.train import run_folder as folder_module
from learned_resizer_cuda.train.config import RunConfig
from learned_resizer_cuda.train.run_folder import (
    CONFIG,
    LOCK,
    SUMMARY,
    FolderInUseError,
    RunFolder,
    find_folder,
    wait_for_folder,
)  # fmt: skip


def test_folder_of_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "PATIENCE", 0.0)
    one, other = RunConfig.make({}), RunConfig.make({"seeds": 3})
    with RunFolder(tmp_path / "a" / "run", one) as held:
        assert not held.resuming
        with pytest.raises(FolderInUseError, match="another process works in"):
            RunFolder(held.path, one)
    (held.path / "notes.txt").write_text("mine")
    with RunFolder(held.path, one) as held:
        assert held.resuming
    with pytest.raises(FileExistsError, match=r"unfinished run of another configuration \(seeds 1 → 3\)"):
        RunFolder(held.path, other)
    with RunFolder(held.path, other, overwrite=True) as held:
        assert not held.resuming and (held.path / "notes.txt").read_text() == "mine"  # a file that is not a run's stays
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunFolder(held.path / "notes.txt", one)


def test_an_unfinished_run_is_found_again(tmp_path: Path) -> None:
    one, other = RunConfig.make({}), RunConfig.make({"seeds": 3})
    folder = find_folder(one, tmp_path)
    held = RunFolder(folder, one)
    assert find_folder(one, tmp_path) != folder  # a process works in it
    held.close()
    assert find_folder(one, tmp_path) == folder
    assert find_folder(other, tmp_path) != folder
    (folder / SUMMARY).write_text("{}")
    assert find_folder(one, tmp_path) != folder  # it is finished
    (folder / SUMMARY).unlink()
    (folder / CONFIG).write_text("steps: many")
    assert find_folder(one, tmp_path) != folder
    assert not (folder / LOCK).exists()


def test_a_killed_process_frees_its_lock_at_once(tmp_path: Path) -> None:
    """Even if it has forked workers, which outlive it for some seconds."""
    config = RunConfig.make({})
    source, target = os.pipe()
    child = os.fork()
    if not child:
        held = RunFolder(tmp_path / "run", config)
        worker = os.fork()
        if worker:
            os.write(target, str(worker).encode())
        time.sleep(60)
        os._exit(0)
    worker = int(os.read(source, 20))
    assert find_folder(config, tmp_path) != tmp_path / "run"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        started = time.monotonic()
        with RunFolder(tmp_path / "run", config) as held:
            assert held.resuming and time.monotonic() - started < 1
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(source)
        os.close(target)


def test_a_lock_file_keeps_its_content_and_a_link_is_not_followed(tmp_path: Path) -> None:
    config = RunConfig.make({})
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    for target in ("mine", "nothing"):
        (tmp_path / "run" / LOCK).symlink_to(tmp_path / target)
        with pytest.raises(FileExistsError, match=r"\.lock is a link; expected a lock file of a run, or no file"):
            RunFolder(tmp_path / "run", config)
        config.save(tmp_path / "run" / CONFIG)
        assert find_folder(config, tmp_path) == tmp_path / "run"
        (tmp_path / "run" / LOCK).unlink()
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "run" / LOCK).hardlink_to(tmp_path / "mine")
    with RunFolder(tmp_path / "run", config):
        assert find_folder(config, tmp_path) != tmp_path / "run"
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_its_holder_takes_away_is_made_again(tmp_path: Path) -> None:
    flock, taken = fcntl.flock, []

    def take_away(descriptor: int, kind: int) -> None:
        if not taken and (tmp_path / "run" / LOCK).exists():
            shutil.rmtree(tmp_path / "run")
            taken.append(True)
        flock(descriptor, kind)

    with mock.patch.object(fcntl, "flock", take_away), RunFolder(tmp_path / "run", RunConfig.make({})) as held:
        assert taken and not held.resuming and (tmp_path / "run" / LOCK).exists()


def test_waiting_for_the_first_node(tmp_path: Path) -> None:
    config, other = RunConfig.make({}), RunConfig.make({"seeds": 3})
    with pytest.raises(FolderInUseError, match="where the first node does not work at this run"):
        wait_for_folder(tmp_path / "run", config, 0)
    with RunFolder(tmp_path / "run", config):
        wait_for_folder(tmp_path / "run", config, 0)
        with pytest.raises(FolderInUseError):
            wait_for_folder(tmp_path / "run", other, 0)
    with pytest.raises(FolderInUseError):
        wait_for_folder(tmp_path / "run", config, 0)
    assert not (tmp_path / "run" / LOCK).exists()


def test_who_finds_a_folder_in_use_leaves_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody has been killed here whose workers might hold it yet.
    monkeypatch.setattr(folder_module, "PATIENCE", 0.0)
    config = RunConfig.make({})
    with RunFolder(tmp_path / "run", config) as held:
        for _ in range(2):  # the first refused one must not open the door for the second
            with pytest.raises(FolderInUseError):
                RunFolder(held.path, config)
        assert (held.path / LOCK).exists() and find_folder(config, tmp_path) != held.path
    assert not (tmp_path / "run" / LOCK).exists()


def test_overwriting_needs_a_run(tmp_path: Path) -> None:
    """A folder that is not a run's is refused untouched, with a message that helps."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "samples.png").write_text("mine, too")
    with pytest.raises(FileExistsError, match=r"holds no run but notes\.txt; choose another folder: only a"):
        RunFolder(tmp_path, RunConfig.make({}), overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "samples.png"]
    # What is left after clearing was killed counts as a run's.
    (tmp_path / "notes.txt").unlink()
    with RunFolder(tmp_path, RunConfig.make({}), overwrite=True):
        assert [path.name for path in tmp_path.iterdir() if path.name != LOCK] == [CONFIG]
