"""Words' masks scored on label maps, by the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from diffeat.ambient import neutral
from diffeat.datasets.labelled import MaskDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store
from diffeat.evaluation.result import joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import precision_notes
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap, Source
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent
from diffeat.refinement.upsampling import upsampler
from diffeat.tasks.masks import NONE, MaskScores, mask_counts
from diffeat.tasks.segmentation.boundary import outline_counts
from diffeat.tasks.words.concepts import ConceptOptions, concept_maps
from diffeat.tasks.words.maps import Normalise, WordOptions, words_by_layer

#: Names of a first class that no word is looked for of: it is what no word claims.
REST = ("background", "_background_", "unlabeled", "unlabelled", "void", "none", "other")
_SAID = {
    "all": "every class of the dataset is looked for in every picture",
    "present": "only classes that the label map shows are looked for: the truth is told, so this is no open vocabulary",
}


class WordsOptions(TaskOptions):
    """Which words are looked for, and how their maps are made."""

    vocabulary: Literal["all", "present"] = Field(
        default="all", description="Words: 'all' classes, or those 'present' in the label map (an upper bound)."
    )
    concepts: bool = Field(default=False, description="Words as concepts beside the text, not by its attention.")
    apart: bool = Field(default=False, description="Each word in a text of its own.")
    layers: tuple[str, ...] = Field(
        default=(), description="Attentions or blocks, ids or globs, ….map[3] for a head; repeatable."
    )
    refine: int = Field(default=0, ge=0, le=10, description="Products of the maps with the self-attention.")
    normalise: Normalise = Field(default="range", description="Of maps: 'range', 'words' or 'none'.")
    background: float = Field(default=0.5, description="Height below which a pixel is no word's.")
    sharpen: str = Field(default="bilinear", description="To the pixels: bilinear, or another upsampler.")

    @property
    def finding(self) -> WordOptions:
        """The options of word maps."""
        return WordOptions(None, self.layers, self.refine, self.normalise, self.background, apart=self.apart)


@neutral()
def evaluate_words(
    data: MaskDataset,
    source: Source[FeatureMap],
    options: WordsOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> MaskScores:
    """Look for the names of classes in every picture and score the masks.

    Args:
        source: Of a diffusion model that reads text; its activations do not matter, its timesteps and draws do.
        store: Not used: attention is read, not features.

    Raises:
        DatasetError: A label map does not fit its picture.
        InvalidValueError: The recipe runs no such model, or no text holds so many words (take ``apart``).
    """
    options = options or WordsOptions(**suggested(source.recipe, "words"))
    return score_words(data, source, options, progress=progress)[""]


def score_words(
    data: MaskDataset,
    source: Source[FeatureMap],
    options: WordsOptions,
    layers: Sequence[str] = (),
    progress: Progress = silent,
) -> dict[str, MaskScores]:
    """The scores by the layers of the options under ``""``; where layers are given, those of each alone under its name.

    Raises:
        DiffeatError: As :func:`evaluate_words`.
    """
    if not isinstance(source, Extractor):
        raise InvalidValueError("Words are found by the attention of a diffusion model; this recipe runs none.")
    if options.prompts is not None:
        raise InvalidValueError("The text is made of the words; leave --prompts out.")
    upsampler(options.sharpen)
    rest = data.classes[0].lower() in REST
    named = {name: k for k, name in enumerate(data.classes) if not (rest and k == 0)}
    nothing = 0 if rest else NONE
    choices = {name: [name] for name in layers} or {"": options.layers}
    counts: dict[str, list[np.ndarray]] = {key: [] for key in choices}
    outlines: dict[str, list[np.ndarray]] = {key: [] for key in choices}
    for sample in progress(data, total=len(data), desc="words"):
        truth = sample.labels(len(data.classes))
        there = set(np.unique(truth).tolist())
        wanted = [name for name, k in named.items() if options.vocabulary == "all" or k in there]
        if not wanted:
            maps = {}
        elif options.concepts:
            maps = {"": concept_maps(sample.image, wanted, source, ConceptOptions(layers=options.layers))}
        else:
            maps = words_by_layer(sample.image, wanted, source, choices, options.finding)
        for key in choices:
            found = np.full(truth.shape, nothing, np.int64)
            if key in maps:
                at = np.array([nothing, *(named[name] for name in maps[key].names)])
                found = at[maps[key].labels(open_image(sample.image), options.sharpen).numpy()]
            counts[key].append(mask_counts(truth, found, len(data.classes)))
            outlines[key].append(outline_counts(truth, found))
    how = "concepts beside the text" if options.concepts else "attention to the text"
    return {
        key: MaskScores(
            dataset=data.name,
            recipe=source.recipe.name,
            recipe_hash=source.recipe.hash,
            classes=data.classes,
            counts=np.stack(counts[key]),
            outlines=np.stack(outlines[key]),
            options=options,
            what=f"words by {how} ({'each in a text of its own' if options.apart else 'all in one text'}; "
            f"{options.sharpen})",
            notes=joined(data.notes, (_SAID[options.vocabulary],), precision_notes(source)),
        )
        for key in choices
    }


TASK = Task("words", "label maps", WordsOptions, evaluate_words)
