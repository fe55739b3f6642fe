r"""Concepts beside the text of a joint attention: they see the picture and themselves, and change nothing.

In a block that sends text and image tokens through one attention, concept tokens take the text's way a second time
(ConceptAttention, Helbling et al. 2025): the text's norms, modulation, projections and feed-forward. Their queries meet
keys and values of [concepts, image], those of the image from the run itself; the image and the text never see concepts,
so the picture's stream is that of a run without them, bit for bit. With o the rows of attention outputs, heads side by
side, before any output projection, a concept c scores at an image token i

.. math:: s_{ci} = \langle o_c, o_i \rangle .

The block's own code is called for this with the concepts as its text and one image token in place of the picture; its
attention is answered with the recorded keys and values. So no matrix between image tokens is made, and what a family's
block does to its text need not be known here. Concepts stand where the first text token stands.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.activations.attention import FirstAttention
from diffeat.activations.names import bare_denoiser, compile_pattern, is_pattern
from diffeat.activations.taps import Stop
from diffeat.backbones import TokenLayout, layout_of
from diffeat.backbones.sharing import Hooks, shared
from diffeat.errors import InvalidValueError, TapError, UnknownNameError, did_you_mean

_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")

#: Whose attention gives the image rows of scores: the text's, as the picture really went, or the concepts'.
Beside = Literal["text", "concepts"]


@dataclass(frozen=True)
class ConceptRule:
    """How concepts go through a class of denoiser.

    Attributes:
        stack: Its blocks with a text stream of their own.
        embed: Children that bring text to the blocks' width, one after the other.
        pooled: Of the pooled text in the modulation of concepts: ``"zeros"`` or that of the ``"prompt"``.
        beside: As published.
        unit: Whether concept rows are published with length 1.
    """

    stack: str = "transformer_blocks"
    embed: tuple[str, ...] = ("context_embedder",)
    pooled: Literal["zeros", "prompt"] = "prompt"
    beside: Beside = "text"
    unit: bool = False


#: By class of denoiser; another family is a line here.
CONCEPTS: dict[str, ConceptRule] = {
    "FluxTransformer2DModel": ConceptRule(pooled="zeros"),
    "Flux2Transformer2DModel": ConceptRule(),
    "ChromaTransformer2DModel": ConceptRule(),
    "SD3Transformer2DModel": ConceptRule(beside="concepts", unit=True),
    "AuraFlowTransformer2DModel": ConceptRule("joint_transformer_blocks"),
    "QwenImageTransformer2DModel": ConceptRule(embed=("txt_norm", "txt_in")),
}


def concept_rule(denoiser: Any) -> ConceptRule:
    """The rule of a denoiser; refused where no blocks with a text stream of their own are known."""
    kind = type(bare_denoiser(denoiser)).__name__
    if kind not in CONCEPTS:
        raise InvalidValueError(
            f"A {kind} has no text stream that concepts could go beside. Those that have: {', '.join(CONCEPTS)}. "
            "Word maps of its text attention are there: leave out --concepts."
        )
    return CONCEPTS[kind]


@dataclass(frozen=True)
class ConceptRows:
    """A block's attention outputs before any projection, heads side by side.

    Attributes:
        name: Of the block.
        concepts: Of the concepts, (B, c, D).
        image: Of the image tokens, row by row, (B, n, D).
        stream: The concepts' residual stream that leaves the block; ``None`` of a block whose text ends there.
        grid: Rows and columns of the image tokens.
    """

    name: str
    concepts: Float[Tensor, "b c d"] = field(repr=False)
    image: Float[Tensor, "b n d"] = field(repr=False)
    stream: Float[Tensor, "b c e"] | None = field(repr=False)
    grid: tuple[int, int]

    def scores(self, unit: bool = False) -> Float[Tensor, "b c h w"]:
        """Scalar products of both, no scale; with ``unit`` concept rows have length 1."""
        rows = torch.nn.functional.normalize(self.concepts, dim=-1) if unit else self.concepts
        return (rows @ self.image.transpose(1, 2)).unflatten(2, self.grid)


def concept_blocks(denoiser: Any, layers: Sequence[str] | None = None) -> list[str]:
    """Names of the blocks that concepts can go through, or of those asked for by name or glob."""
    stack = concept_rule(denoiser).stack
    there = [f"{stack}.{k}" for k in range(len(bare_denoiser(denoiser).get_submodule(stack)))]  # pyright: ignore
    asked = [compile_pattern(name) if is_pattern(name) else re.compile(re.escape(name)) for name in layers or ()]
    for name, form in zip(layers or (), asked, strict=True):
        if not any(form.fullmatch(block) for block in there):
            raise UnknownNameError(f"Concepts go through no block {name!r}. {did_you_mean(name, there)}".rstrip())
    return [block for block in there if not asked or any(form.fullmatch(block) for form in asked)]


def read_concepts(
    denoiser: Any,
    concepts: Float[Tensor, "b c t"],
    use: Callable[[ConceptRows], None],
    *,
    layers: Sequence[str] | None = None,
    pooled: Tensor | None = None,
    beside: Beside = "text",
    stop: bool = True,
    **inputs: Any,
) -> Any:
    """One forward pass with concepts beside the text.

    Args:
        denoiser: A denoiser of a class in :data:`CONCEPTS`, or what holds one.
        concepts: Their embeddings, as the text's in the denoiser's arguments.
        use: Is given the rows of every wanted block while it runs.
        layers: Blocks; all if not given.
        pooled: Pooled text of the concepts' modulation; by default zeros or the prompt's, as the family's rule says.
        beside: ``"concepts"`` takes image rows of [concepts, image] attention instead of those of the run.
        stop: Whether the forward pass ends after the last block asked for.
        **inputs: What ``denoiser.forward`` takes.

    Returns:
        What the denoiser gives; ``None`` where it was ended.

    Raises:
        InvalidValueError: As :func:`concept_rule`, or no concepts.
        TapError: A block made no fused attention call.
    """
    network = bare_denoiser(denoiser)
    wanted = concept_blocks(network, layers)
    if concepts.shape[1] == 0:
        raise InvalidValueError("Give at least one concept.")
    track = _Track(network, concepts, use, wanted, pooled, beside, stop)
    with shared(network), track.hooks.acting():
        try:
            return network(**inputs)
        except Stop as stopped:
            if stopped.owner is not track:
                raise
            return None
        finally:
            track.hooks.remove()


class _Recorded(FirstAttention):
    """Keeps queries, keys, values and output of the first fused attention call."""

    call: dict[str, Any] | None = None
    output: Tensor | None = None

    def _meet(self, func: Any, *args: Any, **kwargs: Any) -> Tensor | None:
        self.call = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
        self.output = func(*args, **kwargs)
        return self.output


class _Answered(FirstAttention):
    """Answers the first fused attention call of the concepts with the image's recorded keys and values."""

    concepts: Tensor | None = None
    image: Tensor | None = None

    def __init__(self, recorded: dict[str, Any], image: slice, count: int, image_first: bool, beside: Beside) -> None:
        super().__init__()
        self._recorded, self._image, self._count = recorded, image, count
        self._image_first, self._beside = image_first, beside

    def _meet(self, func: Any, *args: Any, **kwargs: Any) -> Tensor:
        call = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs, "attn_mask": None}
        own = slice(-self._count, None) if self._image_first else slice(self._count)
        for name in ("key", "value"):
            call[name] = torch.cat([call[name][:, :, own], self._recorded[name][:, :, self._image]], dim=2)
        query = call.pop("query")
        answer: Tensor = func(query[:, :, own], **call)
        self.concepts = answer
        if self._beside == "concepts":
            self.image = func(self._recorded["query"][:, :, self._image], **call)
        output = torch.zeros_like(query)
        output[:, :, own] = answer
        return output


