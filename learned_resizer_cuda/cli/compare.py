"""`learned-resizer compare`: a page that shows images by every resizer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from ..atomic import atomic_bytes, remove_leftovers
from ..shown import shorten, shown_path
from ..substitutes import ERRORS
from .picture_plan import Job, check_targets, same_file
from .resize import parse_size
from .stopping import raise_if_asked
from .streams import complain, fail

if TYPE_CHECKING:
    from ..report.comparison import Comparison
    from .picture_resizer import PictureResizer

_LARGEST_PAGE = 16 << 20
"""Pixels of all panels of a page; each takes 2 to 6 bytes, with its spectrum."""


class _Resizers(NamedTuple):
    """How a page's panels are made.

    Attributes:
        size: of the panels; None if it depends on the image.
        learned: a trained resizer.
        about: sentences about it.
        trained_for: size of the images that it was trained on, if the file says so.
    """

    size: tuple[int, int] | None
    learned: PictureResizer | None = None
    about: str = ""
    trained_for: tuple[int, int] | None = None


def compare(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    output: Annotated[Path, typer.Option(help="The page, a file NAME.html.")],
    size: Annotated[
        str | None,
        typer.Option(
            metavar="H[xW]",
            help="Height and width of the panels, or one number for both. Default: with --weights, the size the "
            "resizer was trained for; else half of the image's, and at most 384.",
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Also show the learned resizer in this file, from `learned-resizer train`.")
    ] = None,
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Resizers compared",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the page.")] = False,
) -> None:
    """Write a page that shows images by every resizer, side by side.

    One HTML file that loads nothing, with a panel for each filter and for a trained resizer. Panels zoom in step, and
    show differences to a chosen one, and spectra. It holds the pixels that `learned-resizer resize` writes, with
    exceptions that it names: 16-bit grey is rounded to 8 bits, alpha is laid over white, colour profiles are left
    out. Files that are not images, damaged or too large are named and left out.

    Exit code: 0 all images are on the page, 1 some are not or it cannot be written, 2 nothing done because of a wrong
    argument, 128 + its number for a signal.
    """
    try:
        resizers = _resizers(size, weights)
        _check_files(images, output, overwrite)
    except (TypeError, ValueError, OSError) as error:
        fail("compare", error)
    remove_leftovers(output.parent)
    raise typer.Exit(_write(images, resizers, title, output, overwrite))


def _check_files(images: Sequence[Path], output: Path, overwrite: bool) -> None:
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output: got {shown_path(output)}; expected a name that ends in .html")
    for image in images:
        if image.is_dir():
            raise IsADirectoryError(f"IMAGE: {shown_path(image)} is a folder; expected image files")
        if not image.exists():
            raise FileNotFoundError(f"IMAGE: no such file: {shown_path(image)}")
        if same_file(str(image), str(output)):
            raise ValueError(f"--output: {shown_path(output)} is an image to compare; choose another name")
    check_targets([Job(str(output), str(output))], output.parent, overwrite)


def _resizers(size: str | None, weights: Path | None) -> _Resizers:
    from ..report.comparison import LEAST_SIDE

    target = None if size is None else parse_size(size)
    if target is not None and min(target) < LEAST_SIDE:
        raise ValueError(f"--size: got {size!r}; expected at least {LEAST_SIDE}, so that there is a spectrum to show")
    if weights is None:
        return _Resizers(target)
    from ..resizer import FusedResizer
    from ..weights import WeightsFile, load_resizer
    from .compare_panels import pixels
    from .picture_resizer import PictureResizer

    learned, config = load_resizer(FusedResizer, weights)
    target = target or config.size
    if min(target) < LEAST_SIDE:
        raise ValueError(f"--size: the resizer was trained for {pixels(config.size)}; choose at least {LEAST_SIDE}")
    notes = {name: shorten(text) for name, text in WeightsFile(weights).notes.items()}
    input_size = notes.get("input_size", "")
    trained_for = (int(input_size), int(input_size)) if input_size.isascii() and input_size.isdecimal() else None
    about = f"{shown_path(weights.name)}: trained to resize"
    about += f" images of {pixels(trained_for)}" if trained_for else ""
    about += f" to {pixels(config.size)}"
    about += f", in {notes['steps']} steps on {notes['data']}. " if {"steps", "data"} <= notes.keys() else ". "
    if target != config.size:
        about += f"Here it resizes to {pixels(target)}, for which it was not trained. "
    about += "Its aim is a network's answer, not the eye. Its output is shown in the units of its input"
    about += ", its normalisation undone" if config.mean else ""
    about += "; what leaves an image's range is cut off. If that is more than 1 % of its values, a second panel is "
    about += "stretched between their 1st and 99th percentile."
    return _Resizers(
        target, PictureResizer(target, config.interpolation, config.antialias, learned), about, trained_for
    )


def _write(images: Sequence[Path], resizers: _Resizers, title: str, output: Path, overwrite: bool) -> int:
    from ..report.comparison import render_page
    from ..report.terminal import open_console, print_line
    from .heartbeat import Heartbeat

    console = open_console(stderr=True)
    started = time.perf_counter()
    done: list[Comparison] = []
    with Heartbeat(lambda text: print_line(console, text), lambda: f"comparing: {len(done)} of {len(images)} images"):
        for image in images:
            try:
                done.append(_compare_one(image, resizers, _LARGEST_PAGE - sum(_pixels_of(part) for part in done)))
            except _TooLargeError as error:
                return complain("compare", error)
            except _Skipped as error:
                print_line(console, f"skipped {shown_path(image)}: {error}")
            raise_if_asked()  # a decoder may have taken the exception for damage
        if not done:
            return complain("compare", f"no image to show; {shown_path(output)} was not written", 1)
        page = render_page(title, done, resizers.about).encode("utf-8", ERRORS)
    try:
        atomic_bytes(output, page, overwrite=overwrite)
    except OSError as error:
        return complain("compare", f"cannot write {shown_path(output)}: {error.strerror}", 1)
    skipped = len(images) - len(done)
    seconds = time.perf_counter() - started
    typer.echo(
        f"{shown_path(output)}: {len(done)} compared, {skipped} skipped, {len(page) / 1e6:.1f} MB, {seconds:.1f} s"
    )
    return 1 if skipped else 0


class _Skipped(Exception):
    """An image is left out; says why."""


class _TooLargeError(Exception):
    """The page would be too large."""


def _compare_one(image: Path, resizers: _Resizers, room: int) -> Comparison:
    from ..data.image_file import ImageRefused
    from ..report.comparison import compare as compare_panels
    from .compare_panels import FILTERS, default_size, panels, pixels, readable_notes, visible
    from .picture import read_picture

    try:
        picture = read_picture(image)
        notes = readable_notes(picture)
        if resizers.trained_for not in (None, picture.planes.shape[1:]):
            notes.append(f"The learned resizer was trained on images of {pixels(resizers.trained_for)}.")
        size = resizers.size or default_size(picture)
        count = len(FILTERS) + (2 if resizers.learned else 0)
        if count * size[0] * size[1] > room:
            raise _TooLargeError(
                f"--size: {shown_path(image)} in {count} panels of {pixels(size)} makes more than "
                f"{_LARGEST_PAGE >> 20} million pixels; choose a smaller size or fewer images"
            )
        return compare_panels(
            shown_path(image.name), visible(picture), list(panels(picture, size, resizers.learned)), notes
        )
    except _TooLargeError:
        raise
    except ImageRefused as error:
        raise _Skipped(error) from error
    except MemoryError as error:
        raise _Skipped("not enough memory") from error
    except Exception as error:
        # As of `resize`: the name of the error's type marks it as a bug
        raise _Skipped(f"{type(error).__name__}: {error}") from error


def _pixels_of(comparison: Comparison) -> int:
    height, width = comparison.size
    return (len(comparison.shown) - 1) * height * width
