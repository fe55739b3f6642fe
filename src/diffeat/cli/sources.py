"""From the command line's recipes to one source of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffeat.cli.options import any_recipe, make_extractor

if TYPE_CHECKING:
    from diffeat.features import FeatureMap, Source

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
) -> Source[FeatureMap]:
    """Load the models of one recipe, or of several to be fused.

    Args:
        recipes: Names, paths or ``vision:MODEL``; ``tiny-dift`` if none.
        weights: Of a fusion.
        changes: What replaces fields of every recipe that is not a vision model.
    """
    from diffeat.extraction import join_recipes

    loaded = [any_recipe(name, **changes) for name in recipes or ["tiny-dift"]]
    return make_extractor(join_recipes(loaded, weights), device, dtype, batch_size)
