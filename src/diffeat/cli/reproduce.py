"""``diffeat reproduce``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from diffeat.cli.command import refuse
from diffeat.cli.options import Root
from diffeat.cli.tables import print_table
from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.reproduce import Row, Table


def reproduce(
    ctx: typer.Context,
    table: Annotated[str | None, Argument(help="A table, or a YAML file of one; without it, the tables.")] = None,
    root: Root = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Folder of features, numbers and page; continued.")] = None,
    rows: Annotated[list[str] | None, Option(help="Rows like this glob; repeatable.")] = None,
    own: Annotated[list[str] | None, Option("--with", help="ROW=RECIPE: another recipe for a row.")] = None,
    limit: Annotated[int | None, Option(min=1, help="About so many pairs, pictures or videos.")] = None,
    plan: Annotated[bool, Option("--plan", help="Say what it takes, and run nothing.")] = False,
    seconds: Annotated[float | None, Option(min=0, help="For --plan: of one row of a denoiser call.")] = None,
    device: Annotated[str | None, Option(help="Of the models.")] = None,
    dtype: Annotated[str | None, Option(help="Of the models.")] = None,
) -> None:
    """Run rows of a paper's table, and set them beside what was published.

    What was run is kept: the same command goes on where it stopped. The page says for each row the paper's number,
    yours with its interval, and what differs. A number of a paper is told with the place where it was read; where none
    was, the row says so.

    Example:
        diffeat reproduce
        diffeat reproduce spair --plan --seconds 0.05
        diffeat reproduce spair --rows "DIFT*" --root SPair-71k --out spair
    """
    from diffeat.reproduce import load_table, run_rows, table_names

    if table is None:
        refuse(ctx, ["root", "out", "rows", "limit", "plan", "seconds"], "the tables are listed")
        if own:
            raise InvalidValueError("--with would be ignored: the tables are listed.")
        tables = {name: load_table(name) for name in table_names()}
        print_table(
            ["table", "rows", "title"],
            [[name, str(len(held.rows)), held.title] for name, held in tables.items()],
            text=("title",),
        )
        return
    asked = load_table(table)
    chosen = asked.like(tuple(rows or ()))
    recipes = _recipes(own or [], {row.name for row in asked.rows})
    if plan:
        refuse(ctx, ["out", "device", "dtype"], "nothing is run with --plan")
        _print_plan(asked, chosen, recipes, root, limit, seconds)
        return
    refuse(ctx, ["seconds"], "it is for --plan")
    from diffeat.extraction import load_source
    from diffeat.progress import bar
    from diffeat.reproduce.run import TEXT, outcome_cells

    folder = out or Path(f"reproduce-{asked.dataset}")
    done = {
        row.name: outcome
        for row, outcome in run_rows(
            asked,
            chosen,
            root,
            folder,
            lambda recipe: load_source(recipe, device=device, dtype=dtype),
            own=recipes,
            limit=limit,
            progress=bar,
        )
    }
    failed = [outcome.notes[0] for outcome in done.values() if outcome.value is None]
    if len(failed) == len(done) and len(set(failed)) == 1:  # no data, for instance
        raise InvalidValueError(failed[0])
    print_table(*outcome_cells(asked, done), text=TEXT)
    typer.echo(f"Page: {folder / 'reproduce.html'}", err=True)
    if failed:
        raise typer.Exit(1)


def _recipes(given: list[str], names: set[str]) -> dict[str, str]:
    from diffeat.errors import did_you_mean, shown

    recipes = {}
    for text in given:
        row, _, recipe = text.partition("=")
        if row not in names or not recipe:
            raise InvalidValueError(f"--with {shown(text)} is no ROW=RECIPE. {did_you_mean(row, names)}".strip())
        recipes[row] = recipe
    return recipes


def _print_plan(
    asked: Table,
    chosen: list[Row],
    recipes: dict[str, str],
    root: Path | None,
    limit: int | None,
    seconds: float | None,
) -> None:
    from diffeat.extraction.estimate import duration, size
    from diffeat.reproduce.run import count_pictures, plan_rows

    def told(value: float | None, say: Callable[[float], str] = "{:,}".format) -> str:
        return "?" if value is None else say(value)

    def total(values: list[Any]) -> Any:
        return None if None in values else sum(values)

    pictures = None if root is None else count_pictures(asked, root, limit)
    plans = plan_rows(asked, chosen, own=recipes, pictures=pictures)
    calls = [None if step.pictures is None else step.pictures * step.calls for step in plans]
    time = [None if (hours := step.hours(seconds)) is None else 3600 * hours for step in plans]
    disk = [step.bytes for step in plans]
    cells = [
        [step.row, told(step.pictures), told(rows), told(spent, duration), told(stored, size)]
        for step, rows, spent, stored in zip(plans, calls, time, disk, strict=True)
    ]
    if len(cells) > 1:
        cells.append(["all", "", told(total(calls)), told(total(time), duration), told(total(disk), size)])
    print_table(["row", "pictures", "calls", "time", "disk"], cells)
    typer.echo("Pictures of rows that share a recipe count once. ? is not known before the dataset (--root), the model")
    typer.echo("or the seconds of one call (--seconds; `diffeat extract PHOTOS --recipe NAME --plan` measures them).")
    if asked.counted and root is None:
        typer.echo(f"Pictures: {asked.counted}.")
