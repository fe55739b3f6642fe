"""``diffeat push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def push(
    what: Annotated[Path, Argument(help="Run folder, recipe file, or Parquet export of a store.")],
    repository: Annotated[str, Argument(help="OWNER/NAME on the hub; made if missing.")],
    report: Annotated[Path | None, Option(help="Folder of an evaluation, whose numbers go into the card.")] = None,
    private: Annotated[bool, Option("--private", help="A repository that is made is private.")] = False,
    plan: Annotated[bool, Option("--plan", help="Print the card and the files, and push nothing.")] = False,
) -> None:
    """Put a recipe with its trained parts, a head or probe, or exported features on the hub, with a card.

    Others take it as --recipe hub:OWNER/NAME, or as --head OWNER/NAME. Weights of base models are not pushed; a recipe
    that names a file of this machine is refused.

    Example:
        diffeat samples labelled --masks
        diffeat train probe folder --root labelled --out run
        diffeat eval folder --root labelled --head run --split val --out out
        diffeat push run someone/horses --report out --plan
    """
    from diffeat.interfaces.hub import push_to_hub, pushed_files

    if not plan:
        typer.echo(push_to_hub(what, repository, report=report, private=private))
        return
    kind, files = pushed_files(what, report, repository)
    for name, content in files.items():
        size = Path(content).stat().st_size if isinstance(content, str) else len(content)
        typer.echo(f"{kind}: {name}, {size:,} bytes")
    card = files["README.md"]
    typer.echo("\n" + (card if isinstance(card, str) else card.decode()))
