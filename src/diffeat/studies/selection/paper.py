"""The candidate rules of Generic Diffusion Feature, from names alone.

Meng et al. (NeurIPS 2024, sections 4 and 5, appendices A, D, E) start from a pool of activations and drop kinds of
them after looking at pictures. Their tables list what was left: 63 of 279 on SDXL, 33 of 197 on Stable Diffusion 1.5.
The rules below give exactly these lists from the ``gdf:`` names of a UNet, and carry over to other UNets. They follow
three properties:

* *asymmetric diffusion noise* rejects the down and middle stages and the late up stage,
* *in-resolution granularity* rejects nothing by itself; the coarsest level without attention has too few cells,
* *locality without positional embeddings* rejects self-attention, except where it holds off the noise late in the up
  stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diffeat.errors import InvalidValueError
from diffeat.studies.selection.verdict import Verdict

_NAME = re.compile(
    r"(?P<side>down|up)-level(?P<level>\d+)-(?:repeat(?P<repeat>\d+)-(?P<rest>res-\w+|vit.*)|(?P<sampler>\w+)-(?P<end>\w+))"
    r"|mid-(?P<mid>.+)|unet-(?P<stem>.+)"
)
_BLOCK = re.compile(r"(?P<head>.*vit)-block(?P<number>\d+)-(?P<tail>.+)")
#: Blocks of a deep transformer that the paper looks at: the first two, then every second one.
_SHALLOW = 2


@dataclass(frozen=True)
class Name:
    """A ``gdf:`` name taken apart.

    Attributes:
        text: The name without its prefix.
        side: ``down``, ``up``, ``mid`` or ``unet``.
        level: Of the stage, 0 first in execution; -1 where there is none.
        repeat: Within the level; -1 for samplers.
        tail: What is read: ``res-out``, ``vit-out``, ``out`` (of a block), ``self-q``, ``cross-q``, ``ffn-inner``,
            ``upsampler-out`` …
        block: Of the transformer; -1 outside blocks.
    """

    text: str
    side: str
    level: int
    repeat: int
    tail: str
    block: int

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """The parts of a UNet's name (with or without ``gdf:``), or ``None`` for other names."""
        text = text.removeprefix("gdf:")
        found = _NAME.fullmatch(text)
        if not found:
            return None
        side = found["side"] or ("mid" if found["mid"] else "unet")
        level = int(found["level"]) if found["level"] else -1
        repeat = int(found["repeat"]) if found["repeat"] else -1
        tail, block = text.split("-")[-1], -1
        if inside := _BLOCK.fullmatch(text):
            tail, block = inside["tail"], int(inside["number"])
        elif found["sampler"]:
            tail = f"{found['sampler']}-{found['end']}"
        elif text.endswith("vit-out"):
            tail = "vit-out"
        elif "-res-" in text:
            tail = "res-" + tail
        return cls(text, side, level, repeat, tail, block)


@dataclass(frozen=True)
class Layout:
    """What the rules need to know of a UNet, read off its names.

    Attributes:
        levels: Number of levels of the up stage; the last is the finest.
        attention: Levels of the up stage with transformers.
        last_repeat: The last repeat of each level.
        deep: Whether some transformer has more than one block.
    """

    levels: int
    attention: tuple[int, ...]
    last_repeat: dict[int, int]
    deep: bool

    @classmethod
    def of(cls, names: Iterable[Name]) -> Layout:
        """Raises InvalidValueError where there is no up stage with attention."""
        names = list(names)
        up = [n for n in names if n.side == "up"]
        attention = tuple(sorted({n.level for n in up if n.block >= 0}))
        if not attention:
            raise InvalidValueError(
                "The rule set 'paper' is for UNets with attention in the up stage; these names have none. "
                "Use the rule set 'measured'."
            )
        levels = {n.level for n in up}
        last = {level: max(n.repeat for n in up if n.level == level) for level in levels}
        return cls(max(levels) + 1, attention, last, any(n.block > 0 for n in names))

    @property
    def finest(self) -> int:
        return self.levels - 1

    def late(self, name: Name) -> bool:
        """Later half of the up stage: the finest level, and the last repeat of the level before it."""
        before = name.level == self.finest - 1 and name.repeat == self.last_repeat[name.level]
        return name.level == self.finest or before


