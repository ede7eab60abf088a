"""`learned-resizer resize` on hostile, huge, changing and very many pictures."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("PIL", reason="image files need the [train] extra")
pytest.importorskip("typer", reason="the command needs the [train] extra")

import torch
from PIL import Image

from learned_resizer_cuda import resize
from learned_resizer_cuda.cli import picture as pictures
from learned_resizer_cuda.cli import picture_resizer
from learned_resizer_cuda.cli import resize as resize_module
from learned_resizer_cuda.cli.picture_resizer import PictureResizer
from learned_resizer_cuda.data.image_file import ImageRefused
from tests.helpers.failures import Case, Outcome, names
from tests.helpers.image_files import pattern
from tests.helpers.resize_command import after_planning, before_encoding, forked, held, level_of, photo, resized, status

_M_MMAP_THRESHOLD = -3  # malloc.h


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
    levels = [f"{name} of level {level_of(folder / 'out' / name)}" for name in names(folder / "out")]
    return Outcome(code, answer, ", ".join(levels))


def _changed_in_place(folder: Path) -> Outcome:
    source = photo(folder / "a.png", 40)
    with before_encoding(lambda picture: photo(source, 41)):
        code, answer = resized(source, "--output", folder, "--overwrite")
    return Outcome(code, answer, held(folder))


def _many_pixels(folder: Path) -> Outcome:
    """120 MB for Pillow and as much for the array. Floats of all pixels took nine times that."""
    (folder / "in").mkdir()
    Image.new("RGBA", (6000, 5000), (1, 2, 3, 128)).save(folder / "in/a.png", compress_level=1)

    def run() -> None:
        # Return large blocks to the system as soon as they are freed, instead of when glibc decides
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmHWM")
        code, answer = resized(folder / "in", "--output", folder / "out")
        (folder / "said").write_text(f"{status('VmHWM') - before}\n{code}\n{answer}")

    assert forked(run) == [0]
    grown, code, answer = (folder / "said").read_text().split("\n", 2)
    # In float32 the pieces are 4 x 16 MB at a time
    little = int(grown) < 2 * 120_000 + 80_000
    return Outcome(int(code), answer, f"{held(folder / 'out')}; {'less' if little else 'more'} than 320 MB of memory")


NOT_OPENED = "not an image, or in a format that is not opened"
LINE = "skipped FOLDER/in/{}: {}\n0 resized, 1 skipped"

CASES = [
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


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_case(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


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


@pytest.mark.slow
def test_a_hundred_thousand_files(tmp_path: Path) -> None:
    """Takes two and a half minutes. Listing and checking, in place, take 1.3 s and 50 MB."""
    content = photo(tmp_path / "in/0.png", 12).read_bytes()
    for number in range(1, 100_000):
        (tmp_path / f"in/{number}.png").write_bytes(content)
    resize_one, memory, times = resize_module._resize_one, [], []

    def measured(*arguments: Any) -> None:
        if not times:
            times.append(time.perf_counter())
        resize_one(*arguments)
        memory.append(status("VmRSS"))

    started = time.perf_counter()
    with mock.patch.object(resize_module, "_resize_one", measured):
        code, answer = resized(tmp_path / "in", "--output", tmp_path / "in", "--overwrite", size=8)
    assert (code, answer.splitlines()[-1].split(",")[0]) == (0, "100000 resized")
    assert times[0] - started < 2
    print(f"start {times[0] - started:.2f} s, {memory[1000]} kB at the thousandth file, {max(memory)} at most")
    # From the thousandth file to the last: 1 % of what the process holds in all
    assert max(memory[1000:]) - memory[1000] < 8000
