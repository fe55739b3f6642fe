"""``diffeat check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import DataCommand, given
from diffeat.cli.options import Force, Root
from diffeat.cli.tables import print_table
from diffeat.errors import DatasetError
from diffeat.files import PICTURES, new_file

if TYPE_CHECKING:
    from diffeat.datasets.checking import Findings


class CheckCommand(DataCommand):
    """With the options of the cards of datasets with something at every pixel."""

    kinds = ("label maps", "depth", "normals")


def check(
    ctx: typer.Context,
    dataset: Annotated[str, Argument(help="{dense}")],
    root: Root = None,
    split: Annotated[str | None, Option(help="Only this part; all if not given.")] = None,
    out: Annotated[Path | None, Option("--out", "-o", help="Picture of samples to write (.png or .jpg).")] = None,
    force: Force = False,
) -> None:
    """Say what a dataset of label maps, depth or normals holds, and what is wrong with it, before anything is trained.

    Every file is opened once: counts, sizes, classes, labels that are none, files that do not belong together.

    Example:
        diffeat samples labelled --masks
        diffeat check folder --root labelled --out samples.png
    """
    from diffeat.datasets.checking import check_samples, warnings_of
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.errors import InvalidValueError
    from diffeat.files import write_picture
    from diffeat.progress import bar
    from diffeat.report.predictions import samples_picture

    if out is not None:
        new_file(out, PICTURES, force=force)
    card = get_card(dataset)
    if card.kind not in CheckCommand.kinds:
        raise InvalidValueError(f"Label maps, depth and normals can be checked; {dataset} holds {card.kind}.")
    parts, data, failed, notes = [], None, dict[str, str](), dict[str, None]()
    for name in (card.split(split),) if split else card.splits:
        try:
            part = open_dataset(dataset, root, name, **given(ctx))
        except DatasetError as error:
            failed[str(name)] = str(error)
            continue
        data = data or part
        parts.append(check_samples(part, bar))
        typer.echo("\n".join([_told(parts[-1]), *(f"Note: {note}" for note in part.notes if note not in notes)]))
        notes |= dict.fromkeys(part.notes)
    if data is None:
        raise DatasetError("; ".join(dict.fromkeys(failed.values())))
    classes = getattr(data, "classes", ())
    if classes:
        rows = [[name, *(f"{part.shown[name]}" for part in parts), f"{_share(parts, name):.2f}"] for name in classes]
        print_table(["class", *(f"{part.split}: pictures" for part in parts), "% of pixels"], rows)
    for line in [*(f"{name}: {reason}" for name, reason in failed.items()), *warnings_of(parts, classes)]:
        typer.echo(f"Warning: {line}", err=True)
    if out is not None:
        typer.echo(f"Samples: {write_picture(samples_picture(data), out, force=force)}", err=True)
    faults = [fault for part in parts for fault in part.faults]
    if faults:
        shown = faults[:10]
        more = [f"and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
        for fault in [*shown, *more]:
            typer.echo(f"Fault: {fault}", err=True)
        raise DatasetError(f"{len(faults)} of {sum(p.pictures for p in parts)} pictures of {dataset} cannot be used.")
    if all(len(part.empty) == part.pictures for part in parts):
        raise DatasetError(f"{dataset} is void at every pixel of every picture: nothing can be learned from it.")


def _told(part: Findings) -> str:
    sizes = sorted(part.sizes, key=lambda size: size[0] * size[1])
    ends = dict.fromkeys(f"{width}×{height}" for width, height in (*sizes[:1], *sizes[-1:]))
    span = f", {' to '.join(ends)}" if ends else ""
    known = f", {100 * sum(part.known) / len(part.known):.1f} % of pixels known" if part.known else ""
    depth = f", depth {part.span[0]:.3g} to {part.span[1]:.3g}" if part.span else ""
    return f"{part.split}: {part.pictures} pictures{span}{known}{depth}"


def _share(parts: Sequence[Findings], name: str) -> float:
    total = sum(sum(part.pixels.values()) for part in parts)
    return 100 * sum(part.pixels[name] for part in parts) / max(1, total)
