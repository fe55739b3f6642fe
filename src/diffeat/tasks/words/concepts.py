"""Concept saliency: words of a picture by concepts beside the text, whose rows meet the picture's in the attention's
output space (:mod:`diffeat.activations.concepts`).

A word is encoded by itself; its embedding is the mean over its tokens, found by the tokenizer's own offsets. The
published codes take the first token, so that a word of several is represented by its beginning (``tokens="first"``).
Maps are shares among the words given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.activations.concepts import Beside, ConceptRows, concept_blocks, concept_rule, read_concepts
from diffeat.ambient import neutral
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor
from diffeat.extraction.attending import check_attending, frame_of, passes
from diffeat.features import ImageLike, Picture
from diffeat.tasks.scored import ScoredMaps, of_one_colour
from diffeat.tasks.words.layers import preset_of
from diffeat.tasks.words.maps import checked_words

#: How scores of layers become maps: shares of the concepts in each layer, averaged; shares of the averaged scores; or
#: the averaged scores.
Order = Literal["softmax_then_mean", "mean_then_softmax", "none"]


def saliency(
    layers: Sequence[Float[Tensor, "b c h w"]], order: Order = "softmax_then_mean", temperature: float = 1.0
) -> Float[Tensor, "b c h w"]:
    """Maps of concepts from their scores in each layer and pass.

    The published pipelines of FLUX.1 and SD3 take the softmax first, that of FLUX.2 the mean, with temperature 1000.
    The published class on stock diffusers takes the softmax over places instead of concepts, which this does not do.

    Raises:
        InvalidValueError: No layers, another order, or a temperature that is not positive.

    Example:
        >>> saliency([torch.zeros(1, 2, 1, 1)]).flatten().tolist()
        [0.5, 0.5]
    """
    if not layers or temperature <= 0:
        raise InvalidValueError(f"Saliency takes scores of layers and a temperature above 0, not {temperature:g}.")
    if order == "softmax_then_mean":
        return torch.stack([(scores / temperature).softmax(1) for scores in layers]).mean(0)
    mean = torch.stack(list(layers)).mean(0)
    if order == "mean_then_softmax":
        return (mean / temperature).softmax(1)
    if order != "none":
        raise InvalidValueError(f"order is softmax_then_mean, mean_then_softmax or none, not {order!r}.")
    return mean


@dataclass(frozen=True)
class ConceptOptions:
    """How concept saliency is made.

    Attributes:
        prompt: Text that the picture is denoised under, as it is; the recipe's own if not given.
        layers: Ids or globs of blocks; those published for the family if not given, else all with a text stream.
        tokens: Of a word's embedding: the mean of its ``"span"``, or ``"first"`` as published.
        beside: Image rows of the run (``"text"``), or of attention beside concepts, as published for SD3
            (``"concepts"``).
        order: See :func:`saliency`.
        temperature: Of the softmax.
        unit: Whether concept rows have length 1, as published for SD3.
        background: Words that stand for everything else; their places belong to nothing.
    """

    prompt: str | None = None
    layers: tuple[str, ...] = ()
    tokens: Literal["span", "first"] = "span"
    beside: Beside = "text"
    order: Order = "softmax_then_mean"
    temperature: float = 1.0
    unit: bool = False
    background: tuple[str, ...] = ()


@neutral()
def concept_maps(
    picture: ImageLike, words: Sequence[str], source: Extractor, options: ConceptOptions | None = None
) -> ScoredMaps:
    """How much each place of a picture belongs to each of several concepts, on a joint-attention transformer.

    Args:
        picture: Path, array, tensor, PIL image or :class:`~diffeat.features.Picture`.
        words: Words or phrases.
        source: Runs a recipe of such a model; its timesteps and draws are averaged.

    Raises:
        UnknownNameError: A block that concepts do not go through.
        InvalidValueError: No words or too many, one alone, one that is the rest as well or lies beyond the model's
            text, a model without a text stream, or a recipe that walks or has techniques.
    """
    check_attending(source.recipe)
    options, recipe, backbone = options or ConceptOptions(), source.recipe, source.backbone
    wanted = checked_words(words)
    everything = checked_words([*wanted, *options.background])
    concept_rule(backbone)
    if len(everything) < len(wanted) + len(options.background):
        raise InvalidValueError(
            f"A word stands for the rest as well, or twice for the rest: {', '.join(options.background)}."
        )
    if len(everything) == 1 and options.order != "none":
        raise InvalidValueError(
            f"Maps are shares, and {wanted[0]!r} alone has all of every place: give another word, or one for the rest "
            "(--rest ground)."
        )
    layers = concept_blocks(backbone, options.layers or preset_of(backbone).blocks)
    picture = Picture.of(picture)
    scores: list[Tensor] = []

    def keep(rows: ConceptRows) -> None:
        scores.append(rows.scores(options.unit).float().cpu())

    text = recipe.text_for(picture.text) if options.prompt is None else options.prompt
    with torch.no_grad(), backbone.ready():
        embedded = torch.stack([embedding(backbone, word, options.tokens) for word in everything])[None]
        for inputs in passes(recipe, backbone, picture, text):
            read_concepts(backbone, embedded, keep, layers=layers, beside=options.beside, **inputs)
    maps = saliency(scores, options.order, options.temperature)[0]
    if options.background:
        rest = maps[len(wanted) :].amax(0)
        maps = maps[: len(wanted)] - rest
    notes = (
        f"text: {text}",
        f"concepts beside the text in {len(layers)} blocks, {len(scores) // len(layers)} passes",
        f"{options.order}: " + ("shares among the words given" if options.order != "none" else "scores as they are"),
        *of_one_colour(picture.image),
    )
    frame = frame_of(recipe, backbone, picture)
    return ScoredMaps(tuple(wanted), maps, frame, picture.name, notes, 0.0 if options.background else None)


def embedding(backbone: Backbone, word: str, tokens: Literal["span", "first"] = "span") -> Float[Tensor, " t"]:
    """A word's text embedding, as the denoiser's argument has it.

    Raises:
        InvalidValueError: The word lies beyond the tokens that the model reads.
    """
    text = backbone.condition([word]).arguments()["encoder_hidden_states"]
    rows = text[0] if isinstance(text, Tensor) else text
    places = backbone.token_index(word, word)
    return rows[places[:1] if tokens == "first" else places].mean(0)
