"""The adaptive norms of diffusion transformers: what each modulated activation is made of.

A block k normalises its residual stream ``z`` and modulates it, ``(1 + scale) * norm(z) + shift``, before attention
(``BLOCK.adaln``) and before the feed-forward (``BLOCK.ff.adaln``); what comes out of them is multiplied by ``gate`` and
added to the stream. Reading the ids of a :class:`ModulatedSite` with :class:`~diffeat.activations.Taps` brings all of
it in one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffeat.activations.anatomy import Node
from diffeat.activations.names import bare_denoiser, ids_of, locate
from diffeat.activations.norms import PlainNorm, plain_norm
from diffeat.backbones.blocks import ModulationRule
from diffeat.errors import InvalidValueError


@dataclass(frozen=True)
class ModulatedSite:
    """One adaptive norm of one block.

    Attributes:
        name: The activation as it was asked for.
        block: Path of the block.
        raw: Id of what enters the norm: the residual stream, image tokens only, ``(B, C, h, w)``.
        norm: The norm.
        shift: Id of its shift ``(B, C)``; ``None`` where it has none, and so for ``scale`` and ``gate``.
        scale: Id of its scale.
        gate: Id of the gate of what follows.
        rule: Where the parameters come from.
    """

    name: str
    block: str
    raw: str
    norm: PlainNorm
    shift: str | None
    scale: str | None
    gate: str | None
    rule: ModulationRule

    @property
    def parameters(self) -> dict[str, str]:
        """The ids of those of shift, scale and gate that exist."""
        parts = {"shift": self.shift, "scale": self.scale, "gate": self.gate}
        return {part: id for part, id in parts.items() if id is not None}


def modulated_sites(denoiser: Any, names: Iterable[str]) -> list[ModulatedSite]:
    """The adaptive norm behind each ``adaln`` activation (ids or aliases).

    Raises:
        UnknownNameError: The denoiser has no such activation.
        InvalidValueError: The activation is not a modulated input.
    """
    network, names = bare_denoiser(denoiser), list(names)
    locate(network, names)
    return [_site(network, name, id) for name, id in zip(names, ids_of(network, names), strict=True)]


def _site(denoiser: nn.Module, name: str, id: str) -> ModulatedSite:
    path, _, site = id.rpartition(".")
    norm = Node.of(denoiser, path).modulated if site == "adaln" else None
    if norm is None:
        raise InvalidValueError(
            f"{name!r} is no modulated input, so it has no AdaLN to refine. Ask for an 'adaln' activation, such as "
            "'ditf:14', or leave 'refine' out of the recipe."
        )
    rule = norm.rule
    shift, scale, gate = (
        None if at is None else f"{path}.{part}"
        for part, at in (("shift", rule.shift), ("scale", rule.scale), ("gate", rule.gate))
    )
    raw = f"{norm.block}.{rule.norm}"
    return ModulatedSite(
        name, norm.block, f"{raw}.in", plain_norm(denoiser.get_submodule(raw)), shift, scale, gate, rule
    )
