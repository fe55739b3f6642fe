"""How an amalgamation is trained, and what comes of it (see :mod:`diffeat.training.amalgamation`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from diffeat.errors import InvalidValueError
from diffeat.extraction import Reading
from diffeat.extraction.joins.amalgamation import Amalgamation, Kind, LevelAmalgamation, save_amalgamation
from diffeat.geometry import file_digest

Network = Amalgamation | LevelAmalgamation


@dataclass(frozen=True)
class AmalgamateSettings:
    """How an amalgamation is trained.

    Attributes:
        kind: ``scalar`` (paper) or ``channel`` (released code).
        assigners: Mixtures side by side; of ``pixel`` members of an ensemble.
        convolve: A 3×3 convolution over each mixture.
        pixel: Every pixel is mixed in its own way.
        levels: Every level of the denoiser has its own assigners.
        sparsity: γ₁ of Eq. 5; with ``released`` it is walked instead.
        diversity: γ₂ of Eq. 5.
        released: Follow the released code where it differs from the paper.
        shared: Source and target of a pair are mixed with the same weights.
        batch: Pictures of a step, or pixels of a step of ``pixel``; of pairs there is one.
        rate: Of AdamW, at first.
        final: What the rate falls to by a polynomial of degree 0.9; it stays if not given.
    """

    kind: Kind = "channel"
    assigners: int = 1
    convolve: bool = False
    pixel: bool = False
    levels: bool = False
    sparsity: float = 0.0
    diversity: float = 0.0
    released: bool = False
    shared: bool = False
    steps: int = 1000
    batch: int = 2
    rate: float = 5e-4
    final: float | None = None
    decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pixel and (self.levels or self.convolve or self.shared):
            raise InvalidValueError("Weights of pixels go with neither levels, a convolution, nor shared weights.")
        if self.levels and (self.convolve or self.shared):
            raise InvalidValueError("Weights of levels go with neither a convolution nor shared weights.")


#: What the released code trains, by task.
PUBLISHED: dict[str, AmalgamateSettings] = {
    "correspondence": AmalgamateSettings(released=True, steps=10_000, convolve=True),
    "label-scarce": AmalgamateSettings(
        released=True, pixel=True, assigners=10, batch=64, rate=1e-3, decay=0.0, steps=100_000
    ),
    "segmentation": AmalgamateSettings(
        released=True, levels=True, rate=1.6e-4, final=1e-4, decay=1e-3, steps=80_000
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Amalgamated:
    """A trained amalgamation.

    Attributes:
        network: In evaluation mode.
        losses: Per step, without the terms of Eq. 5.
        weights: Mean weight of each view, per assigner.
        entropy: Of the weights, 1 is uniform, per assigner.
    """

    network: Network
    losses: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    entropy: tuple[float, ...]
    names: tuple[str, ...] = field(default=())

    def recipe(self, base: Reading, file: Path) -> Reading:
        """Write the weights, and the recipe that uses them."""
        save_amalgamation(self.network, file)
        fuse = {
            **({} if base.fuse is None else base.fuse.model_dump(exclude={"weights"})),
            "kind": "amalgamation",
            "weights": {"source": str(file), "sha256": file_digest(file)},
        }
        return base.replace(fuse=fuse, name=f"{base.name}-amalgamated")

    def __str__(self) -> str:
        lines = []
        for j, (weights, spread) in enumerate(zip(self.weights, self.entropy, strict=True)):
            shares = ", ".join(f"{n} {w:.3f}" for n, w in zip(self.names, weights, strict=True))
            lines.append(f"assigner {j + 1}: {shares} (entropy {spread:.2f} of uniform)")
        return "\n".join(lines)
