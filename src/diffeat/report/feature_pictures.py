"""Pictures of features: PCA colours of every map, attention over the image word by word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from diffeat.errors import ImageError, InvalidValueError
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap, ImageLike, Picture
from diffeat.tasks.words import WordOptions
from diffeat.tasks.words import words as find_words
from diffeat.viz import feature_grid, heat_grid


def picture_of_features(
    features: Iterable[FeatureMap], photo_of: Callable[[str], Image.Image], shared_basis: bool = False
) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then the PCA colours of each of its maps.

    Args:
        photo_of: Opens a photo by its name; it is left out where that fails.
        shared_basis: One PCA basis for all pictures, so that equal colours mean equal content.
    """
    rows = []
    for feature in features:
        try:
            photo = photo_of(feature.image)
        except ImageError:
            photo = None
        rows.append((Path(feature.image).name, photo, {n: feature.inside(m) for n, m in feature.activations.items()}))
    if not rows:
        raise InvalidValueError("There are no features to show.")
    return feature_grid(rows, shared_basis=shared_basis)


def picture_of_words(source: Extractor, images: Sequence[ImageLike], prompt: str, words: Sequence[str]) -> Image.Image:
    """A labelled grid: a row per picture, the photo first, then where the model's text attention puts each word of the
    prompt, which goes through the recipe's template. Raises as :func:`diffeat.tasks.words.words`."""
    options = WordOptions(source.recipe.text_for(prompt), normalise="none")
    rows: list[tuple[str, Image.Image, dict]] = []
    for picture in map(Picture.of, images):
        found, photo = find_words(picture, words, source, options), picture.image
        rows.append((Path(picture.name).name, photo, dict(zip(found.names, found.at_pixels(photo), strict=True))))
    return heat_grid(rows)
