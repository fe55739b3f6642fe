"""Tables that run offline on a laptop.

    python -m benchmarks.tables toyworld --out bench-toyworld

A run that was stopped goes on from what lies in ``--out``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from diffeat.cli.command import Command
from diffeat.cli.options import Force, Timesteps
from diffeat.cli.ranges import read_counts, read_numbers
from diffeat.cli.tables import print_table

bench = typer.Typer(no_args_is_help=True, help="Benchmarks that run offline on a laptop.")

Folder = Annotated[Path, Option("--out", "-o", help="Folder of pictures, features and report; continued.")]
Rows = Annotated[list[str] | None, Option("--compare", "-c", help="A recipe to compare with; repeatable.")]
Pictures = Annotated[int, Option(min=2, help="Test pictures per class.")]
Pairs = Annotated[int, Option(min=1, help="Test pairs per class.")]


@bench.command(cls=Command)
def toyworld(
    out: Folder = Path("bench-toyworld"),
    force: Force = False,
    compare: Rows = None,
    activation: Annotated[list[str] | None, Option("--activation", "-a", help="Of tiny-unet, to try alone.")] = None,
    timestep: Timesteps = ["20,100,200,300"],  # noqa: B006 (read only; typer copies it)
    pictures: Pictures = 40,
    pairs: Pairs = 100,
) -> None:
    """Semantic correspondence on the toy world: recipes against colours, DAISY and an untrained network.

    Example:
        python -m benchmarks.tables toyworld --pictures 4 --pairs 4 --out bench-toyworld
    """
    from benchmarks.tables.rows import bench_table
    from benchmarks.tables.toyworld import run_toyworld
    from diffeat.progress import bar

    rows = run_toyworld(
        out,
        recipes=compare or (),
        activations=activation,
        timesteps=read_numbers(timestep, "--timestep"),
        images=pictures,
        pairs=pairs,
        progress=bar,
        force=force,
    )
    print_table(*bench_table(rows))
    typer.echo(f"{rows[0].evaluation.result.protocol}")
    typer.echo(f"Report: {out / 'bench.html'}", err=True)


@bench.command(cls=Command)
def ditf(
    out: Folder = Path("bench-ditf"),
    force: Force = False,
    model: Annotated[str, Option("--model", "-m", help="A diffusion transformer: alias or folder.")] = "tiny-dit",
    pictures: Pictures = 10,
    pairs: Pairs = 30,
) -> None:
    """Massive activations on the toy world: raw, AdaLN and discard, with and without injected channels.

    Example:
        python -m benchmarks.tables ditf --pictures 4 --pairs 4 --out bench-ditf
    """
    from benchmarks.tables.ditf import run_ditf
    from benchmarks.tables.rows import bench_table
    from diffeat.progress import bar

    rows, differences = run_ditf(out, model=model, images=pictures, pairs=pairs, progress=bar, force=force)
    print_table(*bench_table(rows))
    for line in differences:
        typer.echo(str(line))
    typer.echo(f"Reports: {out / 'bench.html'}, {out / 'massive' / 'massive.html'}", err=True)


@bench.command(cls=Command)
def geometry(
    out: Folder = Path("bench-geometry"),
    force: Force = False,
    compare: Rows = None,
    opencv: Annotated[Path | None, Option(help="Folder of OpenCV's sample data, for graf and aloe.")] = None,
    hpatches: Annotated[Path | None, Option(help="Folder of the HPatches sequences.")] = None,
    points: Annotated[int, Option(min=1, help="Points per pair.")] = 500,
) -> None:
    """Photographs with known geometry: recipes against SIFT and DAISY, in pixels.

    Example:
        python -m benchmarks.tables geometry --compare tiny-dift --points 100 --out bench-geometry
    """
    from benchmarks.tables.geometry import geometry_table, run_geometry
    from diffeat.progress import bar

    rows = run_geometry(
        out,
        recipes=compare or ("tiny-dift",),
        opencv=opencv,
        hpatches=hpatches,
        points=points,
        progress=bar,
        force=force,
    )
    print_table(*geometry_table(rows))
    typer.echo(f"Report: {out / 'bench.html'}", err=True)


@bench.command(cls=Command)
def selection(
    out: Folder = Path("bench-selection"),
    force: Force = False,
    model: Annotated[str, Option("--model", "-m", help="A UNet: alias, hub id or folder.")] = "tiny-unet",
    timestep: Annotated[float, Option("--timestep", "-t", help="At which activations are read.")] = 50,
    draws: Annotated[int, Option(min=1, help="Noise draws that are averaged.")] = 2,
    choices: Annotated[int, Option(min=1, help="How often to choose, with other pictures each time.")] = 5,
    pictures: Annotated[
        str, Option(metavar="TRAIN,VAL,TEST", help="Pictures per class: of a choice the first two, and for test.")
    ] = "8,6,16",
    pairs: Annotated[int, Option(min=1, help="Validation and test pairs per class.")] = 20,
) -> None:
    """Toy world: chosen sets of activations against the usual choice and the best single one, on three tasks.

    Example:
        python -m benchmarks.tables selection --choices 2 --pictures 4,4,4 --pairs 4 --out bench-selection
    """
    from benchmarks.tables.selection import run_selection, selection_table
    from diffeat.progress import bar

    rows = run_selection(
        out,
        model=model,
        timestep=timestep,
        draws=draws,
        choices=choices,
        images=read_counts(pictures, "--pictures"),
        pairs=pairs,
        progress=bar,
        force=force,
    )
    print_table(*selection_table(rows))
    typer.echo(f"Report: {out / 'bench.html'}", err=True)


if __name__ == "__main__":
    bench()
