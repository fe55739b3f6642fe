"""Pictures of features: PCA colours of every map, attention over the image word by word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.errors import ImageError, InvalidValueError
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.reading import MapActivation
from diffeat.features import FeatureMap, ImageLike, Picture
from diffeat.refinement import mean_of_maps
from diffeat.viz import feature_grid, heat_grid

if TYPE_CHECKING:
    from diffeat.backbones import Backbone


def picture_of_features(
    features: Iterable[FeatureMap], photo_of: Callable[[str], Image.Image], shared_basis: bool = False
) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then the PCA colours of each of its maps.

    Args:
        features: Of the photos.
        photo_of: Opens a photo by its name; it is left out where that fails.
        shared_basis: One PCA basis for all pictures, so that equal colours mean equal content.
    """
    rows = []
    for feature in features:
        try:
            photo = photo_of(feature.image)
        except ImageError:
            photo = None
        rows.append(
            (Path(feature.image).name, photo, {n: _content(feature, m) for n, m in feature.activations.items()})
        )
    if not rows:
        raise InvalidValueError("There are no features to show.")
    return feature_grid(rows, shared_basis=shared_basis)


def _content(feature: FeatureMap, values: Tensor) -> Tensor:
    """A map without the cells that see nothing but padding."""
    top, left, height, width = feature.frame.content_cells((values.shape[-2], values.shape[-1]))
    return values[..., top : top + height, left : left + width]


def picture_of_words(
    recipe: Reading, backbone: Backbone, images: Sequence[ImageLike], prompt: str, words: Sequence[str]
) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then where the model's text attention puts each word.

    Maps of all text attention at the denoiser's middle grids, which locate best, are averaged over heads, over a word's
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
    pictures = [Picture.of(image) for image in images]
    rows: list[tuple[str, Image.Image, dict]] = [(Path(p.name).name, p.image, {}) for p in pictures]
    for word in words:
        tokens = tuple(backbone.token_index(text, word))
        chosen = recipe.replace(
            activations=[MapActivation(id=layer, tokens=tokens).model_dump() for layer in layers], fuse=None
        )
        extractor = Extractor(chosen, backbone)
        for row, feature in zip(rows, extractor.stream(pictures, prompt), strict=True):
            maps = [m.float().mean(0, keepdim=True) for m in feature.activations.values()]
            row[2][word] = feature.frame.map_to_original(mean_of_maps(maps))[0]
    return heat_grid(rows)


def _cross_attention_layers(backbone: Backbone) -> list[str]:
    catalogue = Catalogue.of(backbone)
    queries = {a.id.removesuffix(".q"): a.grid for a in catalogue if a.kind == "attention-q" and a.grid}
    cells = {}
    for activation in catalogue:
        module, _, site = activation.id.rpartition(".")
        reads_text = site == "cross_map" or (site == "map" and module.endswith("attn2"))
        if reads_text and module in queries:
            cells[activation.id] = queries[module][0] * queries[module][1]
    if not cells:
        raise InvalidValueError(f"{backbone.family.name} has no text attention whose maps can be read.")
    sizes = sorted(set(cells.values()))
    middle = sizes[len(sizes) // 3 :][:2]
    return [layer for layer, size in cells.items() if size in middle]
