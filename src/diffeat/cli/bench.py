"""``diffeat bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.tables import print_table

bench = typer.Typer(no_args_is_help=True, help="Benchmarks that run offline on a laptop.")

Folder = Annotated[Path, typer.Option("--out", "-o", help="Folder of pictures, features and report; continued.")]
Recipes = Annotated[list[str] | None, typer.Option("--recipe", "-r", help="A further row: preset or YAML file.")]


@bench.command()
def toyworld(
    out: Folder = Path("bench-toyworld"),
    recipe: Recipes = None,
    activation: Annotated[
        list[str] | None,
        typer.Option("--activation", "-a", help="Single activation of tiny-unet to try; its upper blocks by default."),
    ] = None,
    timestep: Annotated[
        list[float] | None,
        typer.Option("--timestep", "-t", help="To choose from on validation pairs; 20, 100, 200 and 300 by default."),
    ] = None,
    images: Annotated[int, typer.Option(min=2, help="Test pictures per class.")] = 40,
    pairs: Annotated[int, typer.Option(min=1, help="Test pairs per class.")] = 100,
) -> None:
    """Semantic correspondence on the toy world: recipes against colours, DAISY and an untrained network."""
    from diffeat.bench.rows import bench_table
    from diffeat.bench.toyworld import TIMESTEPS, run_toyworld
    from diffeat.progress import bar

    rows = run_toyworld(
        out,
        recipes=recipe or (),
        activations=activation,
        timesteps=timestep or TIMESTEPS,
        images=images,
        pairs=pairs,
        progress=bar,
    )
    print_table(*bench_table(rows))
    typer.echo(f"{rows[0].evaluation.result.protocol}")
    typer.echo(f"Report: {out / 'bench.html'}", err=True)


@bench.command()
def ditf(
    out: Folder = Path("bench-ditf"),
    model: Annotated[str, typer.Option("--model", "-m", help="A diffusion transformer: alias or folder.")] = "tiny-dit",
    images: Annotated[int, typer.Option(min=2, help="Test pictures per class.")] = 10,
    pairs: Annotated[int, typer.Option(min=1, help="Test pairs per class.")] = 30,
) -> None:
    """Massive activations on the toy world: raw, AdaLN and discard, with and without injected channels."""
    from diffeat.bench.ditf import run_ditf
    from diffeat.bench.rows import bench_table
    from diffeat.progress import bar

    rows, differences = run_ditf(out, model=model, images=images, pairs=pairs, progress=bar)
    print_table(*bench_table(rows))
    for line in differences:
        typer.echo(str(line))
    typer.echo(f"Reports: {out / 'bench.html'}, {out / 'massive' / 'massive.html'}", err=True)


@bench.command()
def geometry(
    out: Folder = Path("bench-geometry"),
    recipe: Recipes = None,
    opencv: Annotated[Path | None, typer.Option(help="Folder of OpenCV's sample data, for graf and aloe.")] = None,
    hpatches: Annotated[Path | None, typer.Option(help="Folder of the HPatches sequences.")] = None,
    points: Annotated[int, typer.Option(min=1, help="Points per pair.")] = 500,
) -> None:
    """Photographs with known geometry: recipes against SIFT and DAISY, in pixels."""
    from diffeat.bench.geometry import geometry_table, run_geometry
    from diffeat.progress import bar

    rows = run_geometry(
        out, recipes=recipe or ("tiny-dift",), opencv=opencv, hpatches=hpatches, points=points, progress=bar
    )
    print_table(*geometry_table(rows))
    typer.echo(f"Report: {out / 'bench.html'}", err=True)


@bench.command()
def selection(
    out: Folder = Path("bench-selection"),
    model: Annotated[str, typer.Option("--model", "-m", help="A UNet: alias, hub id or folder.")] = "tiny-unet",
    timestep: Annotated[float, typer.Option("--timestep", "-t", help="At which activations are read.")] = 50,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws that are averaged.")] = 2,
    images: Annotated[
        tuple[int, int, int], typer.Option(help="Pictures per class for training, validation and test.")
    ] = (24, 16, 24),
    pairs: Annotated[int, typer.Option(min=1, help="Pairs per class.")] = 40,
) -> None:
    """Toy world: a chosen set of activations against the usual choice and the best single one, on three tasks."""
    from diffeat.bench.selection import run_selection, selection_table
    from diffeat.progress import bar

    rows = run_selection(out, model=model, timestep=timestep, draws=draws, images=images, pairs=pairs, progress=bar)
    print_table(*selection_table(rows))
    typer.echo(f"Report: {out / 'bench.html'}", err=True)
