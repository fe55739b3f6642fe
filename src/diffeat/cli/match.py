"""``diffeat match``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffeat.cli.options import Activations, Device, Draws, Dtype, ModelName, Prompt, Seed, Size, Timestep
from diffeat.cli.sources import RecipeNames, Weights, make_source
from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.features import FeatureMap
    from diffeat.tasks.correspondence import Matches


def match(
    source: Annotated[Path, typer.Argument(help="Picture the points lie in.")],
    target: Annotated[Path, typer.Argument(help="Picture to find them in.")],
    points: Annotated[
        list[str] | None,
        typer.Option("--points", "-p", help="Points x,y in pixels of the source, e.g. '120,80 200,90'; repeatable."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Without --points: how many places that choose each other are shown.")
    ] = 8,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Picture to write (PNG or JPEG).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    heat: Annotated[int, typer.Option(min=0, help="Heat maps in the picture, for the first points.")] = 2,
    recipe: RecipeNames = None,
    weight: Weights = None,
    model: ModelName = None,
    prompt: Prompt = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find points of one picture in another."""
    from diffeat.tasks.correspondence import heat_map
    from diffeat.tasks.correspondence import match as find

    asked = parse_points(points or [])
    extractor = make_source(
        recipe, weight, device=device, dtype=dtype,
        model=model, activations=activation, timesteps=timestep, draws=draws, size=size, seed=seed,
    )  # fmt: skip
    one, other = (next(extractor.stream([path], prompt)) for path in (source, target))
    found = find(one, other, asked) if asked else _strongest(one, other, count)
    if json:
        _print_json(source, target, extractor.recipe.name, found)
    else:
        _print_table(source, target, found)
    if out is not None:
        from diffeat.geometry import open_image
        from diffeat.report.match_picture import match_picture

        heats = [heat_map(one, other, p) for p in found.source[: min(heat, len(found))]]
        pictures = open_image(source), open_image(target)
        caption = f"{source.name} → {target.name}, recipe {extractor.recipe.name}"
        out.parent.mkdir(parents=True, exist_ok=True)
        match_picture(*pictures, found.source, found.target, heats=heats, caption=caption).save(out)
        typer.echo(f"Picture: {out}", err=True)


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
                    f"A point is x,y (two numbers), got {part!r}. Example: --points '120,80 200,90'."
                ) from None
            points.append((x, y))
    return points


def _strongest(one: FeatureMap, other: FeatureMap, count: int) -> Matches:
    """The most similar of the places that choose each other, kept apart by a tenth of the picture."""
    import torch

    from diffeat.tasks.correspondence import match as find
    from diffeat.tasks.correspondence import mutual_matches

    mutual = mutual_matches(one, other)
    apart = 0.1 * max(one.frame.original)
    chosen: list[torch.Tensor] = []
    for i in mutual.similarity.argsort(descending=True).tolist():
        if all(torch.dist(mutual.source[i], c) >= apart for c in chosen):
            chosen.append(mutual.source[i])
        if len(chosen) == count:
            break
    return find(one, other, torch.stack(chosen) if chosen else torch.zeros(0, 2))


def _print_json(source: Path, target: Path, recipe: str, found: Matches) -> None:
    import json

    rows = zip(found.source.tolist(), found.target.tolist(), found.similarity.tolist(), strict=True)
    matches = [{"source": s, "target": t, "similarity": round(c, 6)} for s, t, c in rows]
    typer.echo(
        json.dumps({"source": str(source), "target": str(target), "recipe": recipe, "matches": matches}, indent=1)
    )


def _print_table(source: Path, target: Path, found: Matches) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{source.name} → {target.name}", title_justify="left")
    for column in ("#", source.name, target.name, "cosine"):
        table.add_column(column, justify="right")
    rows = zip(found.source.tolist(), found.target.tolist(), found.similarity.tolist(), strict=True)
    for k, (s, t, c) in enumerate(rows):
        table.add_row(str(k + 1), f"{s[0]:g}, {s[1]:g}", f"{t[0]:g}, {t[1]:g}", f"{c:.3f}")
    Console().print(table)
