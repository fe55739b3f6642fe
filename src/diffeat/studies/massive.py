"""Measures a transformer's massive activations through its depth and over timesteps.

The raw stream that enters every block is read for several pictures at several timesteps; statistics are kept, not
activations. The modulation parameters depend on timestep and text alone and are read once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffeat.activations import Catalogue, modulated_sites, read
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.evaluation.result import Tabled
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.detect import raw_statistics
from diffeat.extraction.reduce import Place
from diffeat.features import FeatureMap, ImageLike, Picture
from diffeat.refinement.massive import (
    Detection,
    MassiveChannel,
    Rule,
    detect_massive,
    high_norm_tokens,
    measured_channel,
)
from diffeat.refinement.stats import ChannelStatistics, jaccard


@dataclass(frozen=True)
class Birth:
    """Where a massive channel comes from.

    Attributes:
        first: Position, among the surveyed blocks, of the first whose input has it.
        born_in: Name of the block before, which wrote it; ``None`` if it is there from the first one on.
        gate_rank: Rank (1 is the largest) of that block's \\|gate\\| at the channel, among all channels.
    """

    channel: int
    first: int
    born_in: str | None
    gate_rank: int | None


@dataclass(frozen=True, repr=False)
class Survey(Tabled):
    """What :func:`find_massive` measured.

    Attributes:
        recipe: The recipe that was given, taking out the channels that are massive at its place.
        base: How the model was run; its activation and first timestep are the place that is looked at closely.
        blocks: ``adaln`` activations, in order of execution.
        timesteps: Ascending.
        precision: In which the model ran.
        statistics: Of the raw stream, by timestep and block.
        detections: Massive channels, by timestep and block.
        modulation: shift, scale and gate ``(C,)`` by timestep and block.
        high_norm: Share of high-norm tokens by block, massive channels left out.
        examples: Features of the first pictures at the place: raw, AdaLN, and AdaLN with discard.
    """

    recipe: Reading
    base: Reading
    model: str
    blocks: tuple[str, ...]
    timesteps: tuple[float, ...]
    pictures: int
    precision: str
    statistics: dict[Place, ChannelStatistics]
    detections: dict[Place, Detection]
    modulation: dict[Place, dict[str, Tensor]]
    high_norm: dict[str, float]
    examples: list[dict[str, FeatureMap]]

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        massive = ", ".join(map(str, self.channels)) or "none"
        return self.model, {"massive channels": massive, "blocks": len(self.blocks), "pictures": self.pictures}

    @property
    def place(self) -> Place:
        """Block and timestep that are looked at closely."""
        return Place(str(self.base.activations[0]), self.base.trajectory.timesteps[0])

    @property
    def channels(self) -> list[int]:
        """Massive channels at any block, at the recipe's timestep, those of most blocks first."""
        time = self.place.step
        counts = Counter(c for block in self.blocks for c in self.detections[Place(block, time)].channels)
        return sorted(counts, key=lambda c: (-counts[c], c))

    def birth(self, channel: int) -> Birth:
        """Where a channel becomes massive."""
        time = self.place.step
        first = next(i for i, b in enumerate(self.blocks) if channel in self.detections[Place(b, time)].channels)
        if first == 0:
            return Birth(channel, 0, None, None)
        writer = self.blocks[first - 1]
        gate = self.modulation[Place(writer, time)].get("gate")
        rank = None if gate is None else int((gate.abs() > gate[channel].abs()).sum()) + 1
        return Birth(channel, first, writer, rank)

    def stability(self, count: int = 5) -> dict[str, float]:
        """Mean Jaccard overlap of the ``count`` largest channels over images, timesteps and blocks."""
        block, time = self.place
        return {
            "pictures": self.statistics[self.place].stability(count),
            "timesteps": jaccard([self.statistics[Place(block, t)].top(count) for t in self.timesteps]),
            "blocks": jaccard([self.statistics[Place(b, time)].top(count) for b in self.blocks]),
        }

    def largest(self, place: Place) -> MassiveChannel:
        """The channel of the largest mean |x| at a place, massive or not."""
        statistics = self.statistics[place]
        return measured_channel(statistics, statistics.top(1)[0], self.rule)

    @property
    def rule(self) -> Rule:
        """Of the detector."""
        return self.detections[self.place].rule

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: what is massive in each block at the recipe's timestep, which test the largest fails."""
        header = ["block", "massive channels", "largest", "it fails", "its ratio"]
        header += ["energy in massive", "peak / median", "Gini"]
        rows = []
        for block in self.blocks:
            place = Place(block, self.place.step)
            detection, largest = self.detections[place], self.largest(place)
            row = [block, ", ".join(map(str, detection.channels)) or "–", str(largest.channel)]
            row += ["; ".join(largest.failed(self.rule)) or "no test", f"{largest.ratio:.1f}"]
            row += [f"{detection.energy_share:.0%}", f"{detection.peak_ratio:.0f}", f"{detection.gini:.2f}"]
            rows.append(row)
        return header, rows


