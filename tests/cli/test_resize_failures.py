"""`learned-resizer resize` on full disks, in shared folders, on hostile pictures, and stopped at any moment."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

import numpy as np
import torch
from PIL import Image

from learned_resizer_cuda import atomic, resize
from learned_resizer_cuda.cli import picture as pictures
from learned_resizer_cuda.cli import picture_plan, picture_resizer
from learned_resizer_cuda.cli import resize as resize_module
from learned_resizer_cuda.cli.picture_resizer import PictureResizer
from learned_resizer_cuda.data.image_file import ImageRefused, known_formats
from tests.helpers.failures import Case, Outcome, cannot_mount, command, names, remount, small_disk
from tests.helpers.image_files import pattern

KILLS = 200
_M_MMAP_THRESHOLD = -3  # malloc.h
SUFFIXES = ("avif", "bmp", "gif", "jp2", "jpg", "pcx", "png", "ppm", "sgi", "tga", "tif", "webp")


def photo(path: Path, side: int = 40, level: int | None = None) -> Path:
    """A square picture; ``level``: of one grey, to be told from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pattern(side, side) if level is None else np.full((side, side, 3), level, np.uint8)).save(path)
    return path


def held(folder: Path) -> str:
    """Every file in a folder, with its side in pixels, or that it is no picture."""
    return ", ".join(f"{name} {_state(folder / name)}" for name in names(folder)) or "nothing"


