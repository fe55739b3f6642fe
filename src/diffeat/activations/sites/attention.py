"""Queries, keys and values of an attention, and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from diffeat.activations.anatomy import Node, class_name, has, is_attention, is_cross_attention
from diffeat.activations.attention import AttentionCall, AttentionWatch, MapRequest, probabilities
from diffeat.activations.grids import image_spans, text_spans
from diffeat.activations.sites.probe import (
    InputProbe,
    NoSuchSite,
    OutputProbe,
    Pass,
    Probe,
    See,
    Site,
    Stream,
    StreamProbe,
)
from diffeat.backbones import TokenLayout
from diffeat.backbones.sharing import Hooks
from diffeat.errors import InvalidValueError, TapError

Part = Literal["map", "self_map", "cross_map"]


class Projection(Site):
    """``ATTENTION.q``, ``.k`` and ``.v``: what the projections give, heads side by side."""

    kinds = ("attention-q", "attention-k", "attention-v")
    per_head = True

    def __init__(self, name: Literal["q", "k", "v"]) -> None:
        self.name = name

    def kind_at(self, node: Node) -> str | None:
        listed = node.role == "attention" and (has(node.module, f"to_{self.name}") or has(node.module, _FUSED))
        return f"attention-{self.name}" if listed else None

    def at(self, node: Node) -> OutputProbe:
        text = node.text or (self.name != "q" and is_cross_attention(node.module))
        stream: Stream = "text" if text else "image"
        if has(node.module, f"to_{self.name}"):
            return OutputProbe(f"{node.path}.to_{self.name}", stream, anchor=node.anchor)
        width = getattr(node.module, "inner_dim", None)
        if has(node.module, _FUSED) and isinstance(width, int):
            turn = "qkv".index(self.name)
            return OutputProbe(f"{node.path}.{_FUSED}", stream, columns=(turn * width, (turn + 1) * width))
        raise NoSuchSite(f"{node.path!r} is a {class_name(node.module)} without a {self.name} projection")


def head_outputs(node: Node) -> InputProbe:
    """``ATTENTION.o``: what heads give before their projection, side by side; of a joint attention that of the image.
    Catalogues do not list it: together heads say what the attention's output says.
    """
    if is_attention(node.module) and has(node.module, "to_out.0"):
        return InputProbe(f"{node.path}.to_out.0", "text" if node.text else "image", anchor=node.anchor)
    raise NoSuchSite(f"the heads of {node.path!r}, a {class_name(node.module)}, have no projection of their own")


_FUSED = "to_qkv_mlp_proj"


def of_head(node: Node, name: str, probe: StreamProbe, head: int) -> StreamProbe:
    """One head of queries, keys, values or outputs."""
    heads = getattr(node.module, "heads", None)
    queries = getattr(node.module, "to_q", None)
    width = getattr(node.module, "inner_dim", None) if queries is None else getattr(queries, "out_features", None)
    own = getattr(node.module, f"to_{name[-1]}", None)
    whole = width if own is None else getattr(own, "out_features", None)
    if not (isinstance(heads, int) and isinstance(width, int) and isinstance(whole, int)) or width % heads:
        raise NoSuchSite(f"nothing tells how wide a head of {name!r} is")
    each, start = width // heads, 0 if probe.columns is None else probe.columns[0]
    if head >= whole // each:  # fewer keys and values than queries where groups share them
        raise NoSuchSite(f"{name!r} has heads 0 to {whole // each - 1}, not {head}")
    return replace(probe, columns=(start + head * each, start + (head + 1) * each))


class Map(Site):
    """``ATTENTION.map``: all probabilities; of a joint attention also ``.self_map`` (image × image) and ``.cross_map``
    (image × text).
    """

    kinds = ("map",)
    per_head = True

    def __init__(self, name: Part) -> None:
        self.name: str = name
        self.part: Part = name

    def kind_at(self, node: Node) -> str | None:
        listed = node.role == "attention" and (self.name == "map" or node.joint)
        return "map" if listed else None

    def at(self, node: Node) -> MapProbe:
        if not is_attention(node.module):
            raise NoSuchSite(f"{node.path!r} is a {class_name(node.module)}, not an attention")
        if self.name != "map" and not node.joint:
            raise NoSuchSite(f"{node.path!r} attends to one kind of token only; ask for '{node.path}.map'")
        return MapProbe(node.path, self.part, node.anchor)


@dataclass(frozen=True)
class MapProbe(Probe):
    """Attention probabilities inside an attention module, reduced (see :class:`MapRequest`) while they are computed.

    Attributes:
        part: All of them, or a joint attention's image × image or image × text.
    """

    module: str
    part: Part
    anchor: str | None = None
    heads: Literal["mean", "all"] = "all"
    tokens: Sequence[int] | None = None
    queries: Sequence[int] | None = None

    def reduced(self, request: MapRequest) -> MapProbe:
        return replace(self, heads=request.heads, tokens=request.tokens, queries=request.queries)

    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        hooks.around(module, lambda: AttentionWatch(see) if wanted() else nullcontext())

    def value(self, name: str, seen: AttentionCall, run: Pass, last: bool) -> Tensor:
        batch, _, n, m = seen.shape
        layout = run.layout(self.anchor)
        rows, columns = [slice(None)], [slice(None)]
        if self.part != "map":
            if layout is None:
                raise TapError(f"{name!r}: nothing tells which tokens of this attention are the image")
            rows = image_spans(name, layout, n, batch)
            columns = image_spans(name, layout, m, batch) if self.part == "self_map" else text_spans(layout, m, batch)
        device = seen.query.device
        result = probabilities(
            seen,
            [_choose(name, "queries", span, n, self.queries, device) for span in rows],
            [_choose(name, "tokens", span, m, self.tokens, device) for span in columns],
            self.heads == "mean",
            run.chunk,
        )
        return result if layout is None else self._as_pictures(result, layout)

    def _as_pictures(self, result: Tensor, layout: TokenLayout) -> Tensor:
        """Queries of chosen tokens, or keys of chosen queries, laid out as pictures."""
        if self.tokens is not None and self.queries is None and result.shape[-2] == layout.tokens:
            return result.transpose(-1, -2).unflatten(-1, layout.grid).contiguous()
        if self.queries is not None and self.tokens is None and result.shape[-1] == layout.tokens:
            return result.unflatten(-1, layout.grid)
        return result

    def absence(self, denoiser: nn.Module) -> str | None:
        processor = getattr(denoiser.get_submodule(self.module), "processor", None)
        return (
            "no map exists there. The module made no call of scaled_dot_product_attention in this "
            f"forward pass (its processor is {type(processor).__name__}). Linear attention has no map at all; "
            "for sliced, xformers or eager attention first call "
            "`denoiser.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0())`."
        )


def _choose(
    name: str, what: str, span: slice, total: int, chosen: Sequence[int] | None, device: torch.device
) -> Tensor | slice:
    """Positions within a span of the sequence, as an index into the whole sequence."""
    if chosen is None:
        return span
    positions = range(total)[span]
    if max(chosen) >= len(positions):
        raise InvalidValueError(f"{name!r}: {what} up to {max(chosen)} asked for, there are {len(positions)}")
    return torch.tensor([positions[i] for i in chosen], device=device)
