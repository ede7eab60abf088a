"""Tools for failure tests of `learned-resizer resize`: pictures, processes, and hooks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image

from learned_resizer_cuda.cli import picture as pictures
from learned_resizer_cuda.cli import picture_plan
from learned_resizer_cuda.cli import resize as resize_module
from tests.helpers.failures import command, names
from tests.helpers.image_files import pattern


def photo(path: Path, side: int = 40, level: int | None = None) -> Path:
    """Saves a square picture; with ``level``, of that single grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pattern(side, side) if level is None else np.full((side, side, 3), level, np.uint8)).save(path)
    return path


def held(folder: Path) -> str:
    """Every file in a folder, with its size in pixels or that it is damaged."""
    return ", ".join(f"{name} {state(folder / name)}" for name in names(folder)) or "nothing"


def state(path: Path) -> str:
    try:
        with Image.open(path) as image:
            image.load()
            return f"whole, {image.height}x{image.width}"
    except Exception:
        return "damaged"


def level_of(path: Path) -> int:
    with Image.open(path) as image:
        return int(np.array(image)[0, 0, 0])


def resized(*arguments: object, size: int = 20) -> tuple[int, str]:
    return command("resize", *arguments, "--size", size)


def forked(*bodies: Callable[[], object]) -> list[int]:
    """Runs each body in its own process, all at once; returns their exit codes."""
    children = []
    for body in bodies:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                torch.set_num_threads(1)  # a fork lacks the parent's threads, and would wait for them
                body()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@contextlib.contextmanager
def before_encoding(act: Callable[[pictures.Picture], object]) -> Iterator[None]:
    """Calls ``act`` after a picture has been read and resized, before it is written."""
    encode = pictures.encode_picture

    def encode_after(picture: pictures.Picture) -> bytes:
        act(picture)
        return encode(picture)

    with mock.patch.object(pictures, "encode_picture", encode_after):
        yield


@contextlib.contextmanager
def after_planning(act: Callable[[], object]) -> Iterator[None]:
    """Calls ``act`` after the files have been listed and checked, before one is read."""
    check = picture_plan.check_targets

    def check_and_act(*arguments: Any) -> None:
        check(*arguments)
        act()

    with mock.patch.object(resize_module, "check_targets", check_and_act):
        yield


def fill(disk: Path, leave: int) -> None:
    """Fills a disk up to its last ``leave`` bytes."""
    status = os.statvfs(disk)
    (disk / ".filler").write_bytes(bytes(status.f_bavail * status.f_bsize - leave))


def status(field: str) -> int:
    """A field of this process's status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
