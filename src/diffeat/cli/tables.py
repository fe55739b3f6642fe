"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, sums_up: bool = False) -> None:
    """Print a table; the first column is text, the others numbers.

    Args:
        sums_up: Whether the last row does, and stands out.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        style = "bold" if sums_up and row is rows[-1] else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    Console().print(table)
