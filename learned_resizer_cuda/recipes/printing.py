"""A run's figures on the screen."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as RichTable

from .html import Table
from .report import Summary


def print_table(console: Console, table: Table) -> None:
    """A table with its figures to the right and its best row set off."""
    view = RichTable(title=table.caption)
    for number, heading in enumerate(table.header):
        view.add_column(heading, justify="right" if number else "left")
    for number, row in enumerate(table.rows):
        view.add_row(*row, style="bold" if number in table.bold else None)
    console.print(view)


def print_summary(console: Console, summary: Summary) -> None:
    """The table of a run, and what its gaps mean."""
    for table in summary.tables:
        print_table(console, table)
    for line in [gap.sentence() for gap in summary.gaps] + summary.notes:
        console.print(line, highlight=False, soft_wrap=True)