def find_massive(
    recipe: Reading,
    backbone: Backbone,
    pictures: Sequence[ImageLike],
    *,
    timesteps: Sequence[float] = (),
    blocks: Sequence[str] = (),
    rule: Rule | None = None,
    examples: int = 2,
) -> Survey:
    """Find a transformer's massive activations, and where they come from.

    Args:
        recipe: Its first activation must be an ``adaln`` one.
        timesteps: Further timesteps to measure at.
        blocks: ``adaln`` ids, aliases or patterns; all attention sites of all blocks if none.
        rule: Of the detector; by default with the recipe's ratio.
        examples: Pictures whose features are kept.

    Raises:
        InvalidValueError: Fewer than two pictures, or a model or activation without AdaLN.
    """
    if len(pictures) < 2:
        raise InvalidValueError(
            f"A survey of massive activations takes two pictures or more, got {len(pictures)}: from one picture it "
            "cannot be known whether a channel is massive in all."
        )
    if rule is None:
        rule = Rule(ratio=recipe.refine.ratio) if recipe.refine is not None else Rule()
    names, place = _blocks(backbone, blocks, str(recipe.activations[0]))
    times = tuple(sorted({*recipe.trajectory.timesteps[:1], *timesteps}))
    wide = recipe.replace(
        activations=list(names), refine=None, fuse=None, **{"trajectory.timesteps": times, "trajectory.draws": 1}
    )
    statistics = raw_statistics(wide, backbone, names, pictures)
    detections = {place: detect_massive(s, rule) for place, s in statistics.items()}
    close = recipe.replace(activations=[place], **{"trajectory.timesteps": recipe.trajectory.timesteps[:1]})
    channels = detections[Place(place, close.trajectory.timesteps[0])].channels
    kept = _examples(close, backbone, pictures[:examples], place, channels)
    discard = recipe.refine.discard if recipe.refine and recipe.refine.discard != "none" else "pre"
    return Survey(
        recipe=recipe.replace(refine={"discard": discard, "channels": channels} if channels else {}),
        base=close,
        model=backbone.name,
        blocks=names,
        timesteps=times,
        pictures=len(pictures),
        precision=str(backbone.dtype).removeprefix("torch."),
        statistics=statistics,
        detections=detections,
        modulation=_modulation(wide, backbone, names, pictures[0]),
        high_norm=_high_norm(close, backbone, names, pictures[0], detections),
        examples=kept,
    )


def _blocks(backbone: Backbone, wanted: Sequence[str], place: str) -> tuple[tuple[str, ...], str]:
    """The blocks to survey, and the id of the one that is looked at closely."""
    catalogue = Catalogue.of(backbone)
    if wanted:
        names = [a.id for a in catalogue.find([*wanted, place])]
    else:
        names = [a.id for a in catalogue if any(alias.startswith("ditf:") for alias in a.aliases)]
    if not names:
        raise InvalidValueError(f"{backbone.name} has no AdaLN; massive activations are surveyed in transformers.")
    modulated_sites(backbone, [*names, place])
    id = catalogue[place].id
    return (*names, id) if id not in names else tuple(names), id


def _examples(
    recipe: Reading, backbone: Backbone, pictures: Sequence[ImageLike], place: str, channels: list[int]
) -> list[dict[str, FeatureMap]]:
    raw = modulated_sites(backbone, [place])[0].raw
    discard = {"discard": "pre", "channels": channels} if channels else {}
    recipes = {
        "raw": recipe.replace(activations=[raw], refine=None),
        "AdaLN": recipe.replace(refine={}),
        "AdaLN + discard": recipe.replace(refine=discard),
    }
    columns = {name: Extractor(r.replace(fuse=None), backbone).extract(list(pictures)) for name, r in recipes.items()}
    return [
        {
            name: replace(f, activations={n: m.cpu() for n, m in f.activations.items()})
            for name, f in zip(columns, row, strict=True)
        }
        for row in zip(*columns.values(), strict=True)
    ]


@torch.no_grad()
def _modulation(
    recipe: Reading, backbone: Backbone, names: Sequence[str], picture: ImageLike
) -> dict[Place, dict[str, Tensor]]:
    image = Picture.of(picture).image
    frame = backbone.frame(recipe.frame, image.size)
    latents = backbone.encode_images(frame.pixels(image)[None]).mean
    text = [recipe.text_for(None)]
    conditioning = backbone.condition(text, size=frame.model, **recipe.conditioning)
    found: dict[Place, dict[str, Tensor]] = {}
    sites = modulated_sites(backbone, names)
    ids = [id for site in sites for id in site.parameters.values()]
    for t in recipe.trajectory.timesteps:
        values = read(backbone, ids, **backbone.denoiser_inputs(latents, t, conditioning))
        for site in sites:
            found[Place(site.name, t)] = {part: values[id][0].cpu() for part, id in site.parameters.items()}
    return found


def _high_norm(
    recipe: Reading, backbone: Backbone, names: Sequence[str], picture: ImageLike, found: dict[Place, Detection]
) -> dict[str, float]:
    """Share of high-norm tokens in the first picture, by block."""
    time = recipe.trajectory.timesteps[0]
    raws = [s.raw for s in modulated_sites(backbone, names)]
    (feature,) = Extractor(recipe.replace(activations=raws, refine=None, fuse=None), backbone).extract([picture])
    return {
        name: float(high_norm_tokens(feature[raw].flatten(1).T, found[Place(name, time)].channels).float().mean())
        for name, raw in zip(names, raws, strict=True)
    }
