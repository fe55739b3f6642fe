"""``diffeat transfer``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given
from diffeat.cli.options import Force
from diffeat.cli.predict import stems
from diffeat.cli.recipe_options import load, recipe_of
from diffeat.errors import DiffeatError, printable

_FILES = ("transfer.json", "transfer.html")


def transfer(
    ctx: typer.Context,
    annotated: Annotated[Path, Argument(help="The picture that is marked.")],
    marks: Annotated[
        str,
        Argument(help="A mask (picture, .npy), .csv or .json of points or boxes, or numbers: 'x,y x,y' or 'l,t,r,b'."),
    ],
    paths: Annotated[list[Path], Argument(help="Pictures and folders of pictures to find it in.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder of masks, overlays, scores and page.")],
    force: Force = False,
) -> None:
    """Find what is marked in one picture in many others, without training: points, boxes or a mask.

    Every match is checked by going back; transfer.json holds places and confidences, and says which are not mutual.

    Example:
        diffeat samples photos
        diffeat transfer photos/chelsea.png "150,120 220,90" photos/astronaut.png photos/coffee.png --out found
    """
    from diffeat.features import check_one_map, list_pictures
    from diffeat.files import new_folder, write_files
    from diffeat.geometry import open_image
    from diffeat.progress import bar
    from diffeat.report.predictions import encoded, palette_picture
    from diffeat.report.transfer import NUMBERS, found, marked, row, transfer_page
    from diffeat.tasks.transfer import read_annotation
    from diffeat.tasks.transfer import transfer as find

    image = open_image(annotated)
    annotation = read_annotation(marks, annotated)
    annotation.check(image.size)
    listing = list_pictures(paths)
    folders = ("overlays/", *(("masks/", "confidence/") if annotation.mask is not None else ()))
    new_folder(out, [*_FILES, *folders], force=force)
    recipe = recipe_of(ctx)
    check_one_map(recipe.name, recipe.map_names)
    source = load(ctx, recipe)
    check_one_map(recipe.name, source.map_names)
    prompt = given(ctx).get("prompt")
    first = source.extract(annotated, prompt)[0]
    names = stems([picture.name for picture in listing])
    failed: dict[str, str] = {}
    rows, overlays = [], []

    def skip(name: str, error: DiffeatError) -> None:
        failed[name] = str(error)

    images = {picture.name: picture for picture in listing}
    for features in bar(source.stream(list(listing), prompt, on_error=skip), total=len(listing), desc="transfer"):
        result, picture = find(first, features, annotation), images[features.image].image
        overlay, stem = found(picture, result), names[features.image]
        files = {f"overlays/{stem}.jpg": encoded(overlay, "JPEG", quality=90)}
        if result.mask is not None and result.confidence is not None:
            files[f"masks/{stem}.png"] = encoded(palette_picture(result.mask, NUMBERS), "PNG")
            grey = (255 * result.confidence.clip(0, 1)).round().astype("uint8")
            files[f"confidence/{stem}.png"] = encoded(grey, "PNG")
        for name, content in files.items():
            write_files((out / name).parent, [Path(name).name], [content], force=True)
        rows.append(row(features.image, picture, result))
        if len(overlays) < 60:
            overlays.append((features.image, overlay))
        images[features.image] = images[features.image].told(None)
    told = [f"{annotated} → {len(rows)} pictures, recipe {recipe.name}, nearest features with the way back checked"]
    data = {"annotated": str(annotated), "recipe": recipe.name, "recipe_hash": recipe.hash, "pictures": rows}
    page = transfer_page(f"{annotated.name} in {len(rows)} pictures", marked(image, annotation), overlays, told)
    write_files(out, _FILES, [json.dumps({**data, "failed": failed}, indent=1, ensure_ascii=False), page], force=True)
    typer.echo(f"{len(rows)} pictures, {len(failed)} failed. Page: {out / _FILES[1]}", err=True)
    for reason in failed.values():
        typer.secho(printable(f"  failed  {reason}"), fg="red", err=True)
    if failed:
        raise typer.Exit(1)
