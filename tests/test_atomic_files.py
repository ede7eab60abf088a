"""Files that are whole whatever happens to their writer."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import resource
import signal
import stat
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

pytest.importorskip("lightning", reason="checkpoints need the [train] extra")

from learned_resizer_cuda import atomic
from learned_resizer_cuda.atomic import atomic_bytes, atomic_write, is_case_sensitive, remove_leftovers
from learned_resizer_cuda.damaged import DamagedFileError
from learned_resizer_cuda.train.checkpoint import load_checkpoint, save_checkpoint


def test_the_new_content_takes_the_place_of_the_former(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    atomic_bytes(path, b"2nd")
    assert path.read_bytes() == b"2nd"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_an_error_while_writing_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_bytes(path, b"former")

    def fail(file: BinaryIO) -> None:
        file.write(b"ha")
        # Seen from outside while it is written: still the former
        assert path.read_bytes() == b"former" and Path(file.name).parent == path.parent
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, fail)
    with pytest.raises(FileNotFoundError):
        atomic_bytes(tmp_path / "no" / "a", b"new")
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_reach_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    atomic_bytes(tmp_path / "a", b"new")
    assert calls == ["file", "replace", "folder"]


def test_private_files_stay_private(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"former")
    path.chmod(0o600)
    atomic_bytes(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_overwriting_the_first_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    for flag_of_rename in (True, False):
        if not flag_of_rename:
            monkeypatch.setattr(atomic, "_rename_at", lambda *paths: False)
        path.unlink(missing_ok=True)
        atomic_bytes(path, b"first", overwrite=False)
        with pytest.raises(FileExistsError) as caught:
            atomic_bytes(path, b"second", overwrite=False)
        assert caught.value.filename == str(path)
        assert path.read_bytes() == b"first" and list(tmp_path.iterdir()) == [path]


def test_an_error_that_an_encoder_hides_is_raised(tmp_path: Path) -> None:
    """Written to until the limit of a file's size: a part is written, then nothing."""

    def hide(file: BinaryIO) -> None:
        with contextlib.suppress(OSError):
            file.write(bytes(10_000))

    def change(file: BinaryIO) -> None:
        try:
            file.write(bytes(10_000))
        except OSError as error:
            raise RuntimeError("unexpected pos 64 vs 0") from error  # torch.save's

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        for write in (hide, change):
            with pytest.raises(OSError, match="File too large") as caught:
                atomic_write(tmp_path / "a", write)
            assert caught.value.filename == str(tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_leftovers_go_and_files_at_work_stay(tmp_path: Path) -> None:
    strangers = [".a.part", "learned-resizer-1.part", ".learned-resizer-notes"]
    for name in strangers:
        (tmp_path / name).touch()

    def write(file: BinaryIO) -> None:
        (tmp_path / ".learned-resizer-0123456789abcdef.part").touch()
        file.write(b"new")
        remove_leftovers(tmp_path)
        assert Path(file.name).exists()

    atomic_write(tmp_path / "a", write)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["a", *strangers])
    remove_leftovers(tmp_path / "no such folder")


def test_a_file_taken_for_a_leftover_before_it_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, taken = fcntl.flock, []

    def late(descriptor: int, kind: int) -> None:
        if not taken:
            taken.append(True)
            remove_leftovers(tmp_path)
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    atomic_bytes(tmp_path / "a", b"new")
    assert taken and (tmp_path / "a").read_bytes() == b"new"


def test_a_folder_that_does_not_tell_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_case_sensitive(tmp_path)
    found = Path.exists

    def exists(path: Path) -> bool:
        return any(entry.name.lower() == path.name.lower() for entry in path.parent.iterdir()) or found(path)

    monkeypatch.setattr(Path, "exists", exists)
    assert not is_case_sensitive(tmp_path)
    assert not list(tmp_path.iterdir())


def test_checkpoint_dies_half_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {}, step=1, weights=torch.arange(3))

    def save(checkpoint: Any, file: Any) -> None:
        file.write(b"PK half of it")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(path, {}, step=2)
    loaded = load_checkpoint(path, {})
    assert loaded["step"] == 1 and torch.equal(loaded["weights"], torch.arange(3))
    assert list(path.parent.iterdir()) == [path]


def test_a_checkpoint_restores_its_parts_or_none(tmp_path: Path) -> None:
    saved, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    save_checkpoint(tmp_path / "last.ckpt", {"model": saved}, rounds=3)
    # As one of another version of this package
    with pytest.raises(DamagedFileError, match=r"last\.ckpt is damaged \(without schedule\); delete it"):
        load_checkpoint(tmp_path / "last.ckpt", {"model": other, "schedule": saved})
    assert not torch.equal(other.weight, saved.weight)
    assert load_checkpoint(tmp_path / "last.ckpt", {"model": other}) == {"rounds": 3}
    assert torch.equal(other.weight, saved.weight)


def test_equal_checkpoints_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, {}, weights=torch.arange(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def _save_for_ever(path: Path) -> None:
    torch.set_num_threads(1)  # the threads of the process that this was forked from are not here, and waited for
    step = 0
    while True:
        step += 1
        # Some MB, so that most of the time goes into writing
        save_checkpoint(path, {}, step=step, weights=torch.full((1_000_000,), step))


def test_checkpoint_outlives_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    context = multiprocessing.get_context("fork")  # a fresh interpreter takes seconds to import torch
    for attempt in range(6):
        process = context.Process(target=_save_for_ever, args=(path,))
        path.unlink(missing_ok=True)
        process.start()
        deadline = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < deadline and process.is_alive()
            time.sleep(0.001)
        # Somewhere within the next saves
        time.sleep(0.007 * attempt)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        loaded = load_checkpoint(path, {})
        assert (loaded["weights"] == loaded["step"]).all()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
