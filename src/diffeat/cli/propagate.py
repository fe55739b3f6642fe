"""``diffeat propagate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer
from typer import Argument, Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, Root
from diffeat.cli.recipe_options import load, recipe_of
from diffeat.cli.task_options import options_of
from diffeat.errors import InvalidValueError, shown
from diffeat.files import new_folder

#: Of videos: none has more, and a frame that is seen for longer is read once.
_EVERY_FRAME = 1000.0


def propagate(
    ctx: typer.Context,
    dataset: Annotated[
        str,
        Argument(
            metavar="[DATASET|VIDEO]", help="Videos in the layout of DAVIS; or a folder of frames, or a video file."
        ),
    ] = "davis",
    root: Root = None,
    mask: Annotated[
        Path | None, Option(help="Of one's own video: the objects in its first frame, 0 is background.")
    ] = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder of masks and report.")] = Path("propagation"),
    force: Force = False,
) -> None:
    """Carry the object masks of a video's first frame through it by features, and score J&F.

    Videos lie as in DAVIS; without --root a few of the toy world are drawn. Masks are written as DAVIS' own evaluation
    reads them, and scored here too. Of one's own video the first frame is marked (--mask), and nothing is scored.

    Example:
        diffeat propagate -o p
        diffeat propagate p/toyworld/JPEGImages/480p/toy-00 -o own --mask p/toyworld/Annotations/480p/toy-00/00000.png
    """
    from diffeat.datasets.davis import write_toyworld_videos
    from diffeat.datasets.registry import DATASETS, get_card
    from diffeat.progress import bar
    from diffeat.report.page import REPORT
    from diffeat.report.results import write_result
    from diffeat.tasks.propagation.propagate import PropagationOptions
    from diffeat.tasks.registry import TASKS

    task, asked = TASKS["propagation"], given(ctx)
    if dataset not in DATASETS and os.path.exists(dataset):
        _own(ctx, Path(dataset), mask, out, force)
        return
    if dataset not in DATASETS and (mask is not None or os.path.dirname(dataset) or os.path.splitext(dataset)[1]):
        raise InvalidValueError(f"There is no video and no folder of frames {shown(dataset)}.")
    refuse(ctx, ["mask"], "it belongs to a video of one's own, a folder of frames or a file")
    card = get_card(dataset, task.kind)
    values = {name: value for name, value in asked.items() if name in task.options.model_fields}
    reading = {name: value for name, value in asked.items() if name in card.options}
    recipe = recipe_of(ctx)
    options = cast(PropagationOptions, options_of(task, recipe, {"masks": out / "masks", **values}))
    if recipe.map_names:
        options.check_maps(recipe.name, recipe.map_names)
    new_folder(out, REPORT, force=force)
    masks = Path(values.get("masks", out / "masks")).absolute()
    new_folder(masks.parent, [f"{masks.name}/"], force=force)
    videos = task.open(dataset, root or write_toyworld_videos(out / "toyworld"), options, **reading)
    result = task.evaluate(videos, load(ctx, recipe), options, progress=bar)
    header, rows = result.table()
    typer.echo("  ".join(f"{name} {value}" for name, value in zip(header[1:], rows[-1][1:], strict=True)))
    typer.echo("\n".join(f"Note: {note}" for note in result.notes))
    typer.echo(f"Report: {write_result(result, out, force=force)}", err=True)


def _own(ctx: typer.Context, video: Path, mask: Path | None, out: Path, force: bool) -> None:
    """A folder of frames, or a video, of which the first frame is marked."""
    from diffeat.features import list_pictures
    from diffeat.progress import bar
    from diffeat.report.transfer import write_video
    from diffeat.tasks.propagation.own import carry
    from diffeat.tasks.propagation.propagate import PropagationOptions
    from diffeat.tasks.registry import TASKS
    from diffeat.tasks.transfer import read_annotation

    refuse(ctx, ["root", "video", "frames_of", "split", "limit"], "there is one video")
    if mask is None:
        raise InvalidValueError(
            f"{video} is a video of one's own: mark the objects of its first frame with --mask FILE."
        )
    frames = list_pictures([video], fps=None if video.is_dir() else _EVERY_FRAME)
    first = frames[0]
    annotation = read_annotation(str(mask), frames.paths[0] if first.is_file else first.image)
    if annotation.mask is None:
        raise InvalidValueError("--mask takes a mask: a picture with a palette or grey levels, or .npy.")
    annotation.check(first.image.size)
    new_folder(out, ["masks/", "overlays/", "report.html"], force=force)
    task = TASKS["propagation"]
    recipe = recipe_of(ctx)
    values = {name: value for name, value in given(ctx).items() if name in task.options.model_fields}
    options = cast(PropagationOptions, options_of(task, recipe, values))
    if recipe.map_names:
        options.check_maps(recipe.name, recipe.map_names)
    masks = carry(list(frames), annotation.mask, load(ctx, recipe), options)
    count = write_video(out, frames, bar(masks, total=len(frames), desc="frames"), str(options))
    typer.echo(f"{count} frames. Page: {out / 'report.html'}", err=True)
