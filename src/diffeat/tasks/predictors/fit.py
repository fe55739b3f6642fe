"""Probes trained on a few labelled pictures, kept as predictors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from diffeat.ambient import neutral
from diffeat.datasets.labelled import IGNORE, ClassDataset, MaskDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store, each_feature, features_of
from diffeat.evaluation.texts import precision_notes
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.tasks.classification.evaluate import fit_linear, pooled_features
from diffeat.tasks.predictors.folder import PredictorFacts
from diffeat.tasks.predictors.predictor import Predictor
from diffeat.tasks.predictors.probes import LinearPictures, LinearPixels, VotingPixels
from diffeat.tasks.segmentation.ensemble import EnsembleSettings, PixelEnsemble
from diffeat.tasks.segmentation.linear import LinearProbe
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels, without_rare

Classifier = Literal["linear", "ensemble"]


@neutral()
def fit_pixel_probe(
    data: MaskDataset,
    source: Source[FeatureMap],
    classifier: Classifier = "linear",
    *,
    settings: EnsembleSettings | None = None,
    pixels: int | None = None,
    rare: int = 20,
    prompt: str | None = None,
    store: Store = None,
    device: torch.device | str = "cpu",
    progress: Progress = silent,
) -> Predictor:
    """Train a classifier of pixels on a few pictures with label maps.

    Args:
        classifier: ``"linear"``, in closed form, or ``"ensemble"`` of networks that vote.
        settings: Of the ensemble.
        pixels: Training pixels per picture, drawn at random; all if not given.
        rare: A label with fewer pixels in a picture is ignored there.
        prompt: Text for all pictures, also those that are predicted; the recipe's own if not given.
        store: Where features rest; temporary if not given.
        device: Of the ensemble's training.

    Raises:
        DatasetError: A label map does not fit its picture or the classes.
        InvalidValueError: The pictures show fewer than two classes.
    """
    settings = settings or EnsembleSettings()
    shown = _classes_shown(data, rare)  # refused before anything is extracted
    absent = [name for k, name in enumerate(data.classes) if k not in shown]
    pictures = [sample.image for sample in data]
    with features_of(source, dict.fromkeys(pictures, prompt), store, keep=0, progress=progress) as features:
        maps = [features.load(picture) for picture in pictures]
    names = list(maps[0].activations)
    training = TrainingPixels(
        [PictureMaps.of(m, names) for m in maps],
        (sample.labels(len(data.classes)) for sample in data),
        rare=rare,
        most=pixels,
        seed=settings.seed,
    )
    if classifier == "linear":
        probe = LinearProbe(len(data.classes)).fit(training)
        head = LinearPixels(probe.weight, probe.bias, names, probe.sharpness)
    else:
        head = VotingPixels(PixelEnsemble(len(data.classes), settings).fit(training, device), names)
    notes = [
        f"Learned by {_told(classifier, settings)} from {len(training)} pixels of {len(data)} pictures of {data.name} "
        f"{data.split}".rstrip(),
        *([f"No training picture shows {', '.join(absent)}, which are therefore never predicted"] if absent else []),
        *data.notes,
        *precision_notes(source),
    ]
    facts = PredictorFacts(
        kind=head.kind,
        target="labels",
        classes=data.classes,
        colours=data.colours,
        void=data.void,
        prompt=prompt,
        notes=tuple(notes),
    )
    return Predictor(source, head, facts)


@neutral()
def fit_class_probe(
    data: ClassDataset,
    source: Source[FeatureMap],
    *,
    prompt: str | None = None,
    store: Store = None,
    progress: Progress = silent,
) -> Predictor:
    """Train a linear classifier of whole pictures, on their averaged features; arguments as above.

    Raises:
        InvalidValueError: The pictures show fewer than two classes.
    """
    shown = sorted({sample.label for sample in data})
    if len(shown) < 2:
        raise InvalidValueError(f"{data.name} {data.split} shows {len(shown)} classes; two at least are told apart.")
    features = each_feature(source, [sample.image for sample in data], prompt, store, progress)
    names: list[str] = []
    rows = []
    for feature in progress(features, total=len(data), desc="features"):
        names = names or list(feature.activations)
        rows.append(pooled_features(feature, names))
    fit = fit_linear(torch.stack(rows), torch.tensor([sample.label for sample in data]), len(data.classes))
    absent = [name for k, name in enumerate(data.classes) if k not in shown]
    notes = [
        f"Learned by a linear probe from the averaged features of {len(data)} pictures of {data.name} {data.split}",
        *([f"No training picture shows {', '.join(absent)}, which are therefore never predicted"] if absent else []),
        *data.notes,
        *precision_notes(source),
    ]
    facts = PredictorFacts(
        kind=LinearPictures.kind, target="classes", classes=data.classes, prompt=prompt, notes=tuple(notes)
    )
    return Predictor(source, LinearPictures(fit.weight, fit.bias, names, fit.sharpness), facts)


def with_notes(predictor: Predictor, notes: Sequence[str]) -> Predictor:
    """The predictor with further notes on its card."""
    facts = predictor.facts.model_copy(update={"notes": (*predictor.facts.notes, *notes)})
    return Predictor(predictor.source, predictor.head, facts)


def _classes_shown(data: MaskDataset, rare: int) -> set[int]:
    """
    Raises:
        InvalidValueError: There are no pictures, or they show fewer than two classes.
    """
    if not len(data):
        raise InvalidValueError(f"{data.name} has no pictures in its split {data.split!r}.")
    counts: dict[Path, set[int]] = {}
    for sample in data:
        labels = without_rare(sample.labels(len(data.classes)), rare)
        counts[sample.image] = {int(v) for v in np.unique(labels)} - {IGNORE}
    shown = set().union(*counts.values())
    if len(shown) < 2:
        names = ", ".join(data.classes[k] for k in sorted(shown)) or "nothing but pixels that do not count"
        raise InvalidValueError(
            f"The {len(data)} training pictures of {data.name} show {names}; two classes at least are needed to tell "
            "them apart. Label more pictures, or check the label that is ignored."
        )
    return shown


def _told(classifier: Classifier, settings: EnsembleSettings) -> str:
    if classifier == "linear":
        return "a linear probe (ridge regression)"
    return f"an ensemble of {settings.members} pixel networks (seed {settings.seed})"
