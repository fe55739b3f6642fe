"""Pictures of features: PCA colours of every map, attention over the image word by word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from diffeat.activations import Catalogue
from diffeat.errors import ImageError, InvalidValueError
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.recipe import MapActivation
from diffeat.geometry import open_image
from diffeat.refinement import mean_of_maps
from diffeat.storage import FeatureMap
from diffeat.viz import feature_grid, heat_grid

if TYPE_CHECKING:
    from diffeat.backbones import Backbone


def picture_of_features(features: Iterable[FeatureMap], shared_basis: bool = False) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then the PCA colours of each of its maps.

    Args:
        features: Features whose ``image`` is the path of the photo; the photo is left out where it is gone.
        shared_basis: One PCA basis for all pictures, so that equal colours mean equal content.
    """
    rows = []
    for feature in features:
        try:
            photo = open_image(feature.image)
        except ImageError:
            photo = None
        rows.append((Path(feature.image).name, photo, dict(feature.activations)))
    if not rows:
        raise InvalidValueError("There are no features to show.")
    return feature_grid(rows, shared_basis=shared_basis)


def picture_of_words(
    recipe: Recipe, backbone: Backbone, images: Sequence[Path], prompt: str, words: Sequence[str]
) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then where the model's text attention puts each word.

    Every cross-attention map that the recipe's activations name is used; where it names none, those of the denoiser's
    two largest attention grids but one (the middle ones, which locate best). Maps are averaged over heads, over a word's
    tokens and over layers.

    Args:
        recipe: Gives frame, trajectory and template.
        backbone: The model.
        images: Photos.
        prompt: Text that holds the words; goes through the recipe's template.
        words: Words of the prompt.

    Raises:
        UnknownNameError: If a word is not in the prompt.
    """
    text = recipe.text_for(prompt)
    layers = _cross_attention_layers(backbone)
    rows: list[tuple[str, Image.Image, dict]] = [(p.name, open_image(p), {}) for p in images]
    for word in words:
        tokens = tuple(backbone.token_index(text, word))
        chosen = recipe.replace(
            activations=[MapActivation(id=layer, tokens=tokens).model_dump() for layer in layers], fuse=None
        )
        extractor = Extractor(chosen, backbone)
        for row, feature in zip(rows, extractor.stream(images, prompt), strict=True):
            maps = [m.float().mean(0, keepdim=True) for m in feature.activations.values()]
            row[2][word] = feature.frame.map_to_original(mean_of_maps(maps))[0]
    return heat_grid(rows)


def _cross_attention_layers(backbone: Backbone) -> list[str]:
    catalogue = Catalogue.of(backbone)
    layers = [a for a in catalogue if a.kind == "cross-map"]
    if not layers:
        raise InvalidValueError(f"{backbone.family.name} has no text attention whose maps can be read.")
    sizes = sorted({a.grid[0] * a.grid[1] for a in layers if a.grid})
    middle = sizes[len(sizes) // 3 :][:2]
    return [a.id for a in layers if a.grid and a.grid[0] * a.grid[1] in middle]
