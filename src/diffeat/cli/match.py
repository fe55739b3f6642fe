"""``diffeat match``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from posixpath import basename
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import refuse
from diffeat.cli.options import Force, picture_of
from diffeat.cli.recipe_options import maps_of_two
from diffeat.cli.tables import print_table
from diffeat.errors import InvalidValueError, shown
from diffeat.files import PICTURES, new_file, write_picture

if TYPE_CHECKING:
    from diffeat.tasks.correspondence import Matches


def match(
    ctx: typer.Context,
    source: Annotated[str, Argument(help="Picture the points lie in.")],
    target: Annotated[str, Argument(help="Picture to find them in.")],
    points: Annotated[
        list[str] | None, Option("--points", "-p", help="x,y in pixels of the source: '120,80 200,90'; repeatable.")
    ] = None,
    count: Annotated[int, Option(min=1, help="Without --points: how many mutual matches.")] = 8,
    mask: Annotated[
        Path | None, Option(help="Without --points: a picture that is black where none may lie in the source.")
    ] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Picture to write, e.g. a PNG.")] = None,
    force: Force = False,
    json: Annotated[bool, Option("--json", help="Print JSON.")] = False,
    heat: Annotated[int, Option(min=0, help="With --out: heat maps in the picture, for the first points.")] = 2,
) -> None:
    """Find points of one picture in another.

    Without --points these are places that choose each other, spread over the source or over a mask of it.

    Example:
        diffeat samples photos
        diffeat match photos/chelsea.png photos/astronaut.png --points "150,120 220,90" --out match.png
    """
    import numpy as np
    import torch

    from diffeat.geometry import FrameSpec, open_image
    from diffeat.tasks.correspondence import heat_map, strongest_matches
    from diffeat.tasks.correspondence import match as find
    from diffeat.tasks.correspondence.matching import check_mask, check_points

    if points:
        refuse(ctx, ["count", "mask"], "--points says which")
    if out is None:
        refuse(ctx, ["heat", "force"], "no picture is written without --out")
    else:
        new_file(out, PICTURES, force=force)
    asked = parse_points(points or [])
    allowed = None if mask is None else torch.from_numpy(np.asarray(open_image(mask)).max(-1) > 0)
    photos = picture_of(source), picture_of(target)
    pictures = photos[0].image, photos[1].image
    if asked:
        check_points(asked, FrameSpec("keep").frame(pictures[0].size))
    if allowed is not None:
        check_mask(allowed, pictures[0].size)
    one, other = maps_of_two(ctx, *photos)
    matches = find(one, other, asked) if asked else strongest_matches(one, other, count, allowed)
    if json:
        _print_json(source, target, one.provenance["recipe"], matches)
    else:
        rows = [
            [str(k + 1), f"{s[0]:g}, {s[1]:g}", f"{t[0]:g}, {t[1]:g}", f"{similarity:.3f}"]
            for k, (s, t, similarity) in enumerate(_rows(matches))
        ]
        print_table(
            ["#", basename(source), basename(target), "cosine"], rows, title=f"{basename(source)} → {basename(target)}"
        )
    if out is not None:
        from diffeat.report.match_picture import match_picture

        heats = [heat_map(one, other, p) for p in matches.source[: min(heat, len(matches))]]
        caption = f"{basename(source)} → {basename(target)}, recipe {one.provenance['recipe']}"
        picture = match_picture(*pictures, matches.source, matches.target, heats=heats, caption=caption)
        typer.echo(f"Picture: {write_picture(picture, out, force=force)}", err=True)


def parse_points(texts: list[str]) -> list[tuple[float, float]]:
    """Points from ``"x,y x,y …"``.

    Raises:
        InvalidValueError: A text is not a list of points.
    """
    points = []
    for text in texts:
        for part in re.split(r"[\s;]+", text.strip()):
            try:
                x, y = (float(v) for v in part.split(","))
            except ValueError:
                raise InvalidValueError(
                    f"A point is x,y (two numbers), got {shown(part)}. Example: --points '120,80 200,90'."
                ) from None
            points.append((x, y))
    return points


def _rows(matches: Matches) -> Iterable[tuple[list[float], list[float], float]]:
    return zip(matches.source.tolist(), matches.target.tolist(), matches.similarity.tolist(), strict=True)


def _print_json(source: str, target: str, recipe: str, matches: Matches) -> None:
    import json

    rows = [{"source": s, "target": t, "similarity": round(c, 6)} for s, t, c in _rows(matches)]
    typer.echo(json.dumps({"source": source, "target": target, "recipe": recipe, "matches": rows}, indent=1))
