"""``diffeat edit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.options import Force, picture_of
from diffeat.cli.recipe_options import maps_of_two
from diffeat.files import PICTURES, new_file, write_picture


def edit(
    ctx: typer.Context,
    source: Annotated[str, Argument(help="Picture that was edited.")],
    layer: Annotated[Path, Argument(help="The edit alone: a PNG of that picture's size, transparent elsewhere.")],
    target: Annotated[str, Argument(help="Picture to carry it to.")],
    out: Annotated[Path, Option("--out", "-o", help="Picture to write.")] = Path("edited.png"),
    everywhere: Annotated[
        bool, Option("--everywhere", help="Match the whole picture, not only below the edit.")
    ] = False,
    force: Force = False,
) -> None:
    """Carry an edit from one picture to another of the same kind of thing: match, fit a homography, warp.

    Needs OpenCV: pip install 'diffeat[opencv]'.

    Example:
        diffeat edit cat.png whiskers.png other-cat.png --recipe dift-sd21 --out edited.png
    """
    from diffeat.geometry.images import open_stored
    from diffeat.tasks.homography import propagate_edit
    from diffeat.tasks.homography.edit import check_layer
    from diffeat.tasks.homography.estimate import opencv

    opencv()
    new_file(out, PICTURES, force=force)
    pictures = picture_of(source), picture_of(target)
    picture_of(str(layer))
    painted = open_stored(layer)
    check_layer(painted, pictures[0].size)
    one, other = maps_of_two(ctx, *pictures)
    result = propagate_edit(one, other, painted, everywhere=everywhere)
    typer.echo(f"{int(result.agree.sum())} of {len(result.matches)} matches agree with the homography.")
    typer.echo(f"Picture: {write_picture(result.on(pictures[1].image), out, force=force)}", err=True)
