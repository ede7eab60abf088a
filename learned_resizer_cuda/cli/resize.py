"""`learned-resizer resize`: image files through a fixed or trained resizer."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..atomic import atomic_bytes, remove_leftovers
from ..shown import shown_path
from .picture_plan import Job, Unread, check_targets, plan, same_file
from .stopping import Stopped, finishing, raise_if_asked
from .streams import complain, fail

if TYPE_CHECKING:
    from rich.console import Console

    from .picture_resizer import PictureResizer


def resize(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Image files, and folders of them.")],
    output: Annotated[Path, typer.Option(help="Folder for the results; made if missing.")],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="H[xW]",
            help="Output height and width, or one number for both. With --weights, "
            "default: the size the resizer was trained for.",
        ),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear, bicubic or lanczos.", show_default="bilinear")
    ] = None,
    antialias: Annotated[
        bool | None,
        typer.Option("--antialias/--no-antialias", help="Widen the filter when shrinking.", show_default="antialias"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Use the learned resizer in this file, from `learned-resizer train`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in the output folder.")] = False,
) -> None:
    """Resize image files, and whole folders of them, into another folder.

    A file keeps its name, format, colour profile and alpha; a folder keeps its tree below the output folder;
    hidden files in it are left out. Images are turned upright by their EXIF orientation first. Files that are
    not images, damaged or too large are named and skipped. A file is written whole or not at all. JPEG and WebP
    are written at quality 95. Formats: AVIF, BMP, GIF, JPEG, JPEG 2000, PCX, PNG, PPM, QOI, SGI, TGA, TIFF, WebP.

    Exit code: 0 all done, 1 some files skipped or no space left, 2 nothing done because of a wrong argument,
    128 + its number for a signal.
    """
    try:
        resizer = _resizer(size, interpolation, antialias, weights)
        jobs, unread = plan(inputs, output)
        check_targets(jobs, output, overwrite)
    except (TypeError, ValueError, OSError) as error:
        fail("resize", error)
    for folder in {os.path.dirname(job.target) for job in jobs}:
        remove_leftovers(folder)
    raise typer.Exit(_resize_all(jobs, unread, resizer, output, overwrite))


def parse_size(text: str) -> tuple[int, int]:
    """``"224"`` → (224, 224), ``"240x320"`` → (240, 320); else ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?", text.strip())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if height < 1 or width < 1:
        raise ValueError(f"--size: got {text!r}; expected H or HxW, as 224 or 240x320, at least 1")
    return height, width


def _resizer(
    size: str | None, interpolation: str | None, antialias: bool | None, weights: Path | None
) -> PictureResizer:
    from ..resize import check_interpolation
    from .picture_resizer import PictureResizer

    if weights is None:
        if size is None:
            raise ValueError("--size: got none; expected H or HxW, as 224 or 240x320")
        filter_name = check_interpolation(interpolation or "bilinear")
        return PictureResizer(parse_size(size), filter_name, antialias is not False)
    if interpolation is not None or antialias is not None:
        raise ValueError("--weights: a learned resizer has its own filter; leave out --interpolation and --antialias")
    from ..resizer import FusedResizer
    from ..weights import load_resizer

    learned, config = load_resizer(FusedResizer, weights)
    target = config.size if size is None else parse_size(size)
    return PictureResizer(target, config.interpolation, config.antialias, learned)


class _Tally:
    """Counts of finished jobs, with their report to the user."""

    def __init__(self, total: int, console: Console) -> None:
        self.total, self.console = total, console
        self.done = self.skipped = 0

    def skip(self, path: str, reason: object) -> None:
        self.skipped += 1
        self.say("skipped", path, reason)

    def say(self, what: str, path: str, reason: object) -> None:
        from ..report.terminal import print_line

        print_line(self.console, f"{what} {shown_path(path)}: {reason}")

    def __str__(self) -> str:
        left = self.total - self.done - self.skipped
        return f"{self.done} resized, {self.skipped} skipped" + (f", {left} left" if left else "")


def _resize_all(
    jobs: Sequence[Job], unread: Sequence[Unread], resizer: PictureResizer, output: Path, overwrite: bool
) -> int:
    from ..report.terminal import open_console, print_line
    from .heartbeat import Heartbeat
    from .progress import Bars

    console = open_console(stderr=True)
    started = time.perf_counter()
    tally = _Tally(len(jobs) + len(unread), console)
    code = 0
    bars = Bars(console) if console.is_interactive else None
    if bars is None:
        print_line(console, f"resizing {len(jobs)} files into {shown_path(output)}")
    for folder, reason in unread:
        tally.skip(folder, reason)
    try:
        with bars or Heartbeat(lambda text: print_line(console, text), lambda: f"resizing: {tally}"):
            task = bars.add_task("resizing", total=len(jobs), metric="") if bars else None
            for job in jobs:
                _resize_one(job, resizer, overwrite, tally)
                raise_if_asked()  # a decoder may have taken the exception for damage
                if bars and task is not None:
                    bars.advance(task)
    except (_NoSpaceError, Stopped) as error:
        code = complain("resize", error, error.code)
    typer.echo(f"{tally}, {time.perf_counter() - started:.1f} s")
    return code or (1 if tally.skipped else 0)


class _NoSpaceError(Exception):
    """Nothing more can be written; ``code`` is the command's exit code."""

    code = 1


def _resize_one(job: Job, resizer: PictureResizer, overwrite: bool, tally: _Tally) -> None:
    from ..data.image_file import ImageRefused
    from .picture import encode_picture, file_version, read_picture

    try:
        in_place = same_file(*job)
        picture = read_picture(job.source)
        encoded = encode_picture(resizer(picture))
        os.makedirs(os.path.dirname(job.target), exist_ok=True)
        with finishing():
            if in_place and file_version(job.source) != picture.version:
                raise ImageRefused("was changed while it was resized, and is left as it is")
            atomic_bytes(job.target, encoded, overwrite=overwrite)
            tally.done += 1
    except OSError as error:
        reason = f"cannot write {shown_path(job.target)}: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            # Every picture after this one would fail the same way
            raise _NoSpaceError(reason) from error
        if isinstance(error, FileExistsError) and error.filename == job.target:
            reason = f"{shown_path(job.target)} has appeared meanwhile; pass --overwrite to replace it"
        return tally.skip(job.source, reason)
    except ImageRefused as error:
        return tally.skip(job.source, error)
    except MemoryError:
        return tally.skip(job.source, "not enough memory")
    except Exception as error:
        # One image must not end a run over thousands; the name of the error's type marks it as a bug
        return tally.skip(job.source, f"{type(error).__name__}: {error}")
    for note in picture.notes:
        tally.say("note", job.source, note)
    return None
