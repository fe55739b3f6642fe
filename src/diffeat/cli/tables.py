"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Collection[str] = (),
    sums_up: bool = False,
    title: str | None = None,
) -> None:
    """Print a table. Text is folded where it is long, never cut.

    Args:
        text: Columns that hold text, beside the first; the others hold numbers.
        sums_up: Whether the last row does, and stands out.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), title_justify="left")
    for i, column in enumerate(header):
        table.add_column(Text(column), justify="left" if i == 0 or column in text else "right", overflow="fold")
    for row in rows:
        style = "bold" if sums_up and row is rows[-1] else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    Console().print(table)
