"""Pictures on which a technique gains most, half way and least: what the model makes of them, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.features import ImageLike
from diffeat.studies.content_shift.gating import BASE, GateResult
from diffeat.studies.content_shift.meter import ShiftMeter

#: Variants that are shown.
_MOST = 6


@dataclass(frozen=True)
class Example:
    """One picture under several variants.

    Attributes:
        variants: Names, in the order of the lists below.
        pixels: The picture as the model sees it, in [-1, 1].
        estimates: Of the clean picture, at the operating timestep.
        features: Of the clean picture by the base, then of each variant.
    """

    name: str
    variants: tuple[str, ...]
    timesteps: dict[str, float]
    pixels: Float[Tensor, "3 h w"]
    img2img: list[Tensor]
    estimates: list[Tensor]
    activation: str | None
    features: list[Tensor]


def examples_of(result: GateResult, backbone: Backbone, images: Sequence[ImageLike], count: int = 3) -> list[Example]:
    """Run the model again on ``count`` of the measured pictures."""
    shown = [v for v in result.variants if v.role in ("base", "technique", "shuffled")][:_MOST]
    best, at = result.ranking()[0], ("img2img", result.settings.measures[0])
    order = np.argsort(result.shifts[best][at].mean(1) - result.shifts[BASE][at].mean(1)).tolist()
    places = [round(k * (len(order) - 1) / max(count - 1, 1)) for k in range(min(count, len(order)))]
    chosen = [order[place] for place in dict.fromkeys(places)]
    doubled = [images[i] for i in chosen] * (2 if len(chosen) == 1 else 1)  # a meter takes two at least
    examples = []
    with ShiftMeter(backbone, doubled, result.base, result.settings) as meter:
        for k, i in enumerate(chosen):
            clean = meter.clean_features(k)
            activation = next(iter(clean), None)
            features = [] if activation is None else [clean[activation]]
            img2img, estimates = [], []
            for variant in shown:
                shuffled = variant.role == "shuffled"
                img2img.append(meter.reconstruct(variant.combination, k, "img2img", shuffled)[0][0])
                estimate, maps = meter.reconstruct(variant.combination, k, "operating", shuffled)
                estimates.append(estimate[0])
                features += [] if activation is None else [maps[activation][0]]
            name, names = Path(result.pictures[i]).name, tuple(v.name for v in shown)
            pixels = meter.pixels(k)
            examples.append(Example(name, names, meter.timesteps, pixels, img2img, estimates, activation, features))
    return examples
