"""Recipes that carry a trained network, and what they cost."""

from __future__ import annotations

from pathlib import Path

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction import Reading
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import WEIGHTS_FILE, load_aggregation, save_aggregation
from diffeat.files import new_folder
from diffeat.geometry import file_digest

RECIPE_FILE = "recipe.yaml"
WEIGHTS = "weights"


def recipe_of(base: Reading, config: AggregationConfig) -> Reading:
    """The recipe that reads what a network of this configuration takes, without fusion."""
    steps = [int(s) for s in config.steps] if base.trajectory.stepped else list(config.steps)
    where = "trajectory.save" if base.trajectory.stepped else "trajectory.timesteps"
    return base.replace(activations=list(config.activations), fuse=None, **{where: steps})


def results_in(folder: Path) -> list[str]:
    """What a training would write over: its recipe, and weights that are not those of a run to be gone on with."""
    return [RECIPE_FILE] if (folder / "state.safetensors").is_file() else [RECIPE_FILE, f"{WEIGHTS}/"]


def write_recipe(
    base: Reading,
    network: AggregationNetwork,
    folder: Path,
    name: str,
    description: str = "",
    grid: tuple[int, int] | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write a network and the recipe that uses it into a folder that can be moved; returns the recipe's path."""
    new_folder(folder, [RECIPE_FILE, f"{WEIGHTS}/"], force=force)
    save_aggregation(network, folder / WEIGHTS)
    digest = file_digest(folder / WEIGHTS / WEIGHTS_FILE)
    fuse: dict = {"kind": "hyperfeatures", "weights": {"source": WEIGHTS, "sha256": digest}}
    fuse |= {} if grid is None else {"grid": list(grid)}
    recipe = recipe_of(base, network.config).replace(
        name=name, description=description or base.description, source=base.source, fuse=fuse
    )
    recipe.save(folder / RECIPE_FILE, force=force)
    return folder / RECIPE_FILE


def network_of(recipe: Reading) -> AggregationNetwork:
    weights = None if recipe.fuse is None else recipe.fuse.weights
    if weights is None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} names no trained aggregation network. Give the recipe.yaml that "
            "diffeat train hyperfeatures wrote."
        )
    return load_aggregation(weights.source, weights.file, weights.revision)


def denoiser_calls(recipe: Reading, known: Catalogue) -> float:
    """Denoiser passes that one picture costs; the last counts only as far as it runs."""
    depth = max(known[name].depth for name in names_of(recipe))
    path = recipe.trajectory
    if path.steps is None:  # no walk
        return len(path.timesteps) * path.draws * depth
    saved = [int(s) for s in path.read_steps]
    before = path.steps - 1 - min(saved) if path.kind == "inversion" else max(saved)
    return (before + depth) * (1 if path.guidance is None else 2)


def names_of(recipe: Reading) -> list[str]:
    return [str(activation) for activation in recipe.activations]


def catalogue_at_size(recipe: Reading, backbone: Backbone) -> Catalogue:
    """The catalogue at the size that the recipe brings pictures to (for mode ``keep``: pictures of the model's own)."""
    frame = backbone.frame(recipe.frame, backbone.default_size)
    return Catalogue.of(backbone, frame.model)


def full_grid(recipe: Reading, known: Catalogue) -> tuple[int, int] | None:
    """The descriptor's grid ``(h, w)``, for recipes that bring all pictures to one size; None if sizes differ.

    A pruned recipe that reads coarse layers only must name it to keep the resolution it was trained at.

    Args:
        known: Of :func:`catalogue_at_size`.
    """
    if recipe.fuse is not None and recipe.fuse.grid is not None:
        return recipe.fuse.grid
    if recipe.frame.mode == "keep":
        return None
    grids = [known[name].grid for name in names_of(recipe)]
    return max((g for g in grids if g is not None), key=lambda g: g[0] * g[1], default=None)
