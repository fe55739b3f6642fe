"""The massive channels of a model at the places a recipe reads: measured, not looked up.

They hardly depend on the picture, so a few pictures of the toy world, always the same ones, find them; the outcome is
a function of the recipe and the weights, and is remembered by both. Their numbers differ from model to model and from
block to block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from diffeat.activations import modulated_sites
from diffeat.backbones import Backbone
from diffeat.backbones.memory import keep_newest
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.engine import Engine
from diffeat.extraction.plan import Plan
from diffeat.extraction.reading import Reading
from diffeat.extraction.reduce import Channels, Place, reducers_of
from diffeat.features import ImageLike, Picture
from diffeat.refinement.massive import Detection, Rule, detect_massive
from diffeat.refinement.stats import ChannelStatistics

#: Pictures that ``channels: detected`` looks at.
PICTURES = 6
_SEED = 2305
_SIDE = 256
_REMEMBERED: dict[tuple[str, str], Channels] = {}
_MOST_REMEMBERED = 64


@cache
def calibration_pictures(count: int = PICTURES) -> tuple[ImageLike, ...]:
    """Pictures of the toy world, the same every time."""
    from diffeat.datasets.toyworld import Toyworld

    world = Toyworld(_SEED, _SIDE)
    return tuple(world.sample(index).image for index in range(count))


def raw_statistics(
    recipe: Reading, backbone: Backbone, names: Sequence[str], pictures: Iterable[ImageLike]
) -> dict[Place, ChannelStatistics]:
    """Statistics of the raw streams behind ``adaln`` activations, at every timestep of the recipe, one draw each."""
    sites = modulated_sites(backbone, names)
    raw = recipe.replace(
        activations=list(dict.fromkeys(s.raw for s in sites)),
        refine=None,
        fuse=None,
        shrink=None,
        views=None,
        **{"trajectory.draws": 1},
    )
    engine = Engine(Plan.of([raw], backbone), backbone, RowBudget(backbone, None))
    statistics: dict[Place, ChannelStatistics] = {}
    with engine.session():
        for picture in pictures:
            (((_, maps),),) = engine.read([Picture.of(picture)])
            for t in recipe.trajectory.timesteps:
                for name, site in zip(names, sites, strict=True):
                    stream = maps[Place(site.raw, t)]
                    statistics.setdefault(Place(name, t), ChannelStatistics(len(stream))).update(stream.flatten(1).T)
    return statistics


def detect(
    recipe: Reading,
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
    pictures = calibration_pictures() if pictures is None else pictures
    statistics = raw_statistics(recipe, backbone, names, pictures)
    return {place: detect_massive(s, rule) for place, s in statistics.items()}


def massive_channels(recipe: Reading, backbone: Backbone) -> Channels:
    """The channels that a recipe with ``refine.channels: detected`` discards; empty for other recipes."""
    refine = recipe.refine
    if refine is None or refine.discard == "none" or refine.channels != "detected":
        return {}
    key = (recipe.hash, backbone.fingerprint)
    if key not in _REMEMBERED:
        names = [reducer.name for reducer in reducers_of(recipe, backbone)]
        _REMEMBERED[key] = {place: d.channels for place, d in detect(recipe, backbone, names).items()}
        keep_newest(_REMEMBERED, _MOST_REMEMBERED)
    return _REMEMBERED[key]
