"""Tables and sentences of a run on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segments
from rich.table import Table as RichTable
from rich.text import Text

from ..substitutes import printable
from .summary import Summary
from .tables import Table


def open_console(stderr: bool = False) -> Console:
    """Console on stdout or stderr, never interactive in pipes, whatever FORCE_COLOR says."""
    stream = sys.stderr if stderr else sys.stdout
    # Passed as file: rich 13 does not know the encoding of its default stream.
    return Console(file=stream, force_interactive=None if stream.isatty() else False)


def print_line(console: Console, text: str) -> None:
    """Print a line without wrapping it: a wrapped path cannot be copied."""
    console.print(Text(text), soft_wrap=True)


def print_table(console: Console, table: Table) -> None:
    """Print a table, numbers to the right, bold rows in bold.

    Nothing is cut off. On a terminal that is too narrow, each row becomes lines ``heading: cell``; elsewhere the table
    is as wide as it needs to be.
    """
    caption = Text(printable(table.caption, console.encoding), "table.title")
    header = [printable(heading, console.encoding) for heading in table.header]
    rows = [[printable(cell, console.encoding) for cell in row] for row in table.rows]
    styles = ["bold" if number in table.bold else "" for number in range(len(rows))]
    columns = zip(header, *rows, strict=True)
    width = 1 + sum(3 + max(map(cell_len, column)) for column in columns)
    if console.is_terminal and width > console.width:
        console.print(caption)
        for row, style in zip(rows, styles, strict=True):
            console.print()
            for line in _stacked(header, row, console.width):
                console.print(Text(line, style), soft_wrap=True)
        return
    view = RichTable(title=caption if table.caption else None)
    for number, heading in enumerate(header):
        view.add_column(Text(heading), justify="right" if number else "left")
    for row, style in zip(rows, styles, strict=True):
        view.add_row(*map(Text, row), style=style)
    # Rendered here: the console would cut it to the width that it assumes for a pipe.
    console.print(Segments(console.render(view, console.options.update(width=width))), soft_wrap=True)


def print_summary(console: Console, summary: Summary, tables: Sequence[Table]) -> None:
    """Print the tables of a run, its verdicts and its notes."""
    for table in tables:
        print_table(console, table)
    for line in summary.verdicts() + summary.notes:
        console.print(Text(printable(line, console.encoding)), soft_wrap=not console.is_terminal)


def _stacked(header: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    """A row as lines ``heading: cell``, broken after headings where too long."""
    for number, (heading, cell) in enumerate(zip(header, row, strict=True)):
        indent = "  " if number else ""
        line = f"{indent}{heading}: {cell}".rstrip()
        if cell_len(line) <= width:
            yield line
        else:
            yield f"{indent}{heading}:"
            yield f"{indent}  {cell}"
