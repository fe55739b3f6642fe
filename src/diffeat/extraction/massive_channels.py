"""The massive channels of a model at the places a recipe reads: measured, not looked up.

They hardly depend on the picture, so a few pictures of the toy world, always the same ones, find them; the outcome is
a function of the recipe and the weights. Their numbers differ from model to model and from block to block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from diffeat.activations.modulation import modulated_sites
from diffeat.backbones import Backbone
from diffeat.extraction.recipe import Recipe
from diffeat.features.picture import ImageLike
from diffeat.refinement.massive import Detection, Rule, find_massive
from diffeat.refinement.stats import ChannelStatistics

#: Pictures that ``channels: detected`` looks at.
PICTURES = 6
_SEED = 2305
_SIDE = 256

#: Timestep and activation.
Place = tuple[float, str]


@cache
def calibration_pictures(count: int = PICTURES) -> tuple[ImageLike, ...]:
    """Pictures of the toy world, the same every time."""
    from diffeat.datasets.toyworld import Toyworld

    world = Toyworld(_SEED, _SIDE)
    return tuple(world.sample(index).image for index in range(count))


def raw_statistics(
    recipe: Recipe, backbone: Backbone, names: Sequence[str], pictures: Iterable[ImageLike]
) -> dict[Place, ChannelStatistics]:
    """Statistics of the raw streams behind ``adaln`` activations, at every timestep of the recipe, one draw each."""
    from diffeat.extraction.extractor import Extractor

    sites = modulated_sites(backbone, names)
    raw = recipe.replace(
        activations=list(dict.fromkeys(s.raw for s in sites)), refine=None, fuse=None, **{"trajectory.draws": 1}
    )
    several = len(recipe.trajectory.timesteps) > 1
    found: dict[Place, ChannelStatistics] = {}
    for feature in Extractor(raw, backbone).stream(pictures):
        for t in recipe.trajectory.timesteps:
            for name, site in zip(names, sites, strict=True):
                stream = feature[f"{site.raw}@{t:g}" if several else site.raw]
                statistics = found.setdefault((t, name), ChannelStatistics(len(stream)))
                statistics.update(stream.flatten(1).T)
    return found


def detect(
    recipe: Recipe,
    backbone: Backbone,
    names: Sequence[str],
    pictures: Iterable[ImageLike] | None = None,
    rule: Rule | None = None,
) -> dict[Place, Detection]:
    """The massive channels behind ``adaln`` activations.

    Args:
        recipe: Says how the model is run; its ``refine.ratio`` is the detector's, unless ``rule`` is given.
        names: Ids or aliases of the activations.
        pictures: By default :func:`calibration_pictures`.

    Raises:
        InvalidValueError: One picture only, or activations that are no modulated inputs.
    """
    if rule is None:
        rule = Rule(ratio=recipe.refine.ratio) if recipe.refine is not None else Rule()
    chosen = calibration_pictures() if pictures is None else pictures
    found = raw_statistics(recipe, backbone, names, chosen)
    return {place: find_massive(statistics, rule) for place, statistics in found.items()}
