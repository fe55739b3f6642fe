"""What is known of the transformer blocks of a family, by the class names of diffusers.

A block normalises its residual stream ``z`` and modulates it, ``(1 + scale) * norm(z) + shift``, before a consumer (its
attention, its feed-forward); what comes out of that is multiplied by ``gate`` and added to the stream. Blocks differ in
who computes these parameters and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ModulationRule:
    """Where the parameters of one adaptive norm are: slices of one vector, each as long as the norm's axis.

    Attributes:
        norm: Child of the block that normalises.
        child: Child whose output is the vector; with ``argument``, whose argument it is. Empty for the block itself.
        shift: Position in the vector, counted in slices, ``None`` where there is none; so for ``scale`` and ``gate``.
        table: Whether the block adds its own ``scale_shift_table`` to the vector.
        tanh: Whether the gate goes through a tanh.
    """

    norm: str
    child: str = "norm1.linear"
    argument: str | None = None
    shift: int | None = 0
    scale: int | None = 1
    gate: int | None = 2
    table: bool = False
    tanh: bool = False

    def later(self, norm: str, by: int = 3) -> ModulationRule:
        """The rule of another norm, whose parameters lie ``by`` slices further on in the same vector."""
        shift, scale, gate = (None if at is None else at + by for at in (self.shift, self.scale, self.gate))
        return replace(self, norm=norm, shift=shift, scale=scale, gate=gate)


@dataclass(frozen=True)
class BlockRule:
    """A class of transformer block: where its image stream and its adaptive norms are.

    Attributes:
        attention: The child that consumes the first modulated tensor.
        modulation: The adaptive norm before each child that consumes a modulated tensor; empty where no norm of the
            block depends on the timestep.
        item: Position of the image stream when the block returns a tuple.
        joint: Whether the attention runs over one sequence of text and image tokens without a text branch of its own.
        inner: Child whose output is the MLP after its activation, for blocks without a feed-forward module.
        norm_type: The block's ``norm_type`` that this rule is for; ``None`` serves all that no other rule names.
    """

    name: str
    attention: str
    modulation: Mapping[str, ModulationRule]
    item: int = 0
    joint: bool = False
    inner: str | None = None
    norm_type: str | None = None


ZERO = ModulationRule("norm1")
#: Attention and feed-forward, as ``AdaLayerNormZero`` has them.
ZERO_BOTH = {"attn": ZERO, "ff": ZERO.later("norm2")}
_TABLE = ModulationRule("norm1", "", "timestep", table=True)
#: One vector for all blocks, and a table of offsets in each (PixArt's "ada_norm_single").
SINGLE_BOTH = {"attn1": _TABLE, "ff": _TABLE.later("norm2")}
#: Keywords of norms that have no shift, and gates with a tanh.
SCALED = {"shift": None, "scale": 0, "gate": 1, "tanh": True}
