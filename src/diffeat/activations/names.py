"""What a user may write for an activation, and what it means in one denoiser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from diffeat.activations.aliases import PREFIXES, aliases_of, owner_of
from diffeat.activations.anatomy import class_name, is_unet
from diffeat.activations.sites import candidates, find_probe, split_head
from diffeat.activations.sites.probe import NoSuchSite, Probe
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import InvalidValueError, UnknownNameError, clipped, did_you_mean, shown


def bare_denoiser(thing: Any) -> nn.Module:
    """The plain diffusers network inside a backbone, a pipeline or a wrapper."""
    for name in ("denoiser", "unet", "transformer"):
        inner = getattr(thing, name, None)
        if not isinstance(thing, nn.Module) and isinstance(inner, nn.Module):
            thing = inner
            break
    if not isinstance(thing, nn.Module):
        raise InvalidValueError(f"expected a denoiser, a pipeline or a Backbone, got {type(thing).__name__}")
    return unwrapped(thing)


def is_pattern(name: str) -> bool:
    bare, head = split_head(name)
    return any(c in (bare if head is not None else name) for c in "*?[")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A glob over ids: ``*``, ``?`` and ``[…]`` stay within a part between dots, ``**`` and a leading ``*`` cross dots.

    A name is matched in time quadratic in its length, whatever the pattern: what a star takes at first, the least that
    leads to what follows, is not tried anew, since the next star takes whatever more there may be.

    Raises:
        InvalidValueError: A range ``[…]`` that is none.
    """
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    stretches = [[""]]  # each begins where dots may be crossed; in it, what begins with a star that stays
    for i, piece in enumerate(pieces):
        if piece == "**" or (piece == "*" and i == 1 and not pieces[0]):
            stretches.append([".*?"])
        elif piece == "*":
            stretches[-1].append(r"[^.]*?")
        elif piece == "?":
            stretches[-1][-1] += r"[^.]"
        elif piece.startswith("[") and len(piece) > 2:
            kept = re.sub(r"([\[\\&~|])", r"\\\1", piece[1:])
            stretches[-1][-1] += r"(?!\.)[" + re.sub("^!", "^", kept)
        else:
            stretches[-1][-1] += re.escape(piece)
    *settled, last = stretches
    out = ["".join(("(?>", first, *(f"(?>{rest})" for rest in more), ")")) for first, *more in settled]
    out += [last[0], *(f"(?>{rest})" for rest in last[1:-1]), *last[1:][-1:]]
    try:
        return re.compile("".join(out))
    except re.error as error:
        raise InvalidValueError(f"{shown(pattern)} is no pattern of activations: {error}.") from None


def ids_of(denoiser: nn.Module, names: Iterable[str]) -> list[str]:
    """The id of each name: ids as they are, aliases looked up."""
    ids_by_alias: dict[str, str] | None = None  # made once, where an alias is asked for
    ids = []
    for name in names:
        if name.split(":")[0] in PREFIXES:
            if ids_by_alias is None:
                ids_by_alias = dict(aliases_of(denoiser, _ids(denoiser)))
            if name not in ids_by_alias:
                raise unknown(denoiser, name)
            name = ids_by_alias[name]
        ids.append(name)
    return ids


def locate(denoiser: nn.Module, names: Iterable[str]) -> list[Probe]:
    """How the activation of each id or alias is read; of an unknown one the nearest names are told, or whose it is."""
    probes = []
    for id in ids_of(denoiser, names):
        try:
            probe = find_probe(denoiser, id)
        except NoSuchSite as reason:
            told = f"No activation {shown(id)}: {clipped(str(reason))}. {_near(denoiser, id)}"
            raise UnknownNameError(told.rstrip()) from None
        if probe is None:
            raise unknown(denoiser, id)
        probes.append(probe)
    return probes


def unknown(denoiser: nn.Module, name: str) -> UnknownNameError:
    """The error for a name that this denoiser does not have."""
    kind = class_name(denoiser)
    if is_pattern(name):
        return UnknownNameError(
            f"The pattern {shown(name)} selects nothing in this {kind}, or stands where one activation is wanted. A "
            "'*' stays between two dots, '**' crosses them ('up_blocks.1.**'); Catalogue.find(pattern) gives the ids."
        )
    if name.endswith(".adaln") and is_unet(denoiser):
        return UnknownNameError(f"{shown(name)}: 'adaln' exists in diffusion transformers; this denoiser is a {kind}.")
    owner = owner_of(name)
    ids = _ids(denoiser)
    names = [*ids, *(alias for alias, _ in aliases_of(denoiser, ids))]
    stem = re.match(r"(\w+:[a-z]*|\w+)", name)
    foreign = owner is not None and stem is not None and not any(n.startswith(stem[0]) for n in names)
    whose = f" Names of this form belong to {owner}; this denoiser is a {kind}." if foreign else ""
    return UnknownNameError(f"No activation {shown(name)} in this {kind}.{whose} {_near(denoiser, name)}".rstrip())


def _near(denoiser: nn.Module, name: str) -> str:
    ids = _ids(denoiser)
    system, colon, _ = name.partition(":")
    pool = [alias for alias, _ in aliases_of(denoiser, ids) if alias.startswith(f"{system}:")] if colon else []
    return did_you_mean(name, pool or ids)


def _ids(denoiser: nn.Module) -> list[str]:
    return [c.id for c in candidates(denoiser)]
