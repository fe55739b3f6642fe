"""What a training of a dense head needs before its first step; everything that can be refused is refused here."""

from __future__ import annotations

import torch
from PIL import Image

from diffeat.ambient import seeded
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Recipe
from diffeat.features import FeatureMap, Picture, Source
from diffeat.geometry import Frame, open_image
from diffeat.progress import Progress, silent
from diffeat.tasks.dense import DenseNetwork, Layout, maps_apart
from diffeat.tasks.dense.options import DenseOptions
from diffeat.tasks.dense.tuned import Tuned, tuned_of
from diffeat.tasks.predictors.target import Legend
from diffeat.tasks.predictors.windows import Windows
from diffeat.training.heads.examples import Examples, size_of
from diffeat.training.heads.truth import Data, Truth

_USUAL = 512  # pixels of a square where a source does not tell


def check_alike(data: Data, validation: Data | None) -> list[str]:
    """Refuse validation pictures of another kind or of other classes; gives what a reader must know of them."""
    if validation is None:
        return []
    classes, others = getattr(data, "classes", ()), getattr(validation, "classes", ())
    if type(data) is not type(validation) or getattr(data, "quantity", "") != getattr(validation, "quantity", ""):
        raise InvalidValueError(f"{validation.name} holds something else than {data.name}; it cannot be chosen on.")
    Legend(classes).check(others, f"{validation.name} {validation.split}".strip())
    both = {s.image for s in data} & {s.image for s in validation}
    return [f"{len(both)} of {len(validation)} validation pictures were learned from as well"] if both else []


def check_files(data: Data, truth: Truth | None = None, progress: Progress = silent) -> None:
    """Open every picture, and read what is known of it, before a step is taken that would come upon a damaged file."""
    for sample in progress(data, total=len(data), desc=f"check {data.split or 'pictures'}"):
        open_image(sample.image)
        if truth is not None:
            truth.read(sample)


def shown(source: Source[FeatureMap], data: Data, options: DenseOptions) -> tuple[DenseOptions, int | None]:
    """The options with the crop that is meant, and the side of a crop in pixels; ``None`` for whole pictures."""
    crop = options.crop
    if crop is None:
        sizes = {size_of(sample.image) for sample in data}
        wide, tall = (frame_of(source, size) for size in ((320, 240), (240, 320)))
        fixed = len(sizes) == 1 or (wide is not None and tall is not None and wide.model == tall.model)
        crop = "whole" if fixed and options.jitter == (1, 1) else "square"
    options = DenseOptions(**{**options.model_dump(exclude_unset=True), "crop": crop})
    if crop == "whole":
        return options, None
    if isinstance(crop, int):
        return options, crop
    frame = frame_of(source, (_USUAL, _USUAL))
    return options, _USUAL if frame is None else (frame.load or frame.model)[0]


def frame_of(source: Source[FeatureMap], size: tuple[int, int]) -> Frame | None:
    """Where a picture of a size lies in the model's image; ``None`` where a source does not tell."""
    frames = source.group(Picture.of(Image.new("RGB", size))).frames
    return frames[0] if frames else None


def windows_of(side: int | None, options: DenseOptions) -> Windows | None:
    """How pictures are predicted: as they were learned from."""
    if side is None:
        return None
    return Windows(size=None if options.crop == "square" else (side, side), stride=options.stride, blend=options.blend)


def network_of(
    source: Source[FeatureMap], examples: Examples, truth: Truth, prompt: str | None
) -> tuple[DenseNetwork, Tuned | None]:
    """The network over the maps of the first example, and what is tuned."""
    recipe, options = source.recipe, examples.options
    if not isinstance(recipe, Recipe) or maps_apart(recipe) != recipe:
        raise InvalidValueError(f"Recipe {recipe.name!r} joins its maps; a head takes them apart: maps_apart(recipe).")
    if options.learn_text and prompt is not None:
        raise InvalidValueError("A text that is learned starts as the recipe's own: leave the prompt out.")
    if options.tunes and isinstance(source, Extractor) and source.backbone.dtype != torch.float32:
        raise InvalidValueError("A model is tuned in float32: load it with dtype float32 (--dtype float32).")
    (example,) = source.extract(examples[0].picture(), prompt)
    layout = Layout.of(recipe, example, options.mix == "weights")
    with seeded(options.seed):
        network = DenseNetwork(layout, truth.outputs, options.architecture)
    if truth.start is not None:
        network.decoder.begin_at(truth.start)
    network.to(next(iter(example.activations.values())).device)
    tuned = tuned_of(source, options.tune, options.rank, options.learn_text, options.seed) if options.tunes else None
    return network, tuned


def with_gradients(source: Source[FeatureMap]) -> Extractor:
    """The source of a model that is tuned: its maps carry gradients, and activations are made anew for them."""
    assert isinstance(source, Extractor)
    enable = getattr(source.backbone.denoiser, "enable_gradient_checkpointing", None)
    if enable is not None:
        enable()
    return Extractor(source.recipe, source.backbone, batch_size=source.batch_size, grad=True)
