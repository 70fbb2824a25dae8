"""Tables in columns whose numbers are never cut, however narrow the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

UNLIMITED = 100_000
"""Characters that no table needs."""


def columns(*names: str) -> Table:
    """An empty table; columns whose names start with `>` hold numbers, aligned to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def show(console: Console, table: Table) -> None:
    """Prints a table. Texts fold to fit; where numbers alone are too wide, the terminal breaks the lines."""
    for column in table.columns:
        if column.justify == "right":
            words = [word for cell in (column.header, *column.cells) for word in str(cell).split()]
            column.min_width = max(map(len, words), default=0)
    least = Measurement.get(console, console.options.update(max_width=UNLIMITED), table).minimum
    before = console.width
    console.width = max(before, least + 2 * len(table.columns))  # with padding
    console.print(table)
    console.width = before
