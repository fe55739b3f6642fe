"""Attentions of one forward pass, each handed on as it runs: what it received, and where in it image and text lie.

An attention's matrix between image tokens alone has as many entries as there are pairs of them. Whoever is handed an
:class:`Attended` takes from it what is wanted a few rows at a time: columns of text, rows of chosen places, or the
product with maps of the image. Queries and keys are all that has to be kept for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.activations.attention import AttentionCall, probabilities
from diffeat.activations.grids import image_spans, text_spans
from diffeat.activations.sites.attention import MapProbe
from diffeat.activations.taps import Tap, Taps
from diffeat.backbones import TokenLayout
from diffeat.errors import InvalidValueError, TapError

#: Logits to text alone that are held at a time (1 MiB in float32): five words of SD 1.5's 16 cross-attentions at 512 px
#: then take less than a twentieth of what their probabilities would.
TEXT_CHUNK = 2**18


@dataclass(frozen=True)
class Attended:
    """One attention that ran.

    Attributes:
        name: Of its map, as it was asked for.
        call: What it received.
        grid: Rows and columns of its image tokens.
        chunk: The most logits to hold at a time.
    """

    name: str
    call: AttentionCall
    layout: TokenLayout
    joint: bool
    chunk: int

    @property
    def grid(self) -> tuple[int, int]:
        return self.layout.grid

    def text(self, tokens: Sequence[int], mean_heads: bool = True) -> Float[Tensor, "b *heads k h w"]:
        """How much every place attends to text tokens, each row of the softmax over all keys.

        Args:
            tokens: Positions in the text sequence.

        Raises:
            InvalidValueError: There are fewer tokens.
        """
        batch, _, n, m = self.call.shape
        spans = text_spans(self.layout, m, batch) if self.joint else [slice(0, m)]
        columns = [
            torch.tensor([range(m)[span][t] for t in tokens], device=self._device)
            for span in self._checked(spans, m, tokens)
        ]
        chunk = self.chunk if self.joint else min(self.chunk, TEXT_CHUNK)
        found = probabilities(self.call, self._image(n, batch), columns, mean_heads, chunk)
        return found.transpose(-1, -2).unflatten(-1, self.grid)

    def rows(self, places: Tensor) -> Float[Tensor, "b q n"]:
        """Where places (row-major numbers) look in the image, mean over heads; of a joint attention renormalised."""
        batch, _, n, m = self.call.shape
        queries = [torch.arange(n, device=self._device)[span][places] for span in self._image(n, batch)]
        found = probabilities(self.call, queries, self._image(m, batch), True, self.chunk)
        return found / found.sum(-1, keepdim=True).clamp(min=1e-12) if self.joint else found

    def carry(self, maps: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """Every place takes the mean of maps over where it looks; the matrix is made a few rows at a time."""
        flat, strips = maps.flatten(1).T, []
        for places in torch.arange(len(flat), device=self._device).split(max(1, self.chunk // len(flat))):
            strips.append(self.rows(places)[0].to(flat.dtype) @ flat)
        return torch.cat(strips).T.unflatten(1, self.grid)

    @property
    def _device(self) -> torch.device:
        return self.call.query.device

    def _image(self, length: int, batch: int) -> list[slice]:
        return image_spans(self.name, self.layout, length, batch)

    def _checked(self, spans: Sequence[slice], length: int, tokens: Sequence[int]) -> Iterator[slice]:
        for span in spans:
            there = len(range(length)[span])
            if max(tokens) >= there:
                raise InvalidValueError(f"{self.name!r}: token {max(tokens)} is asked for, there are {there} of text.")
            yield span


class AttentionTaps(Taps):
    """Taps on attention maps that hand each attention on instead of making its matrix.

    Args:
        denoiser: Network, pipeline or backbone.
        maps: Ids of maps; of a joint attention ``.cross_map`` or ``.self_map``.
        use: What to do with each; what it returns is what :meth:`run` gives under the id.
        stop: Whether the forward pass ends after the last of them.
    """

    def __init__(
        self, denoiser: Any, maps: Sequence[str], use: Callable[[Attended], Tensor], stop: bool = True
    ) -> None:
        super().__init__(denoiser, maps, stop=stop)
        self._use = use
        for tap in self._taps:
            if not isinstance(tap.probe, MapProbe):
                raise InvalidValueError(f"{tap.name!r} is no attention map.")

    def _see(self, tap: Tap, seen: Any) -> None:
        self._deliver(tap, lambda last: self._use(self._attended(tap, seen)))

    def _attended(self, tap: Tap, seen: AttentionCall) -> Attended:
        layout = self.layout(tap.probe.anchor)
        if layout is None:
            raise TapError(f"{tap.name!r}: nothing tells which tokens of this attention are the image")
        joint = isinstance(tap.probe, MapProbe) and tap.probe.part != "map"
        return Attended(tap.name, seen, layout, joint, self.chunk)
