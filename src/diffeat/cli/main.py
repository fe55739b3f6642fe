"""``diffeat``: the command line.

Commands import what they need when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from diffeat.__about__ import __version__
from diffeat.cli.activations import activations
from diffeat.cli.ap10k_pairs import ap10k_pairs
from diffeat.cli.app import app as open_app
from diffeat.cli.check import CheckCommand, check
from diffeat.cli.command import Command
from diffeat.cli.convert import convert
from diffeat.cli.edit import edit
from diffeat.cli.eval import evaluate
from diffeat.cli.extract import extract
from diffeat.cli.gate import gate
from diffeat.cli.generate import generate
from diffeat.cli.massive import massive
from diffeat.cli.match import match
from diffeat.cli.models import models
from diffeat.cli.predict import predict
from diffeat.cli.propagate import propagate
from diffeat.cli.push import push
from diffeat.cli.recipe_options import reads
from diffeat.cli.recipes import recipes
from diffeat.cli.reproduce import reproduce
from diffeat.cli.samples import samples
from diffeat.cli.segment import segment
from diffeat.cli.select import select
from diffeat.cli.show import show
from diffeat.cli.store import store
from diffeat.cli.sweep import sweep
from diffeat.cli.task_options import MaskCommand, PropagationCommand, TaskCommand
from diffeat.cli.toyworld import toyworld
from diffeat.cli.train import train
from diffeat.cli.transfer import transfer
from diffeat.errors import DiffeatError
from diffeat.progress import end_lines
from diffeat.unheard import give_again

_PANELS = ("Extract and look", "Use features", "Choose and understand", "Train", "Models, recipes, data")

#: A command line that cannot be parsed.
_Usage: type[Exception] = typer.BadParameter.__mro__[2]


class _Sorted(TyperGroup):
    """Commands by what a user wants to do, those that are groups themselves among the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        panels = {name: getattr(command, "rich_help_panel", None) for name, command in self.commands.items()}
        return sorted(panels, key=lambda name: _PANELS.index(panels[name] or _PANELS[-1]))


app = typer.Typer(
    name="diffeat",
    cls=_Sorted,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Dense features for computer vision from the inside of pretrained diffusion models.",
    epilog="Try it offline:  diffeat samples photos  →  diffeat extract photos --out features  →  "
    "diffeat show features --root photos",
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


_LOOK, _USE, _CHOOSE, _TRAIN, _KNOW = _PANELS
for panel, name, command, cls in (
    (_LOOK, "extract", extract, reads("tiny-unet", paths=True, workers=True)),
    (_LOOK, "show", show, reads("tiny-unet", paths=True)),
    (_LOOK, "app", open_app, reads("tiny-dift", several=False)),
    (_USE, "match", match, reads("tiny-dift")),
    (_USE, "edit", edit, reads("tiny-dift")),
    (_USE, "segment", segment, reads("tiny-dift", paths=True)),
    (_USE, "eval", evaluate, reads("tiny-dift", without=("prompt",), workers=True, base=TaskCommand)),
    (_USE, "predict", predict, Command),
    (_USE, "propagate", propagate, reads("tiny-dift", without=("prompt",), base=PropagationCommand)),
    (_USE, "transfer", transfer, reads("tiny-dift", paths=True, without=("caption_column",))),
    (
        _CHOOSE,
        "select",
        select,
        reads(
            several=False, paths=True, without=("caption_column", "activation", "batch_size", "optimise"), workers=True
        ),
    ),
    (_CHOOSE, "gate", gate, reads("tiny-unet", several=False, paths=True, without=("batch_size",))),
    (_CHOOSE, "massive", massive, reads("ditf-tiny", several=False, paths=True, without=("batch_size",))),
    (_CHOOSE, "sweep", sweep, reads("ditf-tiny", several=False, without=("prompt",), workers=True, base=MaskCommand)),
    (_USE, "reproduce", reproduce, Command),
    (_KNOW, "push", push, Command),
    (_KNOW, "recipes", recipes, Command),
    (_KNOW, "activations", activations, Command),
    (_KNOW, "ap10k-pairs", ap10k_pairs, Command),
    (_KNOW, "convert", convert, Command),
    (_KNOW, "samples", samples, Command),
    (_KNOW, "check", check, CheckCommand),
    (_KNOW, "generate", generate, reads("hyperfeatures-tiny", several=False, without=("prompt", "batch_size"))),
):
    app.command(name, cls=cls, rich_help_panel=panel)(command)
for panel, name, group in (
    (_LOOK, "store", store),
    (_TRAIN, "train", train),
    (_KNOW, "models", models),
    (_KNOW, "toyworld", toyworld),
):
    app.add_typer(group, name=name, rich_help_panel=panel)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    What a user can act on is told in one line, never by a traceback. Exit codes are 2 where something was asked for
    wrongly, 1 where a run failed, 130 after Ctrl-C.
    """
    for library in ("DIFFUSERS", "TRANSFORMERS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")  # their warnings are not for our users
    for module in (r"PIL\..*", r"torch\._weights_only_unpickler"):  # a damaged file is told by our own line
        warnings.filterwarnings("ignore", category=UserWarning, module=module)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that are no text
    give_again()
    message, code = "", 0
    try:
        code = app(arguments, "diffeat", standalone_mode=False) or 0
        sys.stdout.flush()
    except _Usage as error:
        message, code = _usage(error), 2
    except DiffeatError as error:
        message, code = str(error), 1 if _disk_failed(error) else error.exit_code
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        message, code = f"{error.strerror or error}{place}.", 1
    except MemoryError:
        message, code = "There is not enough memory. Try a smaller --size or --batch-size.", 1
    if message:
        end_lines()
        typer.secho(f"Error: {' '.join(message.split())}", fg="red", err=True)
    if code:
        sys.exit(code)


def _usage(error: Any) -> str:
    """The fault of a command line that cannot be parsed, and where its help is."""
    text = error.format_message().strip()
    ended = text if text.endswith(("?", ".")) else f"{text}."
    return f"{ended} See: {error.ctx.command_path} --help" if text and error.ctx else text


def _disk_failed(error: BaseException | None) -> bool:
    """Whether an error comes from a disk that is full or broken, which no other command line mends."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            return True
        error = error.__cause__
    return False
