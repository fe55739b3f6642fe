"""Parts of pictures scored on label maps: one to one with their classes, picture by picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from pydantic import Field

from diffeat.ambient import neutral
from diffeat.datasets.labelled import IGNORE, MaskDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store, each_feature
from diffeat.evaluation.result import joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import one_text, precision_notes, text_notes
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap, Picture, Source, check_one_map
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent
from diffeat.refinement.upsampling import upsampler
from diffeat.tasks.masks import MaskScores, assigned, mask_counts
from diffeat.tasks.parts.find import METHODS, PartOptions, attention_parts, parts_of
from diffeat.tasks.scored import ScoredMaps
from diffeat.tasks.segmentation.boundary import outline_counts


class PartsOptions(TaskOptions):
    """How parts are found, and how many."""

    method: str = Field(default="cuts", description="'cuts', 'kmeans', or 'merging' of self-attention.")
    parts: int | None = Field(default=None, ge=1, le=255, description="How many; found by the method if not given.")
    true_parts: bool = Field(
        default=False, description="As many as the label map shows: the truth is used, and the number says so."
    )
    granularity: float | None = Field(
        default=None, gt=0, description="Instead of a number: the cost of a cut (0.5), or the divergence of maps (0.9)."
    )
    alpha: float = Field(default=10, gt=0, description="Exponent of the affinities that are cut.")
    sharpen: str = Field(default="bilinear", description="To the pixels: bilinear, or another upsampler.")

    def finding(self, parts: int | None) -> PartOptions:
        """The options of the method."""
        return PartOptions(self.method, parts or self.parts, self.granularity, self.alpha)


@neutral()
def evaluate_parts(
    data: MaskDataset,
    source: Source[FeatureMap],
    options: PartsOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> MaskScores:
    """Split every picture and score its parts (:mod:`diffeat.tasks.masks`).

    Args:
        source: A recipe that gives one map; for ``merging`` one of a diffusion model, whose self-attention is read.

    Raises:
        DatasetError: A label map does not fit its picture.
        InvalidValueError: The options do not fit the method or the recipe.
    """
    options = options or PartsOptions(**suggested(source.recipe, "parts"))
    plain = options.finding(2 if options.true_parts else None)
    read = _read(data, source, plain, one_text(options.prompts), store)
    return score_parts(data, progress(read, total=len(data), desc="parts"), options, source)


def score_parts(
    data: MaskDataset, read: Iterable[FeatureMap | Picture], options: PartsOptions, source: Source[FeatureMap]
) -> MaskScores:
    """The scores of parts by features that are read, or of the self-attention on pictures, in the data's order."""
    upsampler(options.sharpen)
    classes, counts, outlines = len(data.classes), [], []
    for sample, seen in zip(data, read, strict=True):
        truth = sample.labels(classes)
        there = len(np.unique(truth[truth != IGNORE]))
        finding = options.finding(max(1, there) if options.true_parts else None)
        maps = parts_of([seen], finding)[0] if isinstance(seen, FeatureMap) else _merged(source, seen, finding)
        labels = maps.labels(open_image(sample.image), options.sharpen).numpy()
        counts.append(mask_counts(truth, assigned(truth, labels, classes), classes))
        outlines.append(outline_counts(truth, labels))
    number = "as many as the label map shows" if options.true_parts else f"{options.parts or 'number found'}"
    return MaskScores(
        dataset=data.name,
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        classes=data.classes,
        counts=np.stack(counts),
        outlines=np.stack(outlines),
        options=options,
        what=f"parts by {options.method} ({number}; {options.sharpen}), one for each class at most, assigned by IoU in "
        "each picture",
        notes=joined(data.notes, text_notes(options.prompts, {}, source.recipe), precision_notes(source)),
    )


def _read(
    data: MaskDataset, source: Source[FeatureMap], options: PartOptions, text: str | None, store: Store
) -> Iterator[FeatureMap | Picture]:
    """What the method splits: features, or the picture whose self-attention is read."""
    if METHODS[options.method] is not None:
        check_one_map(source.recipe.name, source.map_names)
        yield from each_feature(source, [sample.image for sample in data], text, store)
        return
    for sample in data:
        picture = Picture.of(sample.image)
        yield picture if text is None else picture.told(text)


def _merged(source: Source[FeatureMap], picture: Picture, options: PartOptions) -> ScoredMaps:
    if not isinstance(source, Extractor):
        raise InvalidValueError("Merging reads the self-attention of a diffusion model; this recipe runs none.")
    return attention_parts(source, picture, options)


TASK = Task("parts", "label maps", PartsOptions, evaluate_parts, one_map=True)
