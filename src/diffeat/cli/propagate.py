"""``diffeat propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import Activations, BatchSize, Device, Draws, Dtype, ModelName, Prompt, Size, Timestep
from diffeat.cli.sources import RecipeNames, Weights, make_source


def propagate(
    root: Annotated[
        Path | None, typer.Argument(help="Folder of DAVIS; toy-world videos are drawn if there is none.")
    ] = None,
    recipe: RecipeNames = None,
    weight: Weights = None,
    split: Annotated[str, typer.Option(help="As in ImageSets.")] = "val",
    year: Annotated[str, typer.Option(help="2016 or 2017.")] = "2017",
    resolution: Annotated[str, typer.Option(help="480p or Full-Resolution.")] = "480p",
    video: Annotated[list[str] | None, typer.Option(help="Only this sequence; repeatable.")] = None,
    radius: Annotated[int, typer.Option(min=0, help="Of the window, in tokens.")] = 12,
    topk: Annotated[int, typer.Option(min=1, help="Context tokens a token's labels come from.")] = 5,
    temperature: Annotated[float, typer.Option(help="Of the weights among them.")] = 0.1,
    last_frames: Annotated[int, typer.Option(min=0, help="Frames of context besides the first.")] = 7,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of masks and report.")] = Path("propagation"),
    model: ModelName = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    prompt: Prompt = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Carry the object masks of a video's first frame through it by features, and score J&F.

    Videos lie as in DAVIS. Masks are written as DAVIS' own evaluation reads them, and scored here too.
    """
    from diffeat.datasets.davis import read_davis, write_toyworld_videos
    from diffeat.errors import DatasetError
    from diffeat.progress import bar
    from diffeat.report.propagation import score_rows, write_propagation
    from diffeat.tasks.propagation import PropagationSettings, evaluate_videos

    settings = PropagationSettings(radius, topk, temperature, last_frames)
    videos = read_davis(root or write_toyworld_videos(out / "toyworld"), split, year, resolution, video)
    source = make_source(
        recipe, weight, device=device, dtype=dtype, batch_size=batch_size,
        model=model, activations=activation, timesteps=timestep, draws=draws, size=size,
    )  # fmt: skip
    scores = evaluate_videos(videos, source, settings, out=out / "masks", prompt=prompt, progress=bar)
    if not scores:
        raise DatasetError(f"Only first frames are annotated, so nothing is scored; the masks are in {out / 'masks'}.")
    told = f"radius {radius}, top {topk}, temperature {temperature:g}, first and last {last_frames} frames"
    page = write_propagation(scores, videos, out / "masks", out, f"{source.recipe.name}: label propagation", told)
    header, rows = score_rows(scores)
    typer.echo("  ".join(f"{name} {value}" for name, value in zip(header[1:], rows[-1][1:], strict=True)))
    typer.echo(f"Report: {page}", err=True)
