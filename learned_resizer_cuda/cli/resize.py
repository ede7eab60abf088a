"""`learned-resizer resize`: image files and folders, resized by a fixed filter or a trained resizer."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from ..data.resizing import PictureResizer


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
    """Resize image files, and folders with all they hold, into another folder.

    A file keeps its name, format, colour profile and alpha; a folder keeps its tree below the output folder;
    hidden files in it are left alone. Images are turned upright by their EXIF orientation first. What is no
    image, damaged or too large is named and skipped, and the rest is done. JPEG and WebP are written at
    quality 95.

    Exit code: 0 all done, 1 some files skipped, 2 nothing done for a wrong argument.
    """
    try:
        resizer = _resizer(size, interpolation, antialias, weights)
        jobs, unread = plan(inputs, output)
        check_targets(jobs, overwrite)
        _make_writable(output)
    except (TypeError, ValueError, OSError) as error:
        _fail(str(error))
    raise typer.Exit(_work(jobs, unread, resizer, overwrite))


def parse_size(text: str) -> tuple[int, int]:
    """``"224"`` → (224, 224), ``"240x320"`` → (240, 320); else ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})(?:[xX×]([0-9]{1,9}))?", text.strip())
    height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if height < 1 or width < 1:
        raise ValueError(f"--size: got {text!r}; expected H or HxW, as 224 or 240x320, at least 1")
    return height, width


def plan(inputs: Sequence[Path], output: Path) -> tuple[list[tuple[Path, Path]], list[tuple[Path, str]]]:
    """Which file goes where.

    Args:
        inputs: files and folders; a folder stands for every file below it that is not hidden, in name order.
            The output folder, where it lies below one of them, is left out.
        output: the output folder.

    Returns:
        Pairs (source, target), each source once, and the folders that cannot be listed with the reason.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: two sources would have the same target, or there is no file at all.
    """
    jobs: list[tuple[Path, Path]] = []
    unread: list[tuple[Path, str]] = []
    for given in inputs:
        if given.is_dir():
            jobs += [(path, output / path.relative_to(given)) for path in _files_below(given, output, unread)]
        elif given.exists():
            jobs.append((given, output / given.name))
        else:
            raise FileNotFoundError(f"IN: no such file or folder: {_shown(given)}")
    by_target: dict[Path, Path] = {}
    once: list[tuple[Path, Path]] = []
    for source, target in jobs:
        first = by_target.setdefault(target, source)
        if first is source:
            once.append((source, target))
        elif first.resolve() != source.resolve():
            raise ValueError(f"IN: {_shown(first)} and {_shown(source)} would both become {_shown(target)}")
    if not once and not unread:
        raise ValueError(f"IN: no files in {', '.join(_shown(path) for path in inputs)}")
    return once, unread


def _files_below(folder: Path, output: Path, unread: list[tuple[Path, str]]) -> list[Path]:
    avoid = output.resolve()
    found = []

    def failed(error: OSError) -> None:
        unread.append((Path(error.filename), error.strerror or str(error)))

    for parent, folders, names in os.walk(folder, onerror=failed):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and Path(parent, name).resolve() != avoid
        )
        # A broken link is no file, but the user should hear of it.
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        found += [path for path in paths if path.is_file() or path.is_symlink()]
    return found


def check_targets(jobs: Sequence[tuple[Path, Path]], overwrite: bool) -> None:
    """Raises FileExistsError where a target is a folder, or a file that may not be replaced."""
    taken = [target for _, target in jobs if target.is_dir() or (target.exists() and not overwrite)]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        hint = "is a folder" if taken[0].is_dir() else "exists; pass --overwrite to replace it"
        raise FileExistsError(f"--output: {_shown(taken[0])}{more} {hint}")


def _make_writable(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--output: cannot make the folder {_shown(output)}: {error.strerror or error}") from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise PermissionError(f"--output: cannot write into the folder {_shown(output)}")


def _resizer(
    size: str | None, interpolation: str | None, antialias: bool | None, weights: Path | None
) -> PictureResizer:
    from ..data.resizing import PictureResizer
    from ..resize import check_interpolation

    if weights is None:
        if size is None:
            raise ValueError("--size: got none; expected H or HxW, as 224 or 240x320")
        filter_name = check_interpolation(interpolation or "bilinear")
        return PictureResizer(parse_size(size), filter_name, antialias is not False)
    if interpolation is not None or antialias is not None:
        raise ValueError("--weights: a learned resizer has its own filter; leave out --interpolation and --antialias")
    from ..weights import load_resizer

    learned, config = load_resizer(weights)
    target = config.size if size is None else parse_size(size)
    return PictureResizer(target, config.interpolation, config.antialias, learned)


def _work(
    jobs: Sequence[tuple[Path, Path]], unread: Sequence[tuple[Path, str]], resizer: PictureResizer, overwrite: bool
) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..data.files import ImageRefused, read_picture, write_picture

    console = Console(stderr=True)
    started = time.perf_counter()
    done, skipped = 0, 0
    columns = (TextColumn("resizing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a pipe the bar is silent; what was skipped is printed either way.
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def say(what: str, path: Path, reason: object) -> None:
            text = f"{what} {_shown(path)}: {reason}"
            console.print(_printable(text, console.encoding), markup=False, highlight=False, soft_wrap=True)

        for folder, reason in unread:
            skipped += 1
            say("skipped", folder, reason)
        for source, target in progress.track(jobs, total=len(jobs)):
            try:
                picture = read_picture(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_picture(resizer(picture), target, overwrite)
            except (ImageRefused, OSError, MemoryError) as error:
                skipped += 1
                reason = (isinstance(error, OSError) and error.strerror) or str(error) or "not enough memory"
                say("skipped", source, reason)
                continue
            except Exception as error:
                # One image that upsets the code must not end a run over thousands; the type marks it as a fault.
                skipped += 1
                say("skipped", source, f"{type(error).__name__}: {error}")
                continue
            done += 1
            for note in picture.notes:
                say("note", source, note)
    seconds = time.perf_counter() - started
    typer.echo(f"{done} resized, {skipped} skipped, {seconds:.1f} s")
    return 1 if skipped else 0


def _shown(path: Path) -> str:
    """The path as text; bytes that are no UTF-8 show as ``\\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _printable(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _fail(message: str) -> NoReturn:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    typer.echo(f"learned-resizer resize: {_printable(message, encoding)}", err=True)
    raise typer.Exit(2)