def _state(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.load()
            return f"whole, {image.height}x{image.width}"
    except Exception:
        return "damaged"


def _level(path: Path) -> int:
    with Image.open(path) as image:
        return int(np.array(image)[0, 0, 0])


def resized(*arguments: object, size: int = 20) -> tuple[int, str]:
    return command("resize", *arguments, "--size", size)


def forked(*bodies: Callable[[], object]) -> list[int]:
    """Runs each in a process of its own, all at once; their exit codes."""
    children = []
    for body in bodies:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                torch.set_num_threads(1)  # the threads of the process that was forked are not here, and waited for
                body()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@contextlib.contextmanager
def before_encoding(act: Callable[[pictures.Picture], object]) -> Iterator[None]:
    """Does something when a picture has been read and resized, and is not written yet."""
    encode = pictures.encode_picture

    def encode_after(picture: pictures.Picture) -> bytes:
        act(picture)
        return encode(picture)

    with mock.patch.object(pictures, "encode_picture", encode_after):
        yield


@contextlib.contextmanager
def after_planning(act: Callable[[], object]) -> Iterator[None]:
    """Does something when the files have been listed and checked, and none is read yet."""
    check = picture_plan.check_targets

    def check_and_act(*arguments: Any) -> None:
        check(*arguments)
        act()

    with mock.patch.object(resize_module, "check_targets", check_and_act):
        yield


# full disks


def _new_on_full_disk(folder: Path) -> Outcome:
    photo(folder / "in/a.jpg", 300)
    with small_disk(folder / "out", "size=16k") as out:
        return Outcome(*resized(folder / "in", "--output", out, size=290), held(out))


def fill(disk: Path, leave: int) -> None:
    """Takes all space of a disk but so many bytes."""
    status = os.statvfs(disk)
    (disk / ".filler").write_bytes(bytes(status.f_bavail * status.f_bsize - leave))


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
    """Stands for a file system with quotas, which cannot be had without a kernel that has them."""

    def write(self, data: bytes) -> int:
        super().write(data[: len(data) // 2])
        self.failure = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        raise self.failure


def _over_quota(folder: Path) -> Outcome:
    photo(folder / "a.jpg")
    with mock.patch.object(atomic, "_Temporary", _OverQuota):
        return Outcome(*resized(folder / "a.jpg", "--output", folder, "--overwrite"), held(folder))


def _file_size_limit(folder: Path) -> Outcome:
    """The system writes a part, and answers the next write with an error."""
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

DISKS = [
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


# shared folders


def _same_process_number(folder: Path) -> Outcome:
    for number in range(120):
        photo(folder / f"in{number % 2}/{number:03}.png", 12, level=number)
    out = folder / "out"

    def run(part: int) -> None:
        with mock.patch.object(os, "getpid", lambda: 1):
            assert resized(folder / f"in{part}", "--output", out, size=9)[0] == 0

    codes = forked(partial(run, 0), partial(run, 1))
    right = [name for name in names(out) if _level(out / name) == int(name[:3])]
    return Outcome(max(codes), "", f"{len(names(out))} files, {len(right)} with their own content")


def _same_names_at_once(folder: Path, *flags: str) -> Outcome:
    for number in range(40):
        photo(folder / f"in/{number:02}.png", 30)
    out = folder / "out"
    out.mkdir()

    def run(part: int) -> None:
        def wait_for_the_other() -> None:
            (folder / f"ready{part}").touch()
            while not (folder / f"ready{1 - part}").exists():
                time.sleep(0.0005)

        with after_planning(wait_for_the_other):
            _, answer = resized(folder / "in", "--output", out, *flags, size=10 + part)
        (folder / f"said{part}").write_text(answer.splitlines()[-1].rsplit(",", 1)[0])

    assert forked(partial(run, 0), partial(run, 1)) == [0, 0]
    said = [(folder / f"said{part}").read_text() for part in (0, 1)]
    found = held(out)
    there = [found.count("whole, 10x10"), found.count("whole, 11x11")]
    if flags:
        return Outcome(0, " / ".join(said), f"{len(names(out))} files, {sum(there)} whole, of one run or the other")
    counted = [f"{count} resized, {40 - count} skipped" for count in there]
    agree = "as counted" if said == counted else f"not as counted: {said}"
    return Outcome(0, "", f"{len(names(out))} files, {sum(there)} whole, of one run or the other, {agree}")


def _planted_link(folder: Path) -> Outcome:
    """At every name that the temporary file of the code before had, and at the target's."""
    victim = folder / "victim"
    victim.write_text("precious")
    photo(folder / "in/a.png")
    out = folder / "out"
    out.mkdir()
    for name in (f".resize-{os.getpid()}.tmp", "a.png"):
        (out / name).symlink_to(victim)
    code, answer = resized(folder / "in", "--output", out, "--overwrite")
    (out / f".resize-{os.getpid()}.tmp").unlink()
    return Outcome(code, answer, f"{held(out)}; the link's target: {victim.read_text()}")


def _other_source(folder: Path) -> Outcome:
    photo(folder / "x/y/a.png", 30)
    photo(folder / "y/a.png", 31)
    code, answer = resized(folder / "x", folder / "y", "--output", folder, "--overwrite")
    return Outcome(code, answer, held(folder))


def _case_alone(folder: Path) -> Outcome:
    photo(folder / "in/a.png")
    photo(folder / "in/A.PNG")
    with mock.patch.object(picture_plan, "tells_case", lambda folder: False):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _network_answers_late(folder: Path, *flags: str) -> Outcome:
    """NFS: the answer to the first request is lost, and that to the second says that there is nothing to be done.
    No locks, no renameat2, and folders cannot be flushed."""
    photo(folder / "in/a.png")
    replace, link, fsync = os.replace, os.link, os.fsync

    def replace_twice(source: Path, target: Path) -> None:
        replace(source, target)
        replace(source, target)

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    def flush(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    def no_locks(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with (
        mock.patch.object(os, "replace", replace_twice),
        mock.patch.object(os, "link", link_twice),
        mock.patch.object(os, "fsync", flush),
        mock.patch.object(atomic.fcntl, "flock", no_locks),
        mock.patch.object(atomic, "_rename_at", lambda *paths: False),
    ):
        code, answer = resized(folder / "in", "--output", folder / "out", *flags)
    return Outcome(code, answer, held(folder / "out"))


def _no_links(folder: Path) -> Outcome:
    photo(folder / "in/a.png")
    denied = OSError(errno.EPERM, "Operation not permitted")
    with mock.patch.object(os, "link", side_effect=denied), mock.patch.object(atomic, "_rename_at", return_value=False):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _long_names(folder: Path) -> Outcome:
    names_ = ["x" * 251 + ".png", "é" * 125 + "x.png", "🙂" * 62 + "xyz.png"]
    assert [len(os.fsencode(name)) for name in names_] == [255, 255, 255]
    for name in names_:
        photo(folder / "in" / name)
    code, answer = resized(folder / "in", "--output", folder / "out")
    there = sorted(names_) == names(folder / "out")
    return Outcome(code, answer, "all three" if there else held(folder / "out"))


SHARED = [
    Case(
        "two containers, each with process number 1, write 60 pictures each into one folder",
        _same_process_number,
        0,
        "",
        "120 files, 120 with their own content",
    ),
    Case(
        "two runs write 40 pictures of the same names at once",
        _same_names_at_once,
        0,
        "",
        "40 files, 40 whole, of one run or the other, as counted",
    ),
    Case(
        "the same with --overwrite",
        lambda folder: _same_names_at_once(folder, "--overwrite"),
        0,
        "40 resized, 0 skipped / 40 resized, 0 skipped",
        "40 files, 40 whole, of one run or the other",
    ),
    Case(
        "links planted at the target's name and at the former temporary one",
        _planted_link,
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20; the link's target: precious",
    ),
    Case(
        "a target is a source that has not been read yet",
        _other_source,
        2,
        "learned-resizer resize: --output: FOLDER/y/a.png, the target of FOLDER/x/y/a.png, is FOLDER/y/a.png, which is "
        "to be resized itself; choose another folder",
        "x/y/a.png whole, 30x30, y/a.png whole, 31x31",
    ),
    Case(
        "a.png and A.PNG, into a folder that does not tell them apart (simulated)",
        _case_alone,
        2,
        "learned-resizer resize: IN: FOLDER/in/A.PNG and FOLDER/in/a.png would both become FOLDER/out/a.png, because "
        "FOLDER/out does not tell upper case from lower",
        "nothing",
    ),
    Case(
        "a network folder whose answers get lost (simulated)",
        _network_answers_late,
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20",
    ),
    Case(
        "the same with --overwrite",
        lambda folder: _network_answers_late(folder, "--overwrite"),
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20",
    ),
    Case(
        "a folder with neither links nor renameat2 (simulated)",
        _no_links,
        1,
        "skipped FOLDER/in/a.png: cannot write FOLDER/out/a.png: Operation not permitted",
        "nothing",
    ),
    Case("file names of 255 bytes, ASCII and not", _long_names, 0, "3 resized, 0 skipped", "all three"),
]


# pictures


def _one(name: str, make: Callable[[Path], object], folder: Path) -> Outcome:
    (folder / "in").mkdir()
    make(folder / "in" / name)
    return Outcome(*resized(folder / "in", "--output", folder / "out"), held(folder / "out"))


def _saved(format: str, side: int = 32) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(pattern(side, side)).save(path, format)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        former = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            listening.bind(path.name)
        finally:
            os.chdir(former)


def _swapped(act: Callable[[Path], object], folder: Path) -> Outcome:
    source = photo(folder / "in/a.png", level=10)
    photo(folder / "in/b.png", level=20)

    def swap() -> None:
        source.unlink()
        act(source)

    with after_planning(swap):
        code, answer = resized(folder / "in", "--output", folder / "out")
    levels = [f"{name} of level {_level(folder / 'out' / name)}" for name in names(folder / "out")]
    return Outcome(code, answer, ", ".join(levels))


def _changed_in_place(folder: Path) -> Outcome:
    source = photo(folder / "a.png", 40)
    with before_encoding(lambda picture: photo(source, 41)):
        code, answer = resized(source, "--output", folder, "--overwrite")
    return Outcome(code, answer, held(folder))


def _many_pixels(folder: Path) -> Outcome:
    """120 MB for Pillow, and as much as an array. Floats of all pixels took nine times that."""
    (folder / "in").mkdir()
    Image.new("RGBA", (6000, 5000), (1, 2, 3, 128)).save(folder / "in/a.png", compress_level=1)

    def run() -> None:
        # Large blocks go back to the system when they are freed, instead of where glibc finds it better at the time
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmHWM")
        code, answer = resized(folder / "in", "--output", folder / "out")
        (folder / "said").write_text(f"{_status('VmHWM') - before}\n{code}\n{answer}")

    assert forked(run) == [0]
    grown, code, answer = (folder / "said").read_text().split("\n", 2)
    # In float32 the pieces are 4 x 16 MB at a time
    little = int(grown) < 2 * 120_000 + 80_000
    return Outcome(int(code), answer, f"{held(folder / 'out')}; {'less' if little else 'more'} than 320 MB of memory")


def _status(field: str) -> int:
    """kB of a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


NOT_OPENED = "not an image, or in a format that is not opened"
LINE = "skipped FOLDER/in/{}: {}\n0 resized, 1 skipped"

PICTURES = [
    Case("an icon (ICO)", partial(_one, "a.ico", _saved("ICO")), 1, LINE.format("a.ico", NOT_OPENED), "nothing"),
    Case("an icon (ICNS)", partial(_one, "a.icns", _saved("ICNS")), 1, LINE.format("a.icns", NOT_OPENED), "nothing"),
    Case("EPS in a .png", partial(_one, "a.png", _saved("EPS")), 1, LINE.format("a.png", NOT_OPENED), "nothing"),
    Case(
        "30 million pixels of RGBA in 120 KB",
        _many_pixels,
        0,
        "1 resized, 0 skipped",
        "a.png whole, 20x20; less than 320 MB of memory",
    ),
    Case("a pipe", partial(_one, "a.png", os.mkfifo), 1, LINE.format("a.png", "not a regular file"), "nothing"),
    Case("a socket", partial(_one, "a.png", _bind), 1, LINE.format("a.png", "No such device or address"), "nothing"),
    Case(
        "a link to /dev/zero",
        partial(_one, "a.png", lambda path: path.symlink_to("/dev/zero")),
        1,
        LINE.format("a.png", "not a regular file"),
        "nothing",
    ),
    Case(
        "a link to a folder",
        partial(_one, "more", lambda path: path.symlink_to("..")),
        1,
        LINE.format("more", "a link to a folder, which is not followed"),
        "nothing",
    ),
    Case(
        "a name with line ends and a terminal's control codes",
        partial(_one, "a\n\x1b[2Jb.png", lambda path: path.write_text("no image")),
        1,
        LINE.format("a\\n\\x1b[2Jb.png", NOT_OPENED),
        "nothing",
    ),
    Case(
        "another picture under the name between listing and reading",
        partial(_swapped, lambda path: photo(path, level=90)),
        0,
        "2 resized, 0 skipped",
        "a.png of level 90, b.png of level 20",
    ),
    Case(
        "text under the name meanwhile",
        partial(_swapped, lambda path: path.write_text("no image")),
        1,
        f"skipped FOLDER/in/a.png: {NOT_OPENED}\n1 resized, 1 skipped",
        "b.png of level 20",
    ),
    Case(
        "nothing under the name meanwhile",
        partial(_swapped, lambda path: None),
        1,
        "skipped FOLDER/in/a.png: No such file or directory\n1 resized, 1 skipped",
        "b.png of level 20",
    ),
    Case(
        "in place, and the picture changes before it is written",
        _changed_in_place,
        1,
        "skipped FOLDER/a.png: was changed while it was resized, and is left as it is\n0 resized, 1 skipped",
        "a.png whole, 41x41",
    ),
]


# stopped


def _signalled(number: int, folder: Path) -> Outcome:
    for name in "abc":
        photo(folder / f"in/{name}.png")
    out = folder / "out"
    with before_encoding(lambda picture: (out / "a.png").exists() and os.kill(os.getpid(), number)):
        code, answer = resized(folder / "in", "--output", out)
    return Outcome(code, answer, held(out))


def _signalled_while_writing(folder: Path) -> Outcome:
    """The picture at hand is finished, and counted."""
    for name in "abc":
        photo(folder / f"in/{name}.png")
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        fsync(descriptor)
        os.kill(os.getpid(), signal.SIGTERM)
        # Asked again, the process would end at once
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with mock.patch.object(os, "fsync", flush):
        code, answer = resized(folder / "in", "--output", folder / "out")
    return Outcome(code, answer, held(folder / "out"))


def _hung_up(folder: Path) -> Outcome:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        return _signalled(signal.SIGHUP, folder)
    finally:
        signal.signal(signal.SIGHUP, former)


def _killed(folder: Path, kills: int = KILLS) -> Outcome:
    suffixes = ("jpg", "png", "tif", "bmp")
    for number in range(12):
        photo(folder / f"{number:02}.{suffixes[number % 4]}", 150, level=20 * number)
    moments = random.Random(0)
    damaged = leftovers = 0
    for turn in range(kills):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                torch.set_num_threads(1)
                while True:
                    for size in (150, 151):
                        resized(folder, "--output", folder, "--overwrite", size=size + 2 * (turn % 2))
            os._exit(0)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            right = _state(path) in [f"whole, {side}x{side}" for side in range(150, 154)]
            damaged += not (right and abs(_level(path) - 20 * int(path.stem)) <= 1)  # a level of JPEG
        leftovers += sum(path.name.startswith(".") for path in folder.iterdir())
    code, answer = resized(folder, "--output", folder, "--overwrite")
    hidden = sum(path.name.startswith(".") for path in folder.iterdir())
    return Outcome(code, answer, f"{damaged} damaged originals; {hidden} temporary files after the next run")


STOPPED = [
    *(
        Case(
            f"resize is stopped by {name}",
            partial(_signalled, number),
            128 + number,
            f"learned-resizer resize: stopped by {name}\n1 resized, 0 skipped, 2 left",
            "a.png whole, 20x20",
        )
        for name, number in (("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM), ("SIGHUP", signal.SIGHUP))
    ),
    Case(
        "by SIGTERM while it writes the first",
        _signalled_while_writing,
        143,
        "learned-resizer resize: stopped by SIGTERM\n1 resized, 0 skipped, 2 left",
        "a.png whole, 20x20",
    ),
    Case(
        "SIGHUP under nohup",
        _hung_up,
        0,
        "3 resized, 0 skipped",
        "a.png whole, 20x20, b.png whole, 20x20, c.png whole, 20x20",
    ),
    Case(
        f"killed {KILLS} times at random moments, in place",
        _killed,
        0,
        "12 resized, 0 skipped",
        "0 damaged originals; 0 temporary files after the next run",
    ),
]

CASES = [*DISKS, *SHARED, *PICTURES, *STOPPED]


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


def test_pictures_with_alpha_are_the_same_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = torch.from_numpy(pattern(70, 50, 4)).permute(2, 0, 1)
    picture = pictures.Picture(planes, "RGBA", "PNG")
    for size in ((20, 30), (90, 20), (10, 120), (70, 50)):
        for options in ({"interpolation": "lanczos"}, {"interpolation": "bicubic", "antialias": False}):
            unit = planes.double() / 255
            plain = resize(torch.cat([unit[:-1] * unit[-1:], unit[-1:]]), size, **options)  # type: ignore[arg-type]
            for piece in (1 << 20, 100):
                monkeypatch.setattr(picture_resizer, "_PIECE", piece)
                out = PictureResizer(size, **options)(picture).planes / 255  # type: ignore[arg-type]
                again = torch.cat([out[:-1] * plain[-1:], out[-1:]])
                visible = plain[-1:] > 0.01
                exact = torch.where(plain[:-1] / plain[-1:] <= 1, plain[:-1].clamp(min=0), plain[-1:])
                # float32 twice, a product, and a quotient by alpha, which is above 0.01: measured 3e-6
                assert (again[:-1] - exact).abs()[visible.expand(3, -1, -1)].max() < 1e-5
                assert (out[-1:] - plain[-1:].clamp(0, 1)).abs().max() < 1e-6


def test_a_format_that_writes_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = torch.zeros((3, 30, 300), dtype=torch.uint8)
    with pytest.raises(ImageRefused, match="ICO cannot hold 30x300 pixels"):
        pictures.encode_picture(pictures.Picture(planes, "RGB", "ICO"))


@pytest.mark.parametrize("limit", [700, 300])
def test_pictures_above_the_limit_of_what_is_opened_are_written(
    limit: int, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Pillow warns of files above its limit, and refuses those above twice that."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    encoded = pictures.encode_picture(pictures.Picture(torch.zeros((3, 30, 30), dtype=torch.uint8), "RGB", "PNG"))
    assert encoded.startswith(b"\x89PNG") and not recwarn.list


def test_a_file_in_place_of_a_folder_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "in/sub/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").write_text("mine")
    code, answer = resized(tmp_path / "in", "--output", tmp_path / "out")
    assert code == 1 and "a.png: cannot write" in answer and "File exists" in answer and "meanwhile" not in answer
    assert (tmp_path / "out/sub").read_text() == "mine"


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    """Two minutes and a half. Listing and checking, in place, take 1.3 s and 50 MB."""
    content = photo(tmp_path / "in/0.png", 12).read_bytes()
    for number in range(1, 100_000):
        (tmp_path / f"in/{number}.png").write_bytes(content)
    resize_one, memory, times = resize_module._resize_one, [], []

    def measured(*arguments: Any) -> None:
        if not times:
            times.append(time.perf_counter())
        resize_one(*arguments)
        memory.append(_status("VmRSS"))

    started = time.perf_counter()
    with mock.patch.object(resize_module, "_resize_one", measured):
        code, answer = resized(tmp_path / "in", "--output", tmp_path / "in", "--overwrite", size=8)
    assert (code, answer.splitlines()[-1].split(",")[0]) == (0, "100000 resized")
    assert times[0] - started < 2
    print(f"start {times[0] - started:.2f} s, {memory[1000]} kB at the thousandth file, {max(memory)} at most")
    # From the thousandth file to the last: 1 % of what the process holds at all
    assert max(memory[1000:]) - memory[1000] < 8000
