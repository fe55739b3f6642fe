"""Properties of all activations of a model, over a handful of pictures and noise draws, in one pass.

Every picture is one denoiser call with a row per draw. Each activation goes straight into its
:class:`~diffeat.studies.selection.meter.Meter` and is gone; what remains is some hundred kilobytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffeat.activations import Activation, Catalogue, Taps
from diffeat.activations.names import locate
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Reading
from diffeat.features import ImageLike, Picture
from diffeat.features.source import texts_for
from diffeat.geometry import FrameSpec, to_image
from diffeat.progress import Progress, silent
from diffeat.studies.selection.meter import Measured, Meter
from diffeat.trajectories import forward_rows, noisy_latents
from diffeat.viz import pca_colours

#: Kinds that carry what was computed so far, and kinds that are added to it.
STREAMS = ("resnet", "vit", "block")
INCREMENTS = ("increment", "ffn-inner", "attention-v", "ffn", "attention")


@dataclass(frozen=True)
class Property:
    """One activation: what the catalogue says of it, and what was measured."""

    id: str
    kind: str
    stage: str
    channels: int
    grid: tuple[int, int]
    stride: float
    depth: float
    measured: Measured
    aliases: tuple[str, ...] = ()

    def values(self) -> dict[str, str | float | None]:
        """All numbers and names in one flat mapping, as rules see them."""
        named = {"id": self.id, "kind": self.kind, "stage": self.stage, "channels": self.channels}
        sizes = {"cells": min(self.grid), "stride": self.stride, "depth": self.depth}
        return {**named, **sizes, **asdict(self.measured)}


class MeasuredOn(TypedDict):
    """What a measurement was made of."""

    model: str
    pictures: int
    timestep: float
    draws: int
    size: list[int]
    seed: int
    precision: str


@dataclass(frozen=True)
class Measurement:
    """The outcome of :func:`measure`.

    Attributes:
        properties: Of every activation with a grid, in order of execution.
        redundancy: (A, A) unbiased linear CKA between them.
        skipped: Activations that are no map of features, with the reason.
        thumbnails: PCA colours (h, w, 3) uint8 of each on the first picture.
        picture: The first picture as the model saw it.
    """

    properties: tuple[Property, ...]
    redundancy: Tensor = field(repr=False)
    skipped: dict[str, str]
    thumbnails: dict[str, np.ndarray] = field(repr=False)
    picture: Image.Image = field(repr=False)
    settings: MeasuredOn

    def __getitem__(self, id: str) -> Property:
        return next(p for p in self.properties if p.id == id)

    def cka(self, one: str, other: str) -> float:
        """Redundancy of two activations: 1 says the same, 0 nothing in common."""
        ids = [p.id for p in self.properties]
        return float(self.redundancy[ids.index(one), ids.index(other)])


def measurable(catalogue: Iterable[Activation]) -> tuple[list[Activation], dict[str, str]]:
    """The activations with a map of features, and why the others have none."""
    kept, skipped = [], {}
    for a in catalogue:
        if a.kind == "map":
            skipped[a.id] = "an attention map relates places to tokens; it has no channels to compare"
        elif a.kind == "modulation":
            skipped[a.id] = "a parameter of a norm, the same at every place"
        elif a.grid is None:
            skipped[a.id] = "tokens of the text, not of the picture"
        elif min(a.grid) < 2:
            skipped[a.id] = "a single row or column of cells"
        else:
            kept.append(a)
    return kept, skipped


def heads_of(backbone: Backbone, activation: Activation) -> list[Activation]:
    """The heads of queries, keys or values as activations of their own; with queries those of the outputs, too."""
    whole, heads = activation, activation.heads
    if activation.kind not in ("attention-q", "attention-k", "attention-v") or not heads:
        return []
    names = [f"{whole.id}[{h}]" for h in range(heads)]
    if activation.kind == "attention-q":
        names += [f"{whole.id[:-1]}o[{h}]" for h in range(heads)]
    found = []
    for name in names:
        with suppress(UnknownNameError):  # fewer keys than queries, or heads that are projected with something else
            locate(backbone.denoiser, [name])
            found.append(replace(whole, id=name, channels=whole.channels // heads, heads=1, aliases=()))
    return found


def measure(
    backbone: Backbone,
    images: Sequence[ImageLike],
    *,
    timestep: float = 50,
    draws: int = 4,
    size: int | tuple[int, int] | None = None,
    prompts: str | Sequence[str | None] | None = None,
    seed: int = 0,
    activations: Sequence[str] | None = None,
    heads: bool = False,
    progress: Progress = silent,
) -> Measurement:
    """Measure the properties of activations.

    Args:
        images: Two different pictures at least; eight or more give steady numbers.
        timestep: At which they are read (0…1000).
        draws: Noise draws per picture, two at least.
        size: Size of the pictures for the model (squashed); its own by default.
        prompts: A text for all, or one per picture.
        activations: Ids or patterns; all by default.
        heads: Also every head of queries, keys, values and outputs by itself.

    Raises:
        InvalidValueError: One picture only, equal pictures, fewer than two draws.
    """
    pictures = _pictures(images, prompts)
    if draws < 2:
        raise InvalidValueError(f"Noise is told from content by comparing draws: two at least, got {draws}.")
    recipe = _recipe(backbone, timestep, draws, size, seed)
    frames = [backbone.frame(recipe.frame, p.size, p.name) for p in pictures]
    catalogue = Catalogue.of(backbone, size=frames[0].model)
    wanted, skipped = measurable(catalogue if activations is None else catalogue.find(activations))
    wanted += [head for a in wanted for head in heads_of(backbone, a)] if heads else []
    if not wanted:
        raise InvalidValueError("None of these activations is a map of features: there is nothing to measure.")
    meters: dict[str, Meter] = {}
    colours: dict[str, np.ndarray] = {}

    def see(name: str, values: Tensor) -> None:
        if name not in meters:
            meters[name] = Meter(values.shape[1], (values.shape[2], values.shape[3]))
        average = meters[name].add(values)
        if name not in colours:
            colours[name] = pca_colours([average])[0]

    rows = forward_rows([timestep], draws, noisy=True)
    size_seen = frames[0].model
    with torch.no_grad(), Taps(backbone.denoiser, [a.id for a in wanted], sink=see) as taps:
        work = progress(list(zip(pictures, frames, strict=True)), total=len(pictures), desc="properties")
        for picture, frame in work:
            posterior = backbone.encode_images(frame.pixels(picture.image)[None])
            noisy = noisy_latents(backbone, posterior, rows, image=picture.key, seed=seed, sample_posterior=False)
            conditioning = backbone.condition([picture.text or ""], size=size_seen).take([0] * draws)
            taps.run(**backbone.denoiser_inputs(noisy, timestep, conditioning))
    found = tuple(
        Property(
            a.id,
            a.kind,
            a.stage,
            a.channels,
            a.grid or (0, 0),
            a.stride or 0,
            a.depth,
            meters[a.id].result(),
            a.aliases,
        )
        for a in wanted
    )
    return Measurement(
        properties=found,
        redundancy=redundancy([torch.cat(meters[a.id].sketch) for a in wanted]),
        skipped=skipped,
        thumbnails=colours,
        picture=to_image(frames[0].pixels(pictures[0].image)),
        settings={
            "model": backbone.name,
            "pictures": len(pictures),
            "timestep": timestep,
            "draws": draws,
            "size": list(size_seen),
            "seed": seed,
            "precision": str(backbone.dtype).removeprefix("torch."),
        },
    )


def fine_ratios(measurement: Measurement) -> dict[str, float]:
    """Fine noise of each increment over that of the stream it is added to (the layer or block around it), by id."""
    streams = {p.id: p.measured.noise_fine for p in measurement.properties if p.kind in STREAMS}
    ratios = {}
    for p in measurement.properties:
        outer = (p.id.rsplit(".", k)[0] for k in range(1, p.id.count(".") + 1))
        stream = next((streams[id] for id in outer if id in streams), None)
        if p.kind in INCREMENTS and stream is not None:
            ratios[p.id] = p.measured.noise_fine / max(stream, 1e-3)
    return ratios


def attention_shifts(measurement: Measurement) -> dict[str, float]:
    """What self-attention does to locality: concentration of its output minus that of its values, by module.

    Attention without positional embedding mixes the values of cells alike in content. Where it mixes neighbours, its
    output is more local than its values and the shift is positive.
    """
    known = {p.id: p.measured.concentration for p in measurement.properties}
    return {
        id: value - known[f"{id}.v"] for id, value in known.items() if f"{id}.v" in known and not id.endswith("attn2")
    }


def _pictures(images: Sequence[ImageLike], prompts: str | Sequence[str | None] | None) -> list[Picture]:
    texts = texts_for(prompts, len(images))
    pictures = [Picture.of(image).told(text or "") for image, text in zip(images, texts, strict=True)]
    if len(pictures) < 2:
        raise InvalidValueError(
            "Properties compare pictures with each other: one is not enough. Give two different pictures at least, "
            "better eight or more."
        )
    if len({p.digest for p in pictures}) == 1:
        raise InvalidValueError(
            f"All {len(pictures)} pictures are the same, pixel by pixel, so nothing tells content from position. Give "
            "different pictures."
        )
    return pictures


def _recipe(backbone: Backbone, timestep: float, draws: int, size: int | tuple[int, int] | None, seed: int) -> Reading:
    """The settings as a recipe, which checks them."""
    frame = FrameSpec(mode="squash", size=size or backbone.default_size)
    trajectory = {"timesteps": [timestep], "draws": draws, "latent": "mean"}
    data = {"model": backbone.name, "frame": frame, "trajectory": trajectory, "activations": ["**"], "seed": seed}
    return Reading.from_dict(data, "settings of the measurement")


def redundancy(samples: Sequence[Float[Tensor, "n _"]]) -> Float[Tensor, "a a"]:
    r"""How much two activations say the same: linear CKA with the unbiased estimator, clipped to [0, 1].

    For samples (places of pictures) by features, with Gram matrices K, L whose diagonals are set to zero,

    .. math:: H(K, L) = \frac{1}{n(n-3)}\Big[\operatorname{tr}(KL) + \frac{1^TK1\;1^TL1}{(n-1)(n-2)}
              - \frac{2}{n-2} 1^TKL1\Big],\qquad \mathrm{CKA} = \frac{H(K, L)}{\sqrt{H(K, K)\,H(L, L)}}

    (Kornblith et al., ICML 2019; estimator of Song et al., JMLR 2012). The plain estimator calls unrelated features of
    many channels alike; this one does not. Samples are an 8×8 grid over each picture.

    Args:
        samples: For each activation, features of the same places in the same order (four at least).
    """
    n = len(samples[0])
    grams = torch.empty(len(samples), n * n)
    sums = torch.empty(len(samples), n, dtype=torch.float64)
    for i, features in enumerate(samples):
        centred = features.float() - features.float().mean(0)
        gram = centred @ centred.T
        gram = gram / gram.diagonal().mean().clamp(min=1e-30)  # scale is free, and keeps float32 exact enough
        gram.fill_diagonal_(0)
        grams[i] = gram.flatten()
        sums[i] = gram.double().sum(1)
    total = sums.sum(1)
    traces = (grams @ grams.T).double()
    hsic = traces + total[:, None] * total / ((n - 1) * (n - 2)) - 2 / (n - 2) * sums @ sums.T
    scale = hsic.diagonal().clamp(min=1e-12).sqrt()
    return (hsic / scale / scale[:, None]).clamp(0, 1).float()
