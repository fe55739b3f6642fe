"""``diffeat generate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from diffeat.cli.options import Force
from diffeat.cli.recipe_options import load, reading_of
from diffeat.files import new_folder, read_text


def generate(
    ctx: typer.Context,
    out: Annotated[Path, Option("--out", "-o", help="Folder for the pictures and recipe.yaml.")],
    prompt: Annotated[list[str] | None, Option(help="Text, through the recipe's template; repeatable.")] = None,
    prompts: Annotated[Path | None, Option(help="Text file with one prompt a line.")] = None,
    count: Annotated[int, Option(min=1, help="Pictures of each prompt.")] = 1,
    guidance: Annotated[float | None, Option(help="Scale of guidance; the recipe's if not given.")] = None,
    negative: Annotated[str | None, Option(help="Text of what not to show, for guidance.")] = None,
    force: Force = False,
) -> None:
    """Generate pictures whose features can be read on the very way they arise.

    Each PNG remembers how it was made. OUT/recipe.yaml reads features while it is made again, with the trained weights
    of --recipe if it has any, so a network trained on photos works on synthetic pictures with the usual commands.

    Example:
        diffeat generate --prompt "a red car" --count 2 --out synthetic
        diffeat match synthetic/000-0.png synthetic/000-1.png -r synthetic/recipe.yaml
    """
    from diffeat.extraction import generate as make
    from diffeat.extraction import generation_twin, save_generated
    from diffeat.training.hyperfeatures.recipes import network_of, write_recipe

    texts: list[str | None] = list(prompt or [])
    if prompts is not None:
        texts += filter(None, map(str.strip, read_text(prompts, "prompt file").splitlines()))
    recipe = reading_of(ctx)
    changes = {"trajectory.guidance": guidance, "trajectory.negative_prompt": negative}
    twin = generation_twin(recipe)
    twin = twin.replace(name=f"{recipe.name}-generation", **{k: v for k, v in changes.items() if v is not None})
    trained = recipe.fuse is not None and recipe.fuse.weights is not None
    pictures = [f"{k:03d}-{number}.png" for k in range(max(1, len(set(texts)))) for number in range(count)]
    new_folder(out, ["recipe.yaml", *(["weights/"] if trained else []), *pictures], force=force)
    backbone = load(ctx, twin.replace(fuse=None)).backbone
    if recipe.fuse is not None and trained:
        write_recipe(twin, network_of(recipe), out, twin.name, twin.description, recipe.fuse.grid, force=force)
    else:
        twin.save(out / "recipe.yaml", force=force)
    order: dict[str, int] = {}
    for image, origin in make(twin, backbone, texts or [None], count):
        place = order.setdefault(origin.prompt, len(order))
        path = out / f"{place:03d}-{origin.number}.png"
        save_generated(image, path, force=force)
        typer.echo(f"{path}: {origin.prompt or '(no text)'}")
    typer.echo(f"Recipe: {out / 'recipe.yaml'}")
