"""A whole training: from a recipe and pairs of pictures to a recipe with trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffeat.datasets.pairs import PairDataset
from diffeat.evaluation.texts import PromptPolicy
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import check_fits
from diffeat.geometry import FrameSpec
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.protocol import Protocol
from diffeat.training.hyperfeatures.examples import Examples
from diffeat.training.hyperfeatures.prepare import explicit, network_config, prepare
from diffeat.training.hyperfeatures.recipes import write_recipe
from diffeat.training.hyperfeatures.score import score_network
from diffeat.training.hyperfeatures.train import HeadTrainer, Trained, TrainSettings, new_network


@dataclass(frozen=True)
class Outcome:
    """What a training left.

    Attributes:
        recipe: File of the recipe; every command takes it.
        trained: The network and how well it did.
        pictures: In training and validation, mirrored copies included.
        extracted: Of them, extracted by this run.
        stored: Whether their maps rest in a store.
    """

    recipe: Path
    trained: Trained
    pictures: int
    extracted: int
    stored: bool


def train_hyperfeatures(
    extractor: Extractor,
    pairs: PairDataset,
    out: Path,
    settings: TrainSettings,
    *,
    validation: PairDataset | None = None,
    protocol: Protocol | None = None,
    prompts: PromptPolicy = None,
    projection: int = 384,
    bottleneck: int | None = None,
    start: AggregationNetwork | None = None,
    features: Path | None = None,
    dtype: str = "float32",
    limit: int | None = None,
    tensorboard: bool = False,
    progress: Progress = silent,
    on_validation: Callable[[int, float], None] | None = None,
) -> Outcome:
    """Train an aggregation network on pairs with common points; an earlier run in ``out`` is gone on with.

    Args:
        extractor: Of a recipe without fusion.
        out: Gets ``recipe.yaml``, ``weights/``, ``log.csv``, ``state.pt`` and the features.
        validation: Pairs that choose the best weights; needs ``protocol``.
        protocol: How validation scores.
        prompts: Text for the pictures.
        projection: Channels of the descriptor.
        bottleneck: Channels inside the bottlenecks.
        start: Weights to start from, in place of random ones.
        features: Where features and mirrored copies go, to be shared by several trainings; ``out`` by default.
        dtype: Of stored features.
        limit: The most bytes the stored features may take; beyond, pictures are extracted again in every step.

    Raises:
        DatasetError: The training set is empty, or a picture cannot be used.
        InvalidValueError: Settings that do not fit the earlier run in ``out``, or weights to start from that do not
            fit the recipe.
        NonFiniteError: The loss became NaN.
    """
    extractor = explicit(extractor)
    Examples(pairs, _Nothing(), settings.seed)  # an empty set is reported before anything is extracted
    datasets = [pairs] if validation is None else [pairs, validation]
    mirror = pairs if settings.flip > 0 else None
    with prepare(
        extractor,
        datasets,
        features or out,
        prompts=prompts,
        mirror=mirror,
        dtype=dtype,
        limit=limit,
        progress=progress,
    ) as ready:
        config = network_config(extractor, ready.channels, projection, bottleneck)
        network = new_network(config, settings.seed) if start is None else _checked(start, config)
        network.to(extractor.backbone.device)
        score = None
        if validation is not None and protocol is not None:
            score = lambda n: score_network(validation, n, ready.source, protocol, settings.grid).value  # noqa: E731
        examples = Examples(pairs, ready.source, settings.seed, settings.flip, ready.mirrored)
        trainer = HeadTrainer(network, examples, settings, out, validate=score, tensorboard=tensorboard)
        trained = trainer.run(progress, on_validation)
    base = extractor.recipe
    words = f"Aggregation network on {pairs.name} {pairs.split}, {settings.steps} steps from seed {settings.seed}"
    path = write_recipe(base, trained.network, out, out.name, f"{words}; {base.description}", settings.grid)
    pictures = len({p for d in datasets for p in d.images()}) + len(ready.mirrored)
    return Outcome(path, trained, pictures, ready.extracted, ready.stored)


def training_recipe(recipe: Recipe, size: int | None = None) -> Recipe:
    """The recipe without its fusion, at another picture size if asked: larger inputs show smaller parts."""
    recipe = recipe.replace(fuse=None)
    if size is None:
        return recipe
    frame = recipe.frame
    if frame.mode == "keep":
        return recipe.replace(frame=FrameSpec("keep", longer=size, multiple=frame.multiple, filter=frame.filter))
    return recipe.replace(frame=replace(frame, size=(size, size)))


def _checked(network: AggregationNetwork, config: AggregationConfig) -> AggregationNetwork:
    channels = dict(zip(config.activations, config.channels, strict=True))
    check_fits(
        network.config, activations=config.activations, channels=channels, steps=config.steps, count=config.count
    )
    return network


class _Nothing:
    def maps(self, path: Path):
        raise AssertionError("examples are only counted here")
