"""Sweeps of what finds masks without training: parts by block, words by layer or head, each by timestep.

One forward pass reads all layers and heads of a timestep; the cells are made of what it gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from diffeat.datasets.labelled import MaskDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import features_of
from diffeat.extraction import Extractor, Reading
from diffeat.features import FeatureMap, Source
from diffeat.files import size_and_time
from diffeat.progress import Progress, silent
from diffeat.studies.sweeps import Cell, Scoring, Sweep, swept
from diffeat.tasks.masks import MaskProtocol, MaskScores
from diffeat.tasks.parts.evaluate import PartsOptions, score_parts
from diffeat.tasks.parts.find import METHODS
from diffeat.tasks.words.evaluate import WordsOptions, score_words
from diffeat.tasks.words.layers import choose_layers, text_attentions


def sweep_parts(
    recipe: Reading,
    extractor: Callable[[Reading], Source[FeatureMap]],
    data: MaskDataset,
    options: PartsOptions,
    folder: str | Path,
    *,
    timesteps: Sequence[float],
    blocks: Sequence[str],
    weights: str = "",
    progress: Progress = silent,
) -> Sweep:
    """Score parts by the features of every block at every timestep; as :func:`~diffeat.studies.sweeps.sweep`.

    Raises:
        InvalidValueError: The method reads no features.
    """
    if METHODS[options.finding(2 if options.true_parts else None).method] is None:
        raise InvalidValueError(f"{options.method!r} reads self-attention, not a block: sweep 'cuts' or 'kmeans'.")

    def score(t: float, wanted: Sequence[str]) -> Iterator[Cell]:
        reader = extractor(recipe.replace(activations=list(wanted), fuse=None, **{"trajectory.timesteps": [t]}))
        with features_of(reader, {sample.image: None for sample in data}, keep=0, progress=progress) as features:
            for name in wanted:
                maps = (features.load(sample.image, [name]) for sample in data)
                yield _cell(t, name, score_parts(data, maps, options, reader))

    return _swept("parts", recipe, data, options, folder, timesteps, blocks, weights, score, progress)


def sweep_words(
    recipe: Reading,
    extractor: Callable[[Reading], Extractor],
    data: MaskDataset,
    options: WordsOptions,
    folder: str | Path,
    *,
    timesteps: Sequence[float],
    layers: Sequence[str] = (),
    heads: bool = False,
    weights: str = "",
    progress: Progress = silent,
) -> Sweep:
    """Score words by every attention to the text, and each of its heads, at every timestep.

    Args:
        layers: Ids or globs of attentions, with ``[3]`` head 3; all that read text if not given.
        heads: Whether each head is a cell of its own beside the mean of its layer.

    Raises:
        InvalidValueError: Concepts, which are blocks and no attentions.
    """
    if options.concepts:
        raise InvalidValueError("A sweep of words is one of attentions; leave --concepts out.")
    backbone = extractor(recipe).backbone
    names: list[str] = []
    for name, some in choose_layers(backbone, layers or list(text_attentions(backbone))).items():
        there = getattr(backbone.denoiser.get_submodule(name.rpartition(".")[0]), "heads", 0) if heads else 0
        names += (
            [name, *(f"{name}[{h}]" for h in range(int(there)))] if some is None else [f"{name}[{h}]" for h in some]
        )

    def score(t: float, wanted: Sequence[str]) -> Iterator[Cell]:
        reader = extractor(recipe.replace(fuse=None, **{"trajectory.timesteps": [t]}))
        for name, result in score_words(data, reader, options, list(wanted), progress).items():
            yield _cell(t, name, result)

    return _swept("words", recipe, data, options, folder, timesteps, names, weights, score, progress)


def _cell(t: float, name: str, result: MaskScores) -> Cell:
    low, high = result.interval()
    return Cell(t, name, result.value, low, high, result.boundary, len(result.counts), 0, result.notes)


def _swept(
    task: str,
    recipe: Reading,
    data: MaskDataset,
    options: PartsOptions | WordsOptions,
    folder: str | Path,
    timesteps: Sequence[float],
    names: Sequence[str],
    weights: str,
    score: Scoring,
    progress: Progress,
) -> Sweep:
    files = [(file.as_posix(), size_and_time(file)) for sample in data for file in (sample.image, sample.mask)]
    facts = (task, data.name, data.split, data.classes, files, options.model_dump_json(), weights)
    protocol = MaskProtocol(f"{task} ({options.model_dump_json(exclude_defaults=True)})")
    dataset = f"{data.name} {data.split}".strip()
    return swept(recipe, folder, timesteps, names, facts, score, progress, dataset, protocol, task)
