"""From a recipe of any kind, or its name, to what runs it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from diffeat.ambient import neutral
from diffeat.backbones.placement import placed
from diffeat.extraction.baselines import BASELINES
from diffeat.extraction.extractor import Extractor
from diffeat.extraction.join import check_weights
from diffeat.extraction.joined import JoinedSource
from diffeat.extraction.joins.convolution import convolution_file
from diffeat.extraction.kinds import Baseline, Joined, Vision
from diffeat.extraction.reading import Reading
from diffeat.extraction.recipe import Recipe
from diffeat.extraction.vision import VisionExtractor
from diffeat.features import FeatureMap, Source


@neutral()
def load_source(
    recipe: str | Path | Recipe,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    optimise: Sequence[str] = (),
    texts: Collection[str | None] | None = None,
) -> Source[FeatureMap]:
    """Load a recipe and the models it names.

    Args:
        recipe: As :meth:`Recipe.load` takes it.
        device: Of the models; the first accelerator if there is one, else the CPU.
        dtype: Precision of the models; ``None`` is bfloat16 on an accelerator and float32 on the CPU.
        batch_size: Rows of one denoiser call; ``None`` chooses by memory.
        optimise: Ways to run diffusion models faster (see :mod:`diffeat.backbones.optimise`).
        texts: All that will be read of pictures, ``None`` for the recipe's own: text encoders are freed once they have
            encoded them (see :meth:`Extractor.settle_texts`).

    Raises:
        UnknownNameError: Unknown recipe or activation.
        InvalidValueError: The recipe is not valid, or there is no such device or precision.
        ModelError: A model cannot be loaded.
    """
    recipe = Recipe.load(recipe)
    device, precision = placed(device, dtype)
    for part in recipe.single():
        if isinstance(part, Reading):
            check_weights(part)
    if isinstance(recipe, Joined):
        if recipe.network is not None:
            convolution_file(recipe.network)
        how: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size, "optimise": optimise}
        how["texts"] = texts
        return JoinedSource(recipe, [load_source(part, **how) for part in recipe.parts])
    if isinstance(recipe, Vision):
        return VisionExtractor.from_pretrained(recipe, device=device, dtype=precision)
    if isinstance(recipe, Baseline):
        return BASELINES[recipe.name](recipe)
    source = Extractor.from_recipe(recipe, device=device, dtype=precision, batch_size=batch_size, optimise=optimise)
    if texts is not None:
        source.settle_texts(texts)
    return source
