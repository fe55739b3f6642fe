"""What a user may write for an activation, and what it means in one denoiser."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from diffeat.activations import aliases, rules
from diffeat.activations.sources import NoSuchSite, Source, find_source
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean


def bare_denoiser(thing: Any) -> nn.Module:
    """The plain diffusers network inside a backbone, a pipeline, a compiled module or a PEFT wrapper."""
    for name in ("denoiser", "unet", "transformer"):
        inner = getattr(thing, name, None)
        if not isinstance(thing, nn.Module) and isinstance(inner, nn.Module):
            thing = inner
            break
    if not isinstance(thing, nn.Module):
        raise InvalidValueError(f"expected a denoiser, a pipeline or a Backbone, got {type(thing).__name__}")
    thing = getattr(thing, "_orig_mod", thing)
    if hasattr(thing, "peft_config") and hasattr(thing, "get_base_model"):
        thing = thing.get_base_model()
    return thing


def is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A glob over ids: ``*`` stays within one part between dots, ``**`` and a leading ``*`` cross dots."""
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    out = []
    for i, piece in enumerate(pieces):
        if piece == "**" or (piece == "*" and i == 1 and not pieces[0]):
            out.append(".*")
        elif piece == "*":
            out.append(r"[^.]*")
        elif piece == "?":
            out.append(r"[^.]")
        elif piece.startswith("[") and len(piece) > 2:
            out.append(piece.replace("[!", "[^", 1))
        else:
            out.append(re.escape(piece))
    return re.compile("".join(out))


def locate(denoiser: nn.Module, names: Iterable[str]) -> list[Source]:
    """The source of each id or alias.

    Raises:
        UnknownNameError: With the nearest names of this denoiser, or whose name it is.
    """
    ids_by_alias: dict[str, str] | None = None  # made once, where an alias is asked for
    sources = []
    for name in names:
        try:
            source = find_source(denoiser, name)
        except NoSuchSite as reason:
            raise UnknownNameError(f"No activation {name!r}: {reason}. {_near(denoiser, name)}".rstrip()) from None
        if source is None and name.split(":")[0] in aliases.PREFIXES:
            if ids_by_alias is None:
                ids_by_alias = dict(aliases.aliases_of(denoiser, [c.id for c in rules.candidates(denoiser)]))
            found = ids_by_alias.get(name)
            source = None if found is None else find_source(denoiser, found)
        if source is None:
            raise unknown(denoiser, name)
        sources.append(source)
    return sources


def unknown(denoiser: nn.Module, name: str) -> UnknownNameError:
    """The error for a name that this denoiser does not have."""
    kind = rules.class_name(denoiser)
    if is_pattern(name):
        return UnknownNameError(
            f"The pattern {name!r} selects nothing in this {kind}, or stands where one activation is wanted. A '*' "
            "stays between two dots, '**' crosses them ('up_blocks.1.**'); Catalogue.find(pattern) gives the ids."
        )
    if name.endswith(".adaln") and rules.is_unet(denoiser):
        return UnknownNameError(f"{name!r}: 'adaln' exists in diffusion transformers; this denoiser is a {kind}.")
    near = _near(denoiser, name)
    owner = aliases.owner_of(name)
    ids = [c.id for c in rules.candidates(denoiser)]
    names = [a for a, _ in aliases.aliases_of(denoiser, ids)]
    stem = re.match(r"(\w+:[a-z]*|\w+)", name)
    foreign = owner is not None and stem is not None and not any(n.startswith(stem[0]) for n in [*ids, *names])
    whose = f" Names of this form belong to {owner}; this denoiser is a {kind}." if foreign else ""
    return UnknownNameError(f"No activation {name!r} in this {kind}.{whose} {near}".rstrip())


def _near(denoiser: nn.Module, name: str) -> str:
    ids = [c.id for c in rules.candidates(denoiser)]
    names = [a for a, _ in aliases.aliases_of(denoiser, ids)]
    prefix = name.split(":")[0] + ":" if ":" in name else None
    pool = [n for n in names if n.startswith(prefix)] if prefix else ids
    return did_you_mean(name, pool or ids)
