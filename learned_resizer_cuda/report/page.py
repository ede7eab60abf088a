"""The report of a run: one HTML file that holds its pictures and needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..atomic import atomic_bytes
from ..substitutes import ERRORS

NAME = "report.html"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Heading:
    """A section's heading."""

    text: str

    def html(self) -> str:
        return f"<h2>{escape(self.text)}</h2>"


@dataclass(frozen=True)
class Text:
    """A paragraph; ``strong`` makes it stand out, for a verdict."""

    text: str
    strong: bool = False

    def html(self) -> str:
        return f'<p class="strong">{escape(self.text)}</p>' if self.strong else f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """Rows of strings, each as long as the header. ``bold`` are the numbers of rows that stand out, from 0.

    Raises:
        ValueError: a row's length differs from the header's.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bold: Sequence[int] = ()

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"rows: got {len(row)} cells in row {number}; expected {len(self.header)}")

    def html(self) -> str:
        lines = ['<div class="wide"><table>']
        if self.caption:
            lines.append(f"<caption>{escape(self.caption)}</caption>")
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        lines += [f"<thead><tr>{head}</tr></thead>", "<tbody>"]
        for number, row in enumerate(self.rows):
            first = "".join(f'<th scope="row">{escape(cell)}</th>' for cell in row[:1])
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            start = '<tr class="bold">' if number in self.bold else "<tr>"
            lines.append(f"{start}{first}{cells}</tr>")
        return "\n".join([*lines, "</tbody></table></div>"])


@dataclass(frozen=True)
class Picture:
    """A PNG file, and what it shows: the caption, which also stands in for the picture where there is none."""

    path: Path
    caption: str

    def html(self) -> str:
        """Raises OSError where the file cannot be read, and ValueError where it is no PNG."""
        data = self.path.read_bytes()
        if not data.startswith(_PNG):
            raise ValueError(f"path: {self.path} is no PNG")
        caption = escape(self.caption)
        source = base64.b64encode(data).decode("ascii")
        image = f'<img src="data:image/png;base64,{source}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class Folded:
    """Text as it is in a file, for instance the configuration, that opens on a click."""

    title: str
    text: str

    def html(self) -> str:
        return f"<details><summary>{escape(self.title)}</summary><pre>{escape(self.text)}</pre></details>"


Section = Heading | Text | Table | Picture | Folded

# Colours from the browser's own light or dark scheme; figures keep the white ground they were drawn on.
_STYLE = """
:root { color-scheme: light dark; --line: #d8d8d8; --soft: #f4f4f4; --accent: #b04a00; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #222; --accent: #ff9d5c; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p { max-width: 48rem; }
p.strong { font-weight: 600; border-left: 4px solid var(--accent); padding-left: .7rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; opacity: .75; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
th:first-child { text-align: left; padding-left: .2rem; }
tr.bold th, tr.bold td { font-weight: 700; }
figure { margin: 1.2rem 0; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
figcaption { opacity: .75; font-size: .92rem; max-width: 48rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--soft); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
""".strip()


def save_report(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes ``report.html`` into ``folder``.

    The file stands alone: pictures are inside, it has no scripts, and its policy forbids the browser to load anything.
    All text is escaped. A reader sees the former file or the whole new one, never a part.

    Args:
        folder: exists already.
        title: of the page.
        sections: what it holds, in this order.

    Returns:
        The file's path.

    Raises:
        OSError: a picture cannot be read or the file cannot be written.
        ValueError: a picture is no PNG.
    """
    body = "\n".join(section.html() for section in sections)
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""
    path = folder / NAME
    atomic_bytes(path, page.encode("utf-8", ERRORS))
    return path
