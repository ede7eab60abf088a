"""Damaged run folders and full disks: how a training ends, and how it resumes."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch
from zipfile import ZipFile

import pytest

pytest.importorskip("lightning", reason="the training recipe needs the [train] extra")

import torch
from safetensors.torch import save_file

from learned_resizer_cuda.train.config import RunConfig
from tests.helpers.failures import Case, Outcome, command, names, remount, small_disk
from tests.helpers.interrupted_runs import LAST, STAGE, again, contents, finished, interrupted, same_bits, shared, train


def unreported() -> Path:
    """A run that was stopped in its report."""
    folder = Path(tempfile.mkdtemp(dir=shared())) / "run"
    shutil.copytree(finished(), folder)
    (folder / "summary.json").unlink()
    return folder


@cache
def automatic() -> Path:
    """An interrupted run that has found its batch size itself."""
    folder = shared() / "automatic"
    shutil.copytree(interrupted(), folder)
    config = replace(RunConfig.load(folder / "config.yaml"), batch_size="auto", accelerator="auto")
    config.save(folder / "config.yaml")
    (folder / "batch-sizes.json").write_text('{"12": 4}')
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Changes a bit on the disk, in the largest tensor of a checkpoint."""
    data = bytearray(path.read_bytes())
    with ZipFile(path) as file:
        tensor = file.read(max(file.infolist(), key=lambda entry: entry.file_size))
    data[data.index(tensor)] ^= 1
    path.write_bytes(data)


def damaged(name: str, spoil: Callable[[Path], object], start: Callable[[], Path] = interrupted) -> Case:
    """A row: ``spoil`` changes the file ``name`` of a run that is resumed, or of a finished one that is evaluated."""

    def act(folder: Path) -> Outcome:
        path = folder / "run" / name
        shutil.copytree(start(), folder / "run")
        spoil(path)
        held = contents(folder)
        if start is finished:
            code, printed = command("evaluate", folder / "run", "--accelerator", "cpu")
        elif start is automatic:
            with patch.multiple(torch.cuda, is_available=lambda: True, device_count=lambda: 1):  # a CPU refuses auto
                code, printed = train(folder / "run", "--batch-size", "auto", "--accelerator", "auto")
        else:
            code, printed = train(folder / "run")
        kept = "all of it" if contents(folder) == held else "something else"
        return Outcome(code, printed.splitlines()[-1], kept)

    how = {cut: "cut off", flip: "with one bit changed"}.get(spoil, "that holds something else")
    what = "is evaluated" if start is finished else "is resumed"
    return Case(f"{name} {how}, of a run that {what}", act, 1, f"FOLDER/run/{name} is damaged", "all of it")


def foreign(path: Path) -> None:
    """The weights of another module."""
    save_file({"weight": torch.zeros(1)}, path)


def _without_tab(path: Path) -> None:
    path.write_text("a\nb\n")


# Full disks


def full(what: str, options: str, name: str, more: str = "size=64m,nr_inodes=1000") -> Case:
    """A row: a disk of so much space, on which the file ``name`` is the first that does not fit."""

    def act(folder: Path) -> Outcome:
        finished()
        with small_disk(folder / "disk", options):
            code, printed = train(folder / "disk/run")
            parts = [name for name in names(folder) if name.endswith(".part")]
            remount(folder / "disk", more)
            # What had nothing to go on with has left nothing
            done, told = train(folder / "disk/run")
            assert done == 0, told
            left = same_bits(folder / "disk/run")
        return Outcome(
            code, printed.splitlines()[-1], f"no temporary file; with more space {left}" if not parts else str(parts)
        )

    answer = (
        f"cannot write FOLDER/disk/run/{name}: No space left on device; free some space, then the same command resumes"
    )
    return Case(what, act, 1, answer, "no temporary file; with more space the same bits", mounts=True)


def _read_only(folder: Path) -> Outcome:
    with small_disk(folder / "disk", "size=64m"):
        shutil.copytree(interrupted(), folder / "disk/run")
        remount(folder / "disk", "ro")
        code, printed = train(folder / "disk/run")
        remount(folder / "disk", "rw")
        return Outcome(code, printed, f"made writable again, {again(folder / 'disk/run')}")


CASES: Sequence[Case] = [
    replace(
        damaged("stages/bilinear-12-seed0/network.safetensors", foreign),
        answer="FOLDER/run/stages/bilinear-12-seed0/network.safetensors belongs to another configuration; delete",
    ),
    damaged(f"{LAST}/last.ckpt", cut),
    damaged(f"{LAST}/last.ckpt", flip),
    damaged(f"{LAST}/last.ckpt", lambda path: path.write_bytes(b"")),
    damaged(f"{LAST}/metrics.csv", cut),
    damaged(f"{STAGE}/metrics.csv", cut),
    damaged(f"{STAGE}/metrics.csv", lambda path: path.write_text("a,b\n1\n")),
    damaged(f"{STAGE}/result.json", cut),
    damaged(f"{STAGE}/result.json", lambda path: path.write_text('{"steps": "6"}')),
    damaged(f"{STAGE}/network.safetensors", cut),
    damaged(f"{LAST}/network.safetensors", cut, unreported),
    damaged(f"{LAST}/resizer.safetensors", cut, unreported),
    damaged("config.yaml", lambda path: path.write_text("seeds: many")),
    damaged("unreadable.tsv", _without_tab),
    damaged("batch-sizes.json", lambda path: path.write_text('{"12": 3, "24"'), automatic),
    damaged(f"{STAGE}/network.safetensors", cut, finished),
    damaged(f"{LAST}/resizer.safetensors", cut, finished),
    damaged("config.yaml", cut, finished),
    full("no space for the configuration", "nr_inodes=3", "config.yaml"),
    full("no space for figures", "size=4k", f"{STAGE}/metrics.csv"),
    full("no space for a checkpoint", "size=500k", f"{STAGE}/last.ckpt"),
    full("no space for a later checkpoint", "size=1700k", f"{LAST}/last.ckpt"),
    full("no inode for a stage", "nr_inodes=5", STAGE),
    full("no inode for the result of a stage", "nr_inodes=10", f"{STAGE}/result.json"),
    full("no inode for a resizer", "nr_inodes=14", f"{LAST}/resizer.safetensors"),
    full("no inode for a picture", "nr_inodes=16", "curves.png"),
    Case(
        "a file system that has become read-only",
        _read_only,
        1,
        "cannot write FOLDER/disk/run/.lock: Read-only file system; make the file system writable, then",
        "made writable again, the same bits",
        mounts=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


@pytest.mark.parametrize(
    ("name", "start"),
    [
        (f"{LAST}/last.ckpt", interrupted),
        (f"{STAGE}/metrics.csv", interrupted),
        (f"{LAST}/network.safetensors", unreported),
        (f"{STAGE}/network.safetensors", finished),
        ("unreadable.tsv", interrupted),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_the_message_says_helps(name: str, start: Callable[[], Path], tmp_path: Path) -> None:
    shutil.copytree(start(), tmp_path / "run")
    (tmp_path / "run" / name).write_text("damaged\n")
    if start is finished:
        code, printed = command("evaluate", tmp_path / "run", "--accelerator", "cpu")
    else:
        code, printed = train(tmp_path / "run")
    told = re.search(r"; delete (.*), then", printed)
    assert code == 1 and told is not None, printed
    for path in [tmp_path / "run" / name] if told[1] == "it" else map(Path, told[1].split(" and ")):
        assert path.is_relative_to(tmp_path)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert again(tmp_path / "run") == "the same bits"
