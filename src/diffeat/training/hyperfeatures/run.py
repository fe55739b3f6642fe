"""A whole training: from a recipe and pairs of pictures to a recipe with trained weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffeat.datasets.pairs import PairDataset
from diffeat.evaluation.texts import PromptPolicy
from diffeat.extraction import Extractor
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import check_fits
from diffeat.features import Spec
from diffeat.files import new_folder
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.keypoints import PckResult
from diffeat.tasks.correspondence.protocol import Protocol
from diffeat.tasks.correspondence.scorable import check_scorable
from diffeat.training.hyperfeatures.examples import Examples, usable_pairs
from diffeat.training.hyperfeatures.prepare import explicit, network_config, prepare
from diffeat.training.hyperfeatures.recipes import results_in, write_recipe
from diffeat.training.hyperfeatures.score import score_network
from diffeat.training.hyperfeatures.train import PairLoss, Trained, TrainSettings, new_network, train_network


@dataclass(frozen=True)
class Outcome:
    """What a training left.

    Attributes:
        recipe: File of the recipe; every command takes it.
        pictures: In training and validation, mirrored copies included.
        extracted: Of them, extracted by this run.
    """

    recipe: Path
    trained: Trained
    pictures: int
    extracted: int
    stored: bool


@dataclass(frozen=True)
class TrainingData:
    """Pairs with common points.

    Attributes:
        validation: To choose the best weights with; needs ``protocol``.
    """

    pairs: PairDataset
    validation: PairDataset | None = None
    protocol: Protocol | None = None
    prompts: PromptPolicy = None

    def texts(self, spec: Spec) -> PromptPolicy:
        """The texts to give a recipe: those asked for, else what the protocol tells the model."""
        return self.prompts if self.protocol is None else self.protocol.prompts(self.prompts, spec)


@dataclass(frozen=True)
class Storage:
    """Where features and mirrored copies rest.

    Attributes:
        folder: To be shared by several trainings; that of the training if not given.
        dtype: In what precision: float16, float32, bfloat16 or int8.
        limit: The most bytes they may take; beyond, pictures are extracted again in every step.
    """

    folder: Path | None = None
    dtype: str = "float16"
    limit: int | None = None


def train_hyperfeatures(
    extractor: Extractor,
    data: TrainingData,
    out: Path,
    settings: TrainSettings,
    *,
    start: AggregationNetwork | None = None,
    storage: Storage | None = None,
    progress: Progress = silent,
    on_validation: Callable[[int, PckResult], None] | None = None,
    loss: PairLoss | None = None,
    force: bool = False,
) -> Outcome:
    """Train an aggregation network on pairs with common points; an earlier run in ``out`` is gone on with.

    Args:
        extractor: Of any recipe; its fusion, if it has one, is what is trained anew.
        out: Gets ``recipe.yaml``, ``weights/``, ``log.csv``, ``state.safetensors`` and the features.
        start: Weights to start from, in place of random ones.
        storage: Where features rest; float16 in ``out`` by default.
        loss: A loss of one's own in place of the paper's; pairs then need no points.
        force: Whether the recipe and weights of a training that ended there may be replaced.

    Raises:
        DatasetError: The training set is empty, or a picture cannot be used.
        InvalidValueError: Settings that do not fit the earlier run in ``out``, or weights to start from that do not
            fit the recipe.
        NonFiniteError: The loss became NaN.
    """
    new_folder(out, results_in(out), force=force)
    usable_pairs(data.pairs, points=loss is None)  # an empty set is reported before anything is extracted
    extractor, storage = explicit(extractor), storage or Storage()
    pairs, held_out, protocol = data.pairs, data.validation, data.protocol
    if held_out is not None and protocol is not None:
        check_scorable(held_out, protocol)
    with prepare(
        extractor,
        [pairs] if held_out is None else [pairs, held_out],
        storage.folder or out,
        prompts=data.texts(extractor.recipe),
        mirror=pairs if settings.flip > 0 else None,
        dtype=storage.dtype,
        limit=storage.limit,
        progress=progress,
    ) as ready:
        config = network_config(extractor, ready.channels, settings.projection, settings.bottleneck)
        network = new_network(config, settings.seed) if start is None else _checked(start, config)
        network.to(extractor.backbone.device)
        examples = Examples(pairs, ready.source, settings.seed, settings.flip, ready.mirrored, points=loss is None)
        validate = None
        if held_out is not None and protocol is not None:
            validate = lambda n: score_network(held_out, n, ready.source, protocol, settings.grid)  # noqa: E731
        trained = train_network(network, examples, settings, out, validate, progress, on_validation, loss)
    base = extractor.recipe
    words = f"Aggregation network on {pairs.name} {pairs.split}, {settings.steps} steps from seed {settings.seed}"
    path = write_recipe(base, trained.network, out, out.name, f"{words}; {base.description}", settings.grid, force=True)
    return Outcome(path, trained, ready.pictures, ready.extracted, ready.stored)


def _checked(network: AggregationNetwork, config: AggregationConfig) -> AggregationNetwork:
    channels = dict(zip(config.activations, config.channels, strict=True))
    check_fits(
        network.config, activations=config.activations, channels=channels, steps=config.steps, count=config.count
    )
    return network
