"""`learned-resizer evaluate`: test figures of a run's networks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..damaged import DamagedFileError
from ..data.source import NATIVE, InputSize, parse_input_size
from ..shown import shown
from .streams import fail


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a run of train, transfer or ablate.")],
    data: Annotated[str | None, typer.Option(help="Other data than the run's, with the same classes.")] = None,
    arms: Annotated[str, typer.Option(help="Arms to test, separated by commas; default: all.")] = "",
    accelerator: Annotated[str, typer.Option(help="Where to test: auto, cpu or gpu.")] = "auto",
    input_size: Annotated[
        str | None,
        typer.Option(help="Side of the test images, or native: at their own sizes. Default: as in each training."),
    ] = None,
    max_pixels: Annotated[
        int | None,
        typer.Option(help="At native sizes, reduce images of more pixels to as many. Default: as the run did."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Test a run's resizers and networks on its test images or others."""
    from ..report.tables import evaluation_table
    from ..report.terminal import open_console, print_table
    from ..train.evaluate import evaluate as test
    from .progress import progress

    chosen = [arm.strip() for arm in arms.split(",") if arm.strip()]
    try:
        with progress(open_console(stderr=True)) as watcher:
            size = None if input_size is None else _parse_size(input_size)
            found = test(run, data, chosen, accelerator, watcher, size, max_pixels)
    except DamagedFileError as error:
        fail("evaluate", error, 1)
    except (FileNotFoundError, TypeError, ValueError) as error:
        fail("evaluate", error)
    if json:
        from json import dumps

        print(dumps([asdict(one) for one in found], indent=2))
    else:
        print_table(open_console(), evaluation_table(found))


def _parse_size(text: str) -> InputSize:
    try:
        return parse_input_size(text.strip())
    except ValueError:
        raise ValueError(f"input_size: got {shown(text)}; expected a whole number or {NATIVE}") from None
