"""``diffeat gate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from diffeat.cli.options import Activations, Device, Dtype, ModelName, RecipeName, Seed, Size, Timestep

if TYPE_CHECKING:
    from diffeat.studies.content_shift.gating import GateResult


class GateCommand(TyperCommand):
    """Names the techniques there are in its help, without loading them for any other command."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from diffeat.techniques.parse import usage

        for option in self.params:
            if isinstance(option, TyperOption) and option.help:
                option.help = option.help.replace("{usage}", usage())
        super().format_help(ctx, formatter)


def gate(
    images: Annotated[list[Path], typer.Option("--images", "-i", help="Pictures and folders of pictures; 30 or more.")],
    technique: Annotated[
        list[str],
        typer.Option(
            "--technique",
            "-x",
            help="{usage}; combine with ' + '; repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("gate"),
    recipe: RecipeName = "tiny-unet",
    model: ModelName = None,
    strength: Annotated[float, typer.Option(help="Of Img2Img: how much is repainted, 0 to 1.")] = 0.7,
    steps: Annotated[int, typer.Option(min=1, help="Denoiser calls of Img2Img.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Noise draws per picture.")] = 2,
    measure: Annotated[
        list[str] | None,
        typer.Option(help="pixel, ssim, edges, dino:MODEL or lpips; the first decides. [default: pixel, ssim, edges]"),
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the intervals.")] = 0.95,
    margin: Annotated[float, typer.Option(min=0.0, help="Relative gain that is too small to matter.")] = 0.02,
    limit: Annotated[int | None, typer.Option(min=2, help="At most so many pictures, spread evenly.")] = None,
    controls: Annotated[bool, typer.Option(help="Run the null and shuffled twins too.")] = True,
    search: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Search the techniques, their strengths and combinations within so many denoiser rows, and write the "
            "recipe that it ends in.",
        ),
    ] = None,
    activation: Activations = None,
    timestep: Timestep = None,
    size: Size = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find out which generation techniques bring features closer to the picture: helps, harmless, hurts, cannot tell.

    Every technique is compared with the plain model on the same pictures and the same noise, by Img2Img at high
    strength and at the timestep where the recipe reads features.

    Offline:  diffeat samples photos;  diffeat gate -i photos -x "prompt:a photo" -x guidance:7.5
    """
    from diffeat.cli.options import changed_recipe, make_extractor
    from diffeat.geometry import find_images
    from diffeat.progress import bar
    from diffeat.studies.content_shift.examples import examples_of
    from diffeat.studies.content_shift.gating import gate as run
    from diffeat.studies.content_shift.meter import GateSettings
    from diffeat.techniques.parse import parse_combination

    combinations = {text: parse_combination(text) for text in technique}
    settings = GateSettings(
        strength=strength, steps=steps, seeds=seeds, measures=tuple(measure or ("pixel", "ssim", "edges")),
        confidence=confidence, margin=margin, controls=controls,
    )  # fmt: skip
    chosen = changed_recipe(
        recipe, model=model, activations=activation, timesteps=timestep, size=size, seed=seed
    ).replace(fuse=None, views=None, techniques=None, refine=None)
    paths = list(find_images(images).images)
    if limit is not None and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    extractor = make_extractor(chosen, device, dtype)
    from diffeat.report.gate import write_gate_report, write_search_report

    if search is not None:
        from diffeat.studies.content_shift.halving import search as look_for

        ended = look_for(extractor.backbone, paths, combinations, chosen, budget=search, settings=settings)
        typer.echo(str(ended))
        typer.echo(f"Recipe and report: {write_search_report(ended, out)}", err=True)
        return
    result = run(extractor.backbone, paths, combinations, chosen, settings, bar)
    _print(result)
    shown = examples_of(result, extractor.backbone, paths)
    typer.echo(f"Report: {write_gate_report(result, out, shown)}", err=True)


def _print(result: GateResult) -> None:
    from rich.console import Console
    from rich.table import Table

    header, rows = result.table()
    table = Table()
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console = Console()
    console.print(table)
    for warning in result.warnings:
        console.print(f"[yellow]Warning:[/] {warning}", highlight=False)
