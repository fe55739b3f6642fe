"""From the command line's recipes to one source of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffeat.cli.options import any_recipe, make_extractor, parse_dtype
from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.evaluation.features import FeatureSource

VISION = "vision:"

RecipeNames = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Preset name, YAML path, or vision:MODEL for a transformers model such as vision:facebook/dinov2-base. "
        "Repeat it to fuse several.",
    ),
]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", help="How much each of several recipes counts; equal by default.")
]


def make_source(
    recipes: list[str] | None,
    weights: list[float] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    **changes: Any,
) -> FeatureSource:
    """Load the models of one recipe, or of several to be fused.

    Args:
        recipes: Names, paths or ``vision:MODEL``; ``tiny-dift`` if none.
        weights: Of a fusion.
        changes: What replaces fields of every recipe that is not a vision model.
    """
    names = recipes or ["tiny-dift"]
    sources = [_one(name, device, dtype, batch_size, changes) for name in names]
    if len(sources) == 1:
        if weights:
            raise InvalidValueError("--weight belongs to a fusion: repeat --recipe, or leave --weight out.")
        return sources[0]
    from diffeat.tasks.correspondence.late_fusion import LateFusion

    return LateFusion(sources, weights)


def _one(
    name: str, device: str | None, dtype: str | None, batch_size: int | None, changes: dict[str, Any]
) -> FeatureSource:
    if not name.startswith(VISION):
        return make_extractor(any_recipe(name, **changes), device, dtype, batch_size)
    from diffeat.extraction.vision import VisionExtractor

    size = changes.get("size")
    return VisionExtractor.from_pretrained(
        name.removeprefix(VISION), size=size, device=device, dtype=parse_dtype(dtype)
    )
