"""``diffeat``: the command line.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from diffeat.__about__ import __version__
from diffeat.cli.activations import activations
from diffeat.cli.bench import bench
from diffeat.cli.command import Command
from diffeat.cli.eval import evaluate
from diffeat.cli.extract import extract
from diffeat.cli.gate import gate
from diffeat.cli.generate import generate
from diffeat.cli.massive import massive
from diffeat.cli.match import match
from diffeat.cli.propagate import propagate
from diffeat.cli.recipe_options import reads
from diffeat.cli.recipes import recipes
from diffeat.cli.samples import samples
from diffeat.cli.select import select
from diffeat.cli.show import show
from diffeat.cli.store import store
from diffeat.cli.sweep import sweep
from diffeat.cli.task_options import PropagationCommand, TaskCommand
from diffeat.cli.toyworld import toyworld
from diffeat.cli.train import train
from diffeat.errors import DiffeatError

app = typer.Typer(
    name="diffeat",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Dense features for computer vision from the inside of pretrained diffusion models.",
    epilog="Try it offline:  diffeat samples photos  →  diffeat extract photos --out features  →  "
    "diffeat show features",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"diffeat {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def _add(panel: str, command: Callable[..., None], cls: type[Command] = Command, name: str | None = None) -> None:
    app.command(name, cls=cls, rich_help_panel=panel)(command)


_PANEL = "Extract and look"
_add(_PANEL, extract, reads("tiny-unet"))
_add(_PANEL, show, reads("tiny-unet"))
_add(_PANEL, store)
_PANEL = "Use features"
_add(_PANEL, match, reads("tiny-dift"))
_add(_PANEL, evaluate, reads("tiny-dift", without=("prompt",), base=TaskCommand), "eval")
_add(_PANEL, propagate, reads("tiny-dift", without=("prompt",), base=PropagationCommand))
_PANEL = "Choose and understand"
_add(_PANEL, select, reads(several=False, without=("activation", "batch_size")))
_add(_PANEL, gate, reads("tiny-unet", several=False, without=("batch_size",)))
_add(_PANEL, massive, reads("ditf-tiny", several=False, without=("batch_size",)))
_add(_PANEL, sweep, reads("ditf-tiny", several=False, without=("prompt",)))
app.add_typer(bench, name="bench", rich_help_panel=_PANEL)
app.add_typer(train, name="train", rich_help_panel="Train")
_PANEL = "Models, recipes, data"
_add(_PANEL, recipes)
_add(_PANEL, activations)
_add(_PANEL, samples)
_add(_PANEL, generate, reads("hyperfeatures-tiny", several=False, without=("prompt", "batch_size")))
app.add_typer(toyworld, name="toyworld", rich_help_panel=_PANEL)


def main() -> None:
    """Run the command line; errors a user can act on are printed as one message, without a traceback."""
    for library in ("DIFFUSERS", "TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their warnings are not for our users
    try:
        app()
    except DiffeatError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.secho("\nStopped. What was finished is kept; the same command goes on from there.", err=True)
        sys.exit(130)
