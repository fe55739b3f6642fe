"""``diffeat train probe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from typer import Argument, Option

from diffeat.cli.command import DataCommand, given, reading, refuse
from diffeat.cli.options import Force, Root, SharedFeatures
from diffeat.cli.predict import Blend, Stride, Window, windows_of
from diffeat.cli.recipe_options import load, recipe_of
from diffeat.errors import InvalidValueError, did_you_mean, shown
from diffeat.files import new_folder

_ENSEMBLE_PIXELS = 4000


class ProbeCommand(DataCommand):
    """With the options of the cards of datasets that a probe learns from."""

    kinds = ("label maps", "classes")


def probe(
    ctx: typer.Context,
    dataset: Annotated[str, Argument(help="{learned}")],
    out: Annotated[Path, Option("--out", "-o", help="Run folder, for `diffeat predict --head`.")],
    root: Root = None,
    classifier: Annotated[
        str | None, Option(help="Of pixels: 'linear' (closed form, the default) or 'ensemble' of networks that vote.")
    ] = None,
    split: Annotated[str | None, Option(help="Training split; train if not given, where there are splits.")] = None,
    test: Annotated[
        str | None, Option(help="Split to score on, '' for none; the dataset's usual one if there are splits.")
    ] = None,
    limit: Annotated[int | None, Option(min=1, help="Training pictures; of classes, so many of each.")] = None,
    test_limit: Annotated[int | None, Option(min=1, help="Pictures to score on.")] = None,
    pixels: Annotated[
        int | None, Option(min=1, help="Training pixels per picture; all (linear), or 4000 (ensemble) by default.")
    ] = None,
    rare: Annotated[int, Option(min=0, help="A label with fewer pixels in a picture is ignored there.")] = 20,
    members: Annotated[int, Option(min=1, help="Of the ensemble.")] = 10,
    epochs: Annotated[int, Option(min=1, help="Of the ensemble, at most.")] = 100,
    seed: Annotated[int, Option(help="Of the ensemble and of the drawn pixels.")] = 0,
    window: Window = None,
    stride: Stride = None,
    blend: Blend = None,
    features: SharedFeatures = None,
    force: Force = False,
) -> None:
    """Train a probe on a few labelled pictures, and keep it: OUT is what `diffeat predict` takes.

    Pictures with label maps get a classifier of pixels, pictures with classes one of whole pictures. The recipe's model
    stays as it is.

    Example:
        diffeat samples labelled --masks
        diffeat train probe folder --root labelled --out run
        diffeat samples photos
        diffeat predict photos --head run --out predictions
    """
    from diffeat.datasets.labelled import ClassDataset
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.evaluation.features import feature_folder
    from diffeat.progress import bar
    from diffeat.tasks.predictors.evaluate import evaluate_head
    from diffeat.tasks.predictors.fit import Classifier, fit_class_probe, fit_pixel_probe, with_notes
    from diffeat.tasks.predictors.folder import FILES
    from diffeat.tasks.segmentation import EnsembleSettings

    card = get_card(dataset)
    if card.kind not in ("label maps", "classes"):
        raise InvalidValueError(f"Dataset {dataset!r} holds {card.kind}; a probe learns from label maps or classes.")
    if card.kind == "classes":
        refuse(ctx, ["classifier", "pixels", "rare", "window", "members", "epochs"], f"{dataset} holds classes")
    if classifier not in (None, "linear", "ensemble"):
        raise InvalidValueError(
            f"No classifier {shown(classifier)}. {did_you_mean(classifier, ('linear', 'ensemble'))}"
        )
    if classifier != "ensemble":
        refuse(ctx, ["members", "epochs"], "they belong to --classifier ensemble")
    windows = windows_of(ctx, window, stride, blend)
    new_folder(out, FILES, force=force)
    recipe, prompt = recipe_of(ctx), given(ctx).get("prompt")
    how = reading(ctx, *ProbeCommand.kinds)
    data = open_dataset(dataset, root, split or ("train" if card.splits else None), **how).limited(limit)
    scored = card.split(test or None) if card.splits and test != "" else None
    if scored is not None and scored == (split or "train"):
        raise InvalidValueError(f"The split {scored!r} is learned from; score on another, or on none (--test '').")
    held = None if scored is None else open_dataset(dataset, root, scored, **how).limited(test_limit)
    source = load(ctx, recipe)
    store = None if features is None else feature_folder(features, source)
    if isinstance(data, ClassDataset):
        predictor = fit_class_probe(data, source, prompt=prompt, store=store, progress=bar)
    else:
        kind = cast(Classifier, classifier or "linear")
        predictor = fit_pixel_probe(
            data,
            source,
            kind,
            settings=EnsembleSettings(members=members, epochs=epochs, seed=seed),
            pixels=pixels or (_ENSEMBLE_PIXELS if kind == "ensemble" else None),
            rare=rare,
            prompt=prompt,
            store=store,
            device=given(ctx).get("device") or _device(),
            progress=bar,
        )
    predictor = predictor.cut_by(windows)
    if held is not None:
        predictor = with_notes(predictor, str(evaluate_head(predictor, held, progress=bar)).splitlines())
    predictor.save(out, force=force)
    typer.echo("\n".join(predictor.facts.notes))
    typer.echo(f"Run: {out}   (diffeat predict PICTURES --head {out} --out predictions)")


def _device() -> str:
    from diffeat.backbones.placement import device_of

    return str(device_of(None))
