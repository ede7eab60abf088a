"""`learned-resizer resize` on disks that are full, over quota or read-only."""

from __future__ import annotations

import errno
import os
import resource
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

from learned_resizer_cuda import atomic
from learned_resizer_cuda.data.image_file import known_formats
from tests.helpers.failures import Case, Outcome, cannot_mount, names, remount, small_disk
from tests.helpers.resize_command import before_encoding, fill, forked, held, photo, resized

SUFFIXES = ("avif", "bmp", "gif", "jp2", "jpg", "pcx", "png", "ppm", "sgi", "tga", "tif", "webp")


def _new_on_full_disk(folder: Path) -> Outcome:
    photo(folder / "in/a.jpg", 300)
    with small_disk(folder / "out", "size=16k") as out:
        return Outcome(*resized(folder / "in", "--output", out, size=290), held(out))


def _in_place_on_full_disk(folder: Path, suffix: str = "jpg") -> Outcome:
    with small_disk(folder / "disk", "size=256k") as disk:
        path = photo(disk / f"a.{suffix}", 200)
        fill(disk, 8192)
        code, answer = resized(path, "--output", disk, "--overwrite", size=190)
        (disk / ".filler").unlink()
        return Outcome(code, answer, held(disk))


def _no_inodes(folder: Path) -> Outcome:
    for name in "abc":
        photo(folder / f"in/{name}.png")
    with small_disk(folder / "out", "size=1m,nr_inodes=3") as out:
        return Outcome(*resized(folder / "in", "--output", out), held(out))


def _read_only_meanwhile(folder: Path) -> Outcome:
    for name in "abc":
        photo(folder / f"in/{name}.png")
    with small_disk(folder / "out", "size=1m") as out:
        with before_encoding(lambda picture: (out / "a.png").exists() and remount(out, "ro")):
            code, answer = resized(folder / "in", "--output", out)
        return Outcome(code, answer, held(out))


class _OverQuota(atomic._Temporary):
    """Stands in for a file system with quotas, which the kernel may lack."""

    def write(self, data: bytes) -> int:
        super().write(data[: len(data) // 2])
        self.failure = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        raise self.failure


def _over_quota(folder: Path) -> Outcome:
    photo(folder / "a.jpg")
    with mock.patch.object(atomic, "_Temporary", _OverQuota):
        return Outcome(*resized(folder / "a.jpg", "--output", folder, "--overwrite"), held(folder))


def _file_size_limit(folder: Path) -> Outcome:
    """The system writes a part, and fails the next write."""
    photo(folder / "a.jpg", 200)
    said = folder / "said.txt"

    def run() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        code, answer = resized(folder / "a.jpg", "--output", folder, "--overwrite", size=190)
        said.write_text(f"{code}\n{answer}")

    forked(run)
    code, answer = said.read_text().split("\n", 1)
    said.unlink()
    return Outcome(int(code), answer, held(folder))


CANNOT = "learned-resizer resize: cannot write FOLDER/out/{}: {}\n"

CASES = [
    Case(
        "resize: the disk is full",
        _new_on_full_disk,
        1,
        CANNOT.format("a.jpg", "No space left on device") + "0 resized, 0 skipped, 1 left",
        "nothing",
        mounts=True,
    ),
    Case(
        "the same in place, with --overwrite",
        _in_place_on_full_disk,
        1,
        "learned-resizer resize: cannot write FOLDER/disk/a.jpg: No space left on device",
        "a.jpg whole, 200x200",
        mounts=True,
    ),
    Case(
        "the same with JPEG 2000",
        partial(_in_place_on_full_disk, suffix="jp2"),
        1,
        "learned-resizer resize: cannot write FOLDER/disk/a.jp2: No space left on device",
        "a.jp2 whole, 200x200",
        mounts=True,
    ),
    Case(
        "inodes for two of three files",
        _no_inodes,
        1,
        CANNOT.format("c.png", "No space left on device") + "2 resized, 0 skipped, 1 left",
        "a.png whole, 20x20, b.png whole, 20x20",
        mounts=True,
    ),
    Case(
        "the disk becomes read-only after the first of three",
        _read_only_meanwhile,
        1,
        CANNOT.format("b.png", "Read-only file system") + "1 resized, 0 skipped, 2 left",
        "a.png whole, 20x20",
        mounts=True,
    ),
    Case(
        "over quota (simulated), in place",
        _over_quota,
        1,
        "learned-resizer resize: cannot write FOLDER/a.jpg: Disk quota exceeded\n0 resized, 0 skipped, 1 left",
        "a.jpg whole, 40x40",
    ),
    Case(
        "above the limit of a file's size (ulimit -f), in place",
        _file_size_limit,
        1,
        "skipped FOLDER/a.jpg: cannot write FOLDER/a.jpg: File too large\n0 resized, 1 skipped",
        "a.jpg whole, 200x200",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_format_loses_an_original_on_a_full_disk(tmp_path: Path, suffix: str) -> None:
    """Pillow's encoders, given a file, write a part of it and report success, or never end (JPEG 2000)."""
    if reason := cannot_mount():
        pytest.skip(reason)
    if suffix == "avif" and "AVIF" not in known_formats():
        pytest.skip("this Pillow was built without AVIF")
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        original = photo(disk / f"a.{suffix}", 250).read_bytes()
        for leave in (0, 4096):
            fill(disk, leave)
            code, answer = resized(disk / f"a.{suffix}", "--output", disk, "--overwrite", size=240)
            assert code == 1 and "No space left on device" in answer
            assert names(disk) == [".filler", f"a.{suffix}"]
            assert (disk / f"a.{suffix}").read_bytes() == original
            (disk / ".filler").unlink()
