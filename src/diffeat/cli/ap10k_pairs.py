"""``diffeat ap10k-pairs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def ap10k_pairs(
    raw: Annotated[Path, Argument(help="AP-10K as it is published: data/ and annotations/.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder of pairs, annotations and copies of the pictures.")],
    leave_out: Annotated[
        Path | None, Option(help="File with names of pictures that are not used; those with several animals if none.")
    ] = None,
    seed: Annotated[int, Option(min=0, help="Of the pairs that are drawn.")] = 42,
) -> None:
    """Draw the pairs of AP-10K within species, across species and across families, by the rules of GeoAware-SC.

    Example:
        diffeat ap10k-pairs ap-10k --out ap10k
        diffeat eval ap10k --root ap10k --split test_cross_species --protocol ap10k-argmax
    """
    from diffeat.datasets.ap10k_pairs import write_ap10k_pairs
    from diffeat.progress import bar

    counts = write_ap10k_pairs(raw, out, leave_out=leave_out, seed=seed, progress=bar)
    for split, count in sorted(counts.items()):
        typer.echo(f"{split}: {count} pairs")
