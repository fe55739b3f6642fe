"""The sites, the one place where they are registered, and what a denoiser offers of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from diffeat.activations.anatomy import Node, has, nodes, stage_of
from diffeat.activations.sites.adaln import AdaLN, Modulation
from diffeat.activations.sites.attention import Map, Projection, head_outputs, of_head
from diffeat.activations.sites.probe import Probe, Site, StreamProbe
from diffeat.activations.sites.streams import Increment, Inner, Input, Output

#: By name. Of two sites that are seen at the same moment, the one that stands first comes first in catalogues.
SITES: dict[str, Site] = {
    site.name: site
    for site in (
        Input(),
        Modulation("shift"),
        Modulation("scale"),
        Modulation("gate"),
        AdaLN(),
        Projection("q"),
        Projection("k"),
        Projection("v"),
        Map("map"),
        Map("self_map"),
        Map("cross_map"),
        Inner(),
        Output(),
        Increment(),
    )
}

#: The kinds of activation that there are.
KINDS = tuple(dict.fromkeys(kind for site in SITES.values() for kind in site.kinds))


#: Of an attention, beside what is listed: what its heads give.
HEADS = "o"
_HEAD = re.compile(r"(.+\.[qkvo])\[(\d{1,4})\]")


@dataclass(frozen=True)
class Candidate:
    """An activation that a module offers, before anybody ran the network."""

    id: str
    kind: str
    stage: str
    heads: int | None = None


def candidates(denoiser: nn.Module) -> Iterator[Candidate]:
    """Every activation worth listing, in the order of ``named_modules``."""
    for node in nodes(denoiser):
        for site in SITES.values():
            if kind := site.kind_at(node):
                heads = getattr(node.module, "heads", None) if site.per_head else None
                id = f"{node.path}.{site.name}" if site.name else node.path
                yield Candidate(id, kind, stage_of(node.path), heads if isinstance(heads, int) else None)


def split_head(name: str) -> tuple[str, int | None]:
    """The id and the head of ``…attn1.k[3]``; no head where the name ends otherwise.

    Example:
        >>> split_head("mid.attn1.k[3]"), split_head("up_blocks.[12]")
        (('mid.attn1.k', 3), ('up_blocks.[12]', None))
    """
    match = _HEAD.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def find_probe(denoiser: nn.Module, name: str) -> Probe | None:
    """How the activation of an id is read, ``None`` if no module has that path; ``….k[3]`` is head 3 of ``….k``."""
    whole, head = split_head(name)
    if head is not None:
        probe = find_probe(denoiser, whole)
        if isinstance(probe, StreamProbe):
            return of_head(Node.of(denoiser, whole.rpartition(".")[0]), whole, probe, head)
        return probe
    if name and has(denoiser, name):
        return SITES[""].at(Node.of(denoiser, name))
    path, _, site = name.rpartition(".")
    if not path or not has(denoiser, path) or site not in (*SITES, HEADS):
        return None
    if site == HEADS:
        return head_outputs(Node.of(denoiser, path))
    return SITES[site].at(Node.of(denoiser, path))
