"""``diffeat gate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, pictures_of
from diffeat.cli.recipe_options import load, reading_of
from diffeat.cli.tables import print_table
from diffeat.files import new_folder


def gate(
    ctx: typer.Context,
    paths: Annotated[list[str], Argument(help="Pictures and folders of pictures, tars, videos …; 30 or more.")],
    technique: Annotated[list[str], Option("--technique", "-x", help="{techniques}; combine with ' + '; repeatable.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder of the report.")] = Path("gate"),
    strength: Annotated[float, Option(help="Of Img2Img: how much is repainted, 0 to 1.")] = 0.7,
    steps: Annotated[int, Option(min=1, help="Denoiser calls of Img2Img.")] = 10,
    seeds: Annotated[int, Option(min=1, help="Noise draws per picture.")] = 2,
    measure: Annotated[
        list[str] | None,
        Option(
            help="Of pictures: pixel, ssim, edges (these by default), dino:MODEL or lpips. Of features: cosine, cka, "
            "self-match (these by default), or laplacian, the paper's score: blind to sign and rotated channels, it "
            "rates zeros at 0.9 and rewards blur. The first of each decides; repeatable."
        ),
    ] = None,
    confidence: Annotated[float, Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    margin: Annotated[float, Option(min=0.0, help="Relative gain that is too small to matter.")] = 0.02,
    limit: Annotated[int | None, Option(min=2, help="At most so many pictures, spread evenly.")] = None,
    controls: Annotated[bool, Option(help="Run the null and shuffled twins too.")] = True,
    search: Annotated[
        int | None,
        Option(
            min=1,
            help="Search the techniques, their strengths and combinations within so many denoiser rows, and write the "
            "recipe that it ends in.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Find out which generation techniques bring features closer to the picture: helps, harmless, hurts, cannot tell.

    Every technique is compared with the plain model on the same pictures and the same noise, by Img2Img at high
    strength and at the timestep where the recipe reads features.

    Example:
        diffeat samples photos
        diffeat gate photos -x "prompt:a photo" -x "guidance:7.5 + prompt:a photo" --steps 2 --out gate
    """
    from diffeat.progress import bar
    from diffeat.report.gate import FILES, SEARCH_FILES, write_gate_report, write_search_report
    from diffeat.studies.content_shift.examples import examples_of
    from diffeat.studies.content_shift.gating import gate as run
    from diffeat.studies.content_shift.halving import search as run_search
    from diffeat.studies.content_shift.meter import GateSettings
    from diffeat.techniques.parse import parse_combination

    if search is not None:
        refuse(ctx, ["confidence", "controls"], "--search compares by halving, without intervals and twins")
    new_folder(out, FILES if search is None else SEARCH_FILES, force=force)
    allowed = "allow_code" in given(ctx)
    combinations = {text: parse_combination(text, allow_code=allowed) for text in technique}
    of_pictures, of_features = _measures(measure or [])
    usual = GateSettings()
    settings = GateSettings(
        measures=of_pictures or usual.measures,
        feature_measures=of_features or usual.feature_measures,
        strength=strength,
        steps=steps,
        seeds=seeds,
        confidence=confidence,
        margin=margin,
        controls=controls,
    )
    recipe = reading_of(ctx).replace(fuse=None, views=None, techniques=None, refine=None)
    images = pictures_of(paths, ctx)
    if limit is not None and limit < len(images):
        images = [images[i * len(images) // limit] for i in range(limit)]
    backbone = load(ctx, recipe).backbone
    if search is not None:
        stage = "features" if of_features and not of_pictures else "img2img"
        outcome = run_search(backbone, images, combinations, recipe, budget=search, settings=settings, stage=stage)
        typer.echo(str(outcome))
        typer.echo(f"Recipe and report: {write_search_report(outcome, out, force=force)}", err=True)
        return
    result = run(backbone, images, combinations, recipe, settings, bar)
    print_table(*result.table())
    for warning in result.warnings:
        typer.secho(f"Warning: {warning}", fg="yellow")
    page = write_gate_report(result, out, examples_of(result, backbone, images), force=force)
    typer.echo(f"Report: {page}", err=True)


def _measures(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of measures of pictures, and of features."""
    from diffeat.errors import UnknownNameError, did_you_mean
    from diffeat.studies.content_shift.measures import FEATURE_MEASURES, PICTURE_MEASURES

    known = [*PICTURE_MEASURES, "dino:MODEL", "lpips", *FEATURE_MEASURES]
    for name in names:
        if name not in known and not name.startswith(("dino:", "lpips:")):
            raise UnknownNameError(f"No measure {name!r}. {did_you_mean(name, known)}")
    of_features = tuple(name for name in names if name in FEATURE_MEASURES)
    return tuple(name for name in names if name not in of_features), of_features
