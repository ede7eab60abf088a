"""A run's report: one self-contained HTML file that holds its pictures."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined

from ..atomic import atomic_bytes
from ..substitutes import ERRORS
from .tables import Table

NAME = "report.html"
_PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A PNG file and its caption."""

    path: Path
    caption: str


def save_page(
    folder: Path,
    title: str,
    tables: Sequence[Table],
    *,
    verdicts: Sequence[str] = (),
    notes: Sequence[str] = (),
    pictures: Sequence[Picture] = (),
    environment: str = "",
    configuration: str = "",
) -> Path:
    """Write ``report.html`` into ``folder`` and return its path.

    The file stands alone: pictures are inside, it has no scripts, and its policy forbids the browser to load anything.
    All text is escaped. A reader sees the former file or the whole new one, never a part.

    Args:
        folder: an existing one.
        title: of the page.
        tables: at least one.
        verdicts: sentences that stand out, below the first table.
        notes: other sentences, below the verdicts.
        pictures: at the end, each with its caption.
        environment: where the results were measured.
        configuration: of the run, shown on a click.

    Raises:
        OSError: a picture cannot be read or the file cannot be written.
        ValueError: a picture is not a PNG.
    """
    template = Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(template)
    text = page.render(
        title=title,
        tables=tables,
        verdicts=verdicts,
        notes=notes,
        pictures=[(_data_url(picture.path), picture.caption) for picture in pictures],
        environment=environment,
        configuration=configuration,
    )
    path = folder / NAME
    atomic_bytes(path, f"{text}\n".encode("utf-8", ERRORS))
    return path


def _data_url(path: Path) -> str:
    data = path.read_bytes()
    if not data.startswith(_PNG):
        raise ValueError(f"path: {path} is not a PNG")
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
