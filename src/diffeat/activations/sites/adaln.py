"""What an adaptive norm gives to its consumer, and the parameters it applies.

Where they are offered: a block stands for the norm before its attention, a feed-forward (or a second attention) for the
norm before itself. Which norm that is and where its parameters come from is told by the family's block rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from diffeat.activations.anatomy import Modulated, Node, class_name, is_unet
from diffeat.activations.norms import plain_norm, stored
from diffeat.activations.sites.probe import InputProbe, NoSuchSite, Pass, Probe, See, Site
from diffeat.backbones.sharing import Hooks
from diffeat.errors import TapError

Parameter = Literal["shift", "scale", "gate"]


class AdaLN(Site):
    """``BLOCK.adaln``, ``BLOCK.ff.adaln``: the modulated image tokens that the consumer receives."""

    name = "adaln"
    kinds = ("adaln",)

    def kind_at(self, node: Node) -> str | None:
        return "adaln" if node.modulated else None

    def at(self, node: Node) -> InputProbe:
        return InputProbe(_modulated(node).consumer, "image")


class Modulation(Site):
    """``BLOCK.shift``, ``.scale`` and ``.gate``, offered where ``.adaln`` is: vectors ``(B, C)`` in float32, no maps.

    The modulated tensor is ``(1 + scale) * norm(z) + shift``; the consumer's output is multiplied by ``gate`` and added
    to ``z``. A norm without one of them does not offer it.
    """

    kinds = ("modulation",)

    def __init__(self, name: Parameter) -> None:
        self.name = name

    def kind_at(self, node: Node) -> str | None:
        norm = node.modulated
        return "modulation" if norm is not None and getattr(norm.rule, self.name) is not None else None

    def at(self, node: Node) -> ModulationProbe:
        norm = _modulated(node)
        rule, place = norm.rule, getattr(norm.rule, self.name)
        if place is None:
            raise NoSuchSite(f"the norm before {norm.consumer!r} has no {self.name}")
        width = plain_norm(node.denoiser.get_submodule(f"{norm.block}.{rule.norm}")).channels
        return ModulationProbe(
            module=f"{norm.block}.{rule.child}" if rule.child else norm.block,
            argument=rule.argument,
            columns=(place * width, (place + 1) * width),
            table=norm.block if rule.table else None,
            tanh=rule.tanh and self.name == "gate",
        )


def _modulated(node: Node) -> Modulated:
    if is_unet(node.denoiser):
        raise NoSuchSite("a UNet has no AdaLN-modulated inputs; 'adaln' exists in diffusion transformers only")
    norm = node.modulated
    if norm is None:
        raise NoSuchSite(f"{node.path!r} ({class_name(node.module)}) consumes no modulated image tokens")
    return norm


@dataclass(frozen=True)
class ModulationProbe(Probe):
    """A parameter of an adaptive norm: a slice of a vector that a module returns or is given.

    Attributes:
        argument: Which of the module's arguments is the vector; ``None`` for its output.
        columns: ``[start, stop)`` of the parameter in the vector.
        table: Path of the block whose ``scale_shift_table`` is added.
        tanh: Whether it goes through a tanh.
    """

    module: str
    argument: str | None
    columns: tuple[int, int]
    table: str | None
    tanh: bool
    anchor: str | None = None

    def attach(self, hooks: Hooks, module: nn.Module, see: See, wanted: Callable[[], bool]) -> None:
        name = self.argument
        if name is None:
            hooks.after(module, lambda _, __, output: see(output))
            return
        bind = inspect.signature(module.forward).bind_partial
        hooks.before(module, lambda args, kwargs: see(bind(*args, **kwargs).arguments.get(name)))

    def value(self, name: str, seen: Any, run: Pass, last: bool) -> Tensor:
        if not isinstance(seen, Tensor):
            raise TapError(f"{name!r}: {self.module!r} was called without the vector of its modulation")
        vectors = seen.float()[: run.rows]  # edit models append the parameters of reference images
        vectors = vectors.reshape(len(vectors), -1)
        table = None if self.table is None else stored(run.denoiser.get_submodule(self.table), "scale_shift_table")
        if table is not None:
            vectors = vectors + table.to(vectors).reshape(1, -1)
        part = vectors[:, slice(*self.columns)].expand(run.rows, -1)
        return part.tanh() if self.tanh else part.clone()
