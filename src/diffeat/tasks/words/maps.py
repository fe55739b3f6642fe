r"""Where a model's attention to its text puts words in a picture.

The picture is noised and denoised once for every timestep and draw of a recipe, with the words in the text. A layer
gives a word the map

.. math:: m(i) = \frac{1}{|W|} \sum_{j \in W} P_{ij}

of the probabilities P of image tokens i over the word's tokens W, found by the tokenizer's own offsets, mean over
heads. P is normalised over all tokens that the layer looks at, in joint attention those of the image too. Layers come
bilinearly to the finest grid and are averaged, then passes. The published way (DAAM, Tang et al. 2023) enlarges
bicubically, cuts what is negative and lets every head count the same, so that layers of more heads count more
(``resize="bicubic"``, ``weigh="heads"``).

*Refining* takes, at each place, the mean of the maps over where the model's self-attention of the same grid looks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError, clipped
from diffeat.extraction import Extractor, Reading
from diffeat.extraction.attending import check_attending, frame_of, passes
from diffeat.features import ImageLike, Picture
from diffeat.tasks.parts.find import self_attentions
from diffeat.tasks.scored import ScoredMaps, of_one_colour
from diffeat.tasks.words.layers import choose_layers, preset_of

#: Words that one call takes.
MOST_WORDS = 200
Normalise = Literal["range", "words", "none"]
_UNSEEN = re.compile(r"[\s\x00-\x1f\x7f]+")
_SAID: dict[Normalise, str] = {
    "range": "each word's map is stretched to 0…1 over the picture, so heights of different words cannot be compared",
    "words": "maps are shares among the words given, so they depend on which words are given",
    "none": "maps are attention probabilities as they are; frequent tokens are high everywhere",
}


@dataclass(frozen=True)
class WordOptions:
    """How word maps are made.

    Attributes:
        prompt: Text that holds the words, not through the recipe's template; made of the words if not given.
        layers: Ids or globs of attentions, with ``[3]`` at the end only head 3; by default those that the
            recipe has for the task ``words``, else those of the model's or its family's preset.
        refine: Products with the self-attention.
        normalise: ``"range"``, ``"words"`` or ``"none"``; what it means is among the notes of a result.
        apart: Whether each word has a text, and passes, of its own.
        background: Height (0…1) above which a place belongs to a word; ``None`` gives every place the highest word.
        resize: To the finest grid.
        weigh: What counts the same.
    """

    prompt: str | None = None
    layers: tuple[str, ...] = ()
    refine: int = 0
    normalise: Normalise = "range"
    background: float | None = 0.5
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    weigh: Literal["layers", "heads"] = "layers"
    apart: bool = False

    def __post_init__(self) -> None:
        if self.normalise not in _SAID:
            raise InvalidValueError(f"normalise is one of {', '.join(_SAID)}, not {self.normalise!r}.")
        if not 0 <= self.refine <= 10:
            raise InvalidValueError(f"Maps are refined 0 to 10 times, not {self.refine}.")
        if self.background is not None and not 0 <= self.background <= 1:
            raise InvalidValueError(f"Word maps lie between 0 and 1, and so does background, not {self.background:g}.")


@neutral()
def words(
    picture: ImageLike, words: Sequence[str], source: Extractor, options: WordOptions | None = None
) -> ScoredMaps:
    """Where each word is in a picture.

    Args:
        picture: Path, array, tensor, PIL image or :class:`~diffeat.features.Picture`.
        words: Words or phrases.
        source: Runs a recipe of a diffusion model; its timesteps and draws are averaged.

    Raises:
        UnknownNameError: A word that the prompt does not have, or a layer or head that the model does not have.
        InvalidValueError: A single head is refined, no words or too many, a word beyond the model's text, a model
            without text attention, or a recipe that walks or has techniques.
    """
    options = options or WordOptions()
    return words_by_layer(picture, words, source, {"": options.layers}, options)[""]


@neutral()
def words_by_layer(
    picture: ImageLike,
    words: Sequence[str],
    source: Extractor,
    choices: Mapping[str, Sequence[str]],
    options: WordOptions | None = None,
) -> dict[str, ScoredMaps]:
    """As :func:`words`, by several choices of layers at once: the model runs as often as for one.

    Args:
        choices: Layers under a name each, in place of those of the options.
    """
    options, wanted, picture = options or WordOptions(), checked_words(words), Picture.of(picture)
    check_attending(source.recipe)
    own = source.recipe.tasks.get("words", {}).get("layers", ())
    chosen = {key: choose_layers(source.backbone, layers or own) for key, layers in choices.items()}
    if options.refine:  # a preset's layers are taken whole
        chosen = {key: layers if choices[key] or own else dict.fromkeys(layers) for key, layers in chosen.items()}
    single = {name for layers in chosen.values() for name, heads in layers.items() if heads is not None}
    if options.refine and single:
        raise InvalidValueError("Refined maps are of all heads together: take layers without a head, or refine=0.")
    everything = {name: name in single or options.weigh == "heads" for layers in chosen.values() for name in layers}
    read = read_layers(picture, wanted, source, everything, options)
    frame = frame_of(source.recipe, source.backbone, picture)
    result = {}
    for key, layers in chosen.items():
        heads = [read.maps[name] if some is None else read.maps[name][some] for name, some in layers.items()]
        maps = normalised(aggregate(heads, options.resize, options.weigh), options.normalise)
        text = " | ".join(read.texts)
        why = "" if choices[key] or own else f" ({preset_of(source.backbone).source})"
        done = f"{len(layers)} layers{why}, {read.passes} pass{'es' if read.passes > 1 else ''}"
        notes = (f"text: {text}", done, _SAID[options.normalise], *of_one_colour(picture.image))
        result[key] = ScoredMaps(tuple(wanted), maps, frame, picture.name, notes, options.background)
    return result


@dataclass(frozen=True)
class LayerMaps:
    """Maps of words by layer (heads or 1, words, h, w), mean over passes, under these texts."""

    maps: dict[str, Float[Tensor, "n k h w"]]
    texts: tuple[str, ...]
    passes: int


def read_layers(
    picture: Picture, wanted: Sequence[str], source: Extractor, layers: Mapping[str, bool], options: WordOptions
) -> LayerMaps:
    """The maps that layers give words, heads apart where asked for and nothing is refined, else their mean.

    Raises:
        DiffeatError: As :func:`words`.
    """
    recipe, backbone = source.recipe, source.backbone
    texts = _texts(recipe, wanted, options)
    spans = {text: [backbone.token_index(text, word) for word in named] for text, named in texts.items()}
    watched = [*layers, *(self_attentions(backbone) if options.refine else [])]
    parts, count = [], 0
    with torch.no_grad(), backbone.ready():
        for text, own in spans.items():
            watch = WordWatch(layers, own, options.refine)
            with AttentionTaps(backbone.denoiser, watched, watch) as taps:
                for inputs in passes(recipe, backbone, picture, text):
                    taps.run(**inputs)
                    watch.end()
            parts.append(watch.mean())
            count += watch.passes
    return LayerMaps({name: torch.cat([part[name] for part in parts], 1) for name in layers}, tuple(texts), count)


def _texts(recipe: Reading, wanted: Sequence[str], options: WordOptions) -> dict[str, list[str]]:
    """Texts that are read, with the words looked for in each."""
    if not options.apart:
        return {recipe.text_for(", ".join(wanted)) if options.prompt is None else options.prompt: [*wanted]}
    if options.prompt is not None:
        raise InvalidValueError("Words in a prompt of your own are read together; leave out the prompt, or 'apart'.")
    return {recipe.text_for(word): [word] for word in wanted}


def checked_words(words: Sequence[str]) -> list[str]:
    """Words with single blanks inside and none around them, each once, whatever its case.

    Raises:
        InvalidValueError: None, too many, or one in which nothing can be seen.
    """
    given = [_UNSEEN.sub(" ", word).strip() for word in ([words] if isinstance(words, str) else words)]
    first: dict[str, str] = {}
    for word in given:
        first.setdefault(word.casefold(), word)
    wanted = list(first.values())
    if not wanted or not all(any(letter.isprintable() for letter in word) for word in wanted):
        raise InvalidValueError("Give at least one word, and no empty one: --words cat --words sofa.")
    if len(wanted) > MOST_WORDS:
        raise InvalidValueError(
            f"{len(wanted)} words are given ({clipped(wanted[0], 20)}, …); at most {MOST_WORDS} go at once."
        )
    return wanted


class WordWatch:
    """Sums maps of words over passes while they run: what attentions that hand themselves on are used for.

    Args:
        layers: Ids of maps, and whether their heads are kept apart: kept, they take as much memory more.
        spans: Positions of each word in the text.
        refine: Products with the self-attentions that are watched, too.
    """

    def __init__(self, layers: Mapping[str, bool], spans: Sequence[Sequence[int]], refine: int = 0) -> None:
        self.passes = 0
        self._layers, self._refine = dict(layers), refine
        self._tokens = sorted({token for span in spans for token in span})
        self._share = torch.tensor([[(t in span) / len(span) for t in self._tokens] for span in spans])
        self._maps: dict[str, Tensor] = {}
        self._looks: list[Attended] = []
        self._sums: dict[str, Tensor] = {}

    def __call__(self, attended: Attended) -> Tensor:
        if attended.name in self._layers:
            apart = self._layers[attended.name] and not self._refine
            found = attended.text(self._tokens, mean_heads=not apart)[0].float()  # (heads if apart, tokens, h, w)
            heads = found if apart else found[None]
            self._maps[attended.name] = torch.einsum("wt,ntyx->nwyx", self._share.to(heads), heads)
        else:
            self._looks.append(attended)
        return torch.empty(0)

    def end(self) -> None:
        """A pass is over."""
        for name, maps in self._maps.items():
            maps = self._refined(maps[0])[None] if self._refine else maps
            self._sums[name] = self._sums[name] + maps if name in self._sums else maps
        self._maps, self._looks, self.passes = {}, [], self.passes + 1

    def mean(self) -> dict[str, Float[Tensor, "n k h w"]]:
        if not self.passes:
            raise InvalidValueError("The recipe has no timesteps.")
        return {name: (total / self.passes).cpu() for name, total in self._sums.items()}

    def _refined(self, maps: Tensor) -> Tensor:
        at = [attended for attended in self._looks if attended.grid == tuple(maps.shape[1:])]
        for _ in range(self._refine if at else 0):
            maps = torch.stack([attended.carry(maps) for attended in at]).mean(0)
        return maps


def aggregate(
    layers: Sequence[Float[Tensor, "n k h w"]],
    resize: Literal["bilinear", "bicubic"] = "bilinear",
    weigh: Literal["layers", "heads"] = "layers",
    grid: tuple[int, int] | None = None,
) -> Float[Tensor, "k h2 w2"]:
    """The mean of layers' maps, heads first in each, at the finest grid or another."""
    grid = grid or max(((m.shape[-2], m.shape[-1]) for m in layers), key=lambda g: g[0] * g[1])
    total, count = torch.zeros(1), 0
    for maps in layers:
        large = maps if tuple(maps.shape[-2:]) == grid else F.interpolate(maps, size=grid, mode=resize)
        large = large.clamp(min=0)
        total = total.to(large) + (large.mean(0) if weigh == "layers" else large.sum(0))
        count += 1 if weigh == "layers" else len(large)
    return total / count


def normalised(maps: Float[Tensor, "k h w"], how: Normalise) -> Float[Tensor, "k h w"]:
    """Maps made comparable; one that is the same everywhere becomes 0 under ``"range"``."""
    if how == "range":
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-20), 0.0)
    return maps / (maps.sum(0, keepdim=True) + 1e-6) if how == "words" else maps
