"""The candidate rules of Generic Diffusion Feature, from names alone.

Meng et al. (NeurIPS 2024, sections 4 and 5, appendices A, D, E) start from a pool of activations and drop kinds of
them after looking at pictures. Their tables list what was left: 63 of 279 on SDXL, 33 of 197 on Stable Diffusion 1.5.
The rules below give exactly these lists from the ``gdf:`` names of a UNet, and carry over to other UNets. They follow
three properties:

* *asymmetric diffusion noise* rejects the down and middle stages and the late up stage,
* *in-resolution granularity* rejects nothing by itself; the coarsest level without attention has too few cells,
* *locality without positional embeddings* rejects self-attention, except where it holds off the noise late in the up
  stage.

The pool of networks with one block per transformer (Stable Diffusion 1.5) is everything; of deeper ones (SDXL) no maps,
no self-attention values, no input and output, and of each transformer the first two blocks and every second one after.
Keys and values of cross-attention are tokens of the text and never count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from diffeat.errors import InvalidValueError

_NAME = re.compile(
    r"(?:gdf:)?(?:(?P<side>down|up)-level(?P<level>\d+)|(?P<outer>mid|unet))-(?:repeat(?P<repeat>\d+)-)?"
    r"(?:vit-block(?P<block>\d+)-|vit-(?=out))?(?P<tail>.+)"
)
_INCREMENTS = ("res-increment", "ffn-inner", "self-v", "downsampler-increment", "upsampler-increment")


@dataclass(frozen=True)
class Verdict:
    """What a rule set says of one activation.

    Attributes:
        reasons: ``(property, reason)`` of every rule it breaks; empty if it is kept.
    """

    kept: bool
    reasons: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "kept" if self.kept else "; ".join(f"{name}: {reason}" for name, reason in self.reasons)


@dataclass(frozen=True)
class Name:
    """A ``gdf:`` name taken apart.

    Attributes:
        side: ``down``, ``up``, ``mid`` or ``unet``.
        level: Of the stage, 0 first in execution; -1 where there is none.
        repeat: Within the level; -1 for samplers.
        tail: What is read: ``res-out``, ``out`` (of a transformer or block), ``self-q``, ``cross-q``, ``ffn-inner``,
            ``upsampler-out`` …
        block: Of the transformer; -1 outside blocks.
    """

    side: str
    level: int
    repeat: int
    tail: str
    block: int

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The parts of a UNet's name (with or without ``gdf:``), or ``None`` for other names."""
        parts = _NAME.fullmatch(text)
        if parts is None:
            return None
        level, repeat, block = (-1 if parts[key] is None else int(parts[key]) for key in ("level", "repeat", "block"))
        return cls(parts["side"] or parts["outer"], level, repeat, parts["tail"], block)


class _Layout:
    """What the rules need to know of a UNet: which levels of the up stage have transformers, and where late begins."""

    def __init__(self, names: Sequence[Name]) -> None:
        up = [n for n in names if n.side == "up"]
        self.attention = sorted({n.level for n in up if n.block >= 0})
        if not self.attention:
            raise InvalidValueError(
                "The rule set 'paper' is for UNets with attention in the up stage; these names have none. "
                "Use the rule set 'measured'."
            )
        self.finest = max(n.level for n in up)
        self._last = max((n.repeat for n in up if n.level == self.finest - 1), default=-1)
        self.deep = any(n.block > 0 for n in names)

    def late(self, name: Name) -> bool:
        """Later half of the up stage: the finest level, and the last repeat of the level before it."""
        return name.level == self.finest or (name.level == self.finest - 1 and name.repeat == self._last)

    def in_pool(self, name: Name) -> bool:
        """Whether the paper looks at an activation."""
        if not self.deep:
            return True
        left_out = name.side == "unet" or name.tail.endswith("-map") or name.tail == "self-v"
        return not left_out and (name.block < 2 or name.block % 2 == 1)


#: Property, reason, and whether an activation of a UNet is rejected for it; the first that does is told.
_RULES: tuple[tuple[str, str, Callable[[Name, _Layout], bool]], ...] = (
    ("kind", "attention maps and tokens are no map of features", lambda n, _: n.tail.endswith("-map")),
    ("noise", "input and output of the network are noise for the most part", lambda n, _: n.side == "unet"),
    ("noise", "increments carry high-frequency noise", lambda n, _: n.tail in _INCREMENTS),
    ("noise", "the down stage carries the diffusion noise", lambda n, _: n.side == "down"),
    ("noise", "the middle stage lies before the noise is gone", lambda n, _: n.side == "mid"),
    ("granularity", "the coarsest level has too few cells", lambda n, u: n.level < u.attention[0]),
    (
        "noise",
        "the noise returns at the finest level, and no self-attention there holds it off",
        lambda n, u: n.level not in u.attention,
    ),
    (
        "granularity",
        "an upsampler repeats its level, except before the last level with attention",
        lambda n, u: n.tail == "upsampler-out" and n.level + 1 != u.attention[-1],
    ),
    (
        "noise",
        "the noise returns at the finest level",
        lambda n, u: n.level == u.finest and n.tail not in ("self-q", "self-k"),
    ),
    (
        "locality",
        "self-attention without positional embedding follows the place, not the content",
        lambda n, u: n.tail in ("self-q", "self-k") and not u.late(n),
    ),
    (
        "locality",
        "self-attention queries are left out where the finest level has no attention",
        lambda n, u: n.tail == "self-q" and u.finest not in u.attention,
    ),
)


def paper_verdicts(names: Iterable[str]) -> dict[str, Verdict]:
    """Keep or reject every activation of the paper's pool.

    Args:
        names: All ``gdf:`` names of a UNet (:class:`~diffeat.activations.Catalogue` has them as aliases).

    Raises:
        InvalidValueError: The names are not of a UNet with attention.
    """
    known = {text: name for text in names if (name := Name.parse(text)) and name.tail not in ("cross-k", "cross-v")}
    layout = _Layout(list(known.values()))
    verdicts = {}
    for text, name in known.items():
        if layout.in_pool(name):
            broken = next(((what, f"by name: {why}") for what, why, rejects in _RULES if rejects(name, layout)), None)
            verdicts[text] = Verdict(broken is None, () if broken is None else (broken,))
    return verdicts