class _Track:
    """The concepts' way through the blocks."""

    def __init__(
        self,
        denoiser: nn.Module,
        concepts: Tensor,
        use: Callable[[ConceptRows], None],
        wanted: Sequence[str],
        pooled: Tensor | None,
        beside: Beside,
        stop: bool,
    ) -> None:
        self.hooks = Hooks()
        self._denoiser, self._use, self._wanted = denoiser, use, set(wanted)
        self._last, self._stop = wanted[-1], stop
        self._beside: Beside = beside
        self._pooled = pooled
        self._rule = concept_rule(denoiser)
        self._raw, self._stream = concepts, None
        self._layout: TokenLayout | None = None
        self._temb: Tensor | None = None
        self._aside = False
        self._recorded = _Recorded()
        self._arguments: dict[str, Any] = {}
        self.hooks.before(self._denoiser, self._begin)
        embed = getattr(self._denoiser, "time_text_embed", None)
        if isinstance(embed, nn.Module) and (self._pooled is not None or self._rule.pooled == "zeros"):
            self.hooks.after(embed, lambda args, kwargs, _: self._modulate(embed, args, kwargs))
        blocks = self._denoiser.get_submodule(self._rule.stack)
        for k, block in enumerate(blocks.children()):
            self.hooks.before(block, lambda args, kwargs, block=block: self._see(block, args, kwargs))
            self.hooks.around(block.get_submodule("attn"), self._record)
            name = f"{self._rule.stack}.{k}"
            self.hooks.after(block, lambda _, __, ___, name=name, block=block: self._follow(name, block))
            if name == self._last:
                break

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = inspect.signature(self._denoiser.forward).bind_partial(*args, **kwargs).arguments
        self._layout = layout_of(self._denoiser, call)

    def _modulate(self, embed: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The modulation of concepts: that of the run with another pooled text, its last argument."""
        if self._aside:
            return
        pooled = torch.zeros_like(args[-1]) if self._pooled is None else self._pooled.to(args[-1])
        self._aside = True
        self._temb = embed(*args[:-1], pooled, **kwargs)
        self._aside = False

    def _record(self) -> FirstAttention:
        if self._aside:
            return FirstAttention()
        self._recorded = _Recorded()
        return self._recorded

    def _see(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._aside:
            self._arguments = dict(inspect.signature(block.forward).bind(*args, **kwargs).arguments)

    def _follow(self, name: str, block: nn.Module) -> None:
        if self._aside or self._layout is None:
            return
        recorded, rows = self._recorded.call, self._recorded.output
        if recorded is None or rows is None:
            raise TapError(
                f"{name}: its attention made no call of scaled_dot_product_attention, so concepts cannot be followed."
            )
        if self._stream is None:
            self._stream = self._raw
            for child in self._rule.embed:
                self._stream = self._denoiser.get_submodule(child)(self._stream)
        layout, count = self._layout, self._stream.shape[1]
        start = layout.starts(rows.shape[2], rows.shape[0])[0]
        image = slice(start, start + layout.tokens)
        answer = _Answered(recorded, image, count, layout.image_first, self._beside)
        self._aside = True
        try:
            with answer:
                output = block(**self._beside_arguments(count, layout))
        finally:
            self._aside = False
        self._stream = output[0]
        if name in self._wanted and answer.concepts is not None:
            of_image = rows[:, :, image] if answer.image is None else answer.image
            concepts, pictures = (r.transpose(1, 2).flatten(2) for r in (answer.concepts, of_image))
            self._use(ConceptRows(name, concepts, pictures, self._stream, layout.grid))
        if name == self._last and self._stop:
            raise Stop(self)

    def _beside_arguments(self, count: int, layout: TokenLayout) -> dict[str, Any]:
        """The block's own arguments with the concepts as text and one image token as picture."""
        call = dict(self._arguments)
        call["hidden_states"], call["encoder_hidden_states"] = call["hidden_states"][:, :1], self._stream
        for mask in ("attention_mask", "encoder_hidden_states_mask", "modulate_index"):
            if mask in call:
                call[mask] = None
        if self._temb is not None:
            call["temb"] = self._temb
        rotary = call.get("image_rotary_emb")
        if rotary is not None:
            call["image_rotary_emb"] = _rotary(rotary, count, layout)
        return call


def _rotary(rotary: tuple[Tensor, Tensor], count: int, layout: TokenLayout) -> tuple[Tensor, Tensor]:
    """For ``count`` concepts at the first text token's place and the first image token."""
    one, other = rotary
    if len(one) == len(other) == layout.joint and layout.text:  # cosines and sines of [text, image]
        rows = [0] * count + [layout.text]
        return one[rows], other[rows]
    return one[:1], other[[0] * count]  # of the image, of the text