@dataclass(frozen=True)
class _Rule:
    property: str
    reason: str
    rejects: Callable[[Name, Layout], bool]


_INCREMENTS = ("res-increment", "ffn-inner", "self-v", "downsampler-increment", "upsampler-increment")
_RULES = (
    _Rule("kind", "attention maps and tokens are no map of features", lambda n, _: n.tail.endswith("-map")),
    _Rule("noise", "input and output of the network are noise for the most part", lambda n, _: n.side == "unet"),
    _Rule("noise", "increments carry high-frequency noise", lambda n, _: n.tail in _INCREMENTS),
    _Rule("noise", "the down stage carries the diffusion noise", lambda n, _: n.side == "down"),
    _Rule("noise", "the middle stage lies before the noise is gone", lambda n, _: n.side == "mid"),
    _Rule(
        "granularity",
        "the coarsest level has too few cells",
        lambda n, u: n.level not in u.attention and n.level < u.attention[0],
    ),
    _Rule(
        "noise",
        "the noise returns at the finest level, and no self-attention there holds it off",
        lambda n, u: n.level not in u.attention and n.level > u.attention[0],
    ),
    _Rule(
        "granularity",
        "an upsampler repeats its level, except before the last level with attention",
        lambda n, u: n.tail == "upsampler-out" and n.level + 1 != u.attention[-1],
    ),
    _Rule(
        "noise",
        "the noise returns at the finest level",
        lambda n, u: n.level == u.finest and n.tail not in ("self-q", "self-k"),
    ),
    _Rule(
        "locality",
        "self-attention without positional embedding follows the place, not the content",
        lambda n, u: n.tail in ("self-q", "self-k") and not u.late(n),
    ),
    _Rule(
        "locality",
        "self-attention queries are left out where the finest level has no attention",
        lambda n, u: n.tail == "self-q" and u.finest not in u.attention,
    ),
)


def paper_pool(names: Iterable[str]) -> list[str]:
    """The activations the paper starts from, of all ``gdf:`` names of a UNet, in their order.

    Of networks with one block per transformer (Stable Diffusion 1.5) everything; of deeper ones (SDXL) no maps, no
    self-attention values, no input and output, and of each transformer blocks 0, 1, 3, 5, 7, 9 only. Keys and values of
    cross-attention are tokens of the text and never count.
    """
    parsed = _parsed(names)
    layout = Layout.of(parsed.values())
    return [text for text, name in parsed.items() if not layout.deep or _in_deep_pool(name)]


def paper_verdicts(names: Iterable[str]) -> dict[str, Verdict]:
    """Keep or reject every activation of the paper's pool.

    Args:
        names: All ``gdf:`` names of a UNet (:class:`~diffeat.activations.Catalogue` has them as aliases).

    Returns:
        A verdict by name, as it was given; rejected ones say by which property and why.

    Raises:
        InvalidValueError: The names are not of a UNet with attention.
    """
    names = list(names)
    parsed = _parsed(names)
    layout = Layout.of(parsed.values())
    found = {}
    for text in paper_pool(names):
        name = parsed[text]
        broken = [rule for rule in _RULES if rule.rejects(name, layout)]
        found[text] = Verdict(not broken, tuple((rule.property, rule.reason) for rule in broken[:1]))
    return found


def _parsed(names: Iterable[str]) -> dict[str, Name]:
    parsed = {text: Name.parse(text) for text in names}
    return {text: n for text, n in parsed.items() if n is not None and n.tail not in ("cross-k", "cross-v")}


def _in_deep_pool(name: Name) -> bool:
    if name.side == "unet" or name.tail.endswith("-map") or name.tail == "self-v":
        return False
    return name.block < _SHALLOW or name.block % 2 == 1
