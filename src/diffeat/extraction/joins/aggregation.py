r"""The aggregation network of Diffusion Hyperfeatures: all layers at all steps, one descriptor per pixel.

Luo et al., Diffusion Hyperfeatures, NeurIPS 2023, sec. 3.2. Layer l has one bottleneck B_l for all steps; every pair of
step s and layer l has a mixing weight:

.. math:: F = \sum_{s, l} \mathrm{softmax}(m)_{s, l}\; B_l(\mathrm{resize}(x_{s, l}))

with B_l = ReLU(N(W₃ h₂) + N(W_s x)), h₂ = ReLU(N(W₂ h₁)), h₁ = ReLU(N(W₁ x)); W₁, W₃, W_s are 1×1, W₂ is 3×3, N is a
group norm, and where x has as many channels as F the shortcut is x itself. Mixing weights are ordered step by step, the
layers within a step.

The sum is streamed. A 1×1 convolution without bias commutes with bilinear resizing, so a map is projected on its own
grid and only the few projected channels are enlarged; nothing is kept but the sum. In training the intermediate maps
are recomputed in the backward pass where keeping them would take much memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffeat.errors import InvalidValueError

_CELLS_AT_ONCE = 16 * 1024  # cells of the output grid, over pictures and steps, that pass a bottleneck together
_RECOMPUTE_ABOVE = 1 << 30  # bytes of intermediate maps in training from which they are not kept


@dataclass(frozen=True)
class AggregationConfig:
    """What an aggregation network is made for.

    Attributes:
        activations: Ids of the layers, in the order of their bottlenecks.
        channels: Of each layer.
        steps: What the mixing weights stand for, in order: save indices of an inversion or generation of ``count``
            steps, or timesteps of forward noise.
        count: Steps of the whole inversion or generation; None for forward noise.
        model: What the features came from.
        projection: Channels of the descriptor.
        bottleneck: Channels inside a bottleneck; a quarter of ``projection`` by default.
        groups: Of the group norms.
    """

    activations: tuple[str, ...]
    channels: tuple[int, ...]
    steps: tuple[float, ...]
    count: int | None = None
    model: str = ""
    projection: int = 384
    bottleneck: int | None = None
    groups: int = 32

    def __post_init__(self) -> None:
        for name in ("activations", "channels", "steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.bottleneck is None:
            object.__setattr__(self, "bottleneck", self.projection // 4)
        if not self.activations or not self.steps:
            raise InvalidValueError("An aggregation network needs at least one layer and one step.")
        if len(self.activations) != len(self.channels):
            raise InvalidValueError(
                f"{len(self.activations)} layers are named with {len(self.channels)} channel counts; give one for each."
            )
        for name in ("projection", "bottleneck"):
            width = getattr(self, name)
            if width < 1 or width % self.groups:
                raise InvalidValueError(f"{name} must be a multiple of the {self.groups} groups, got {width}.")

    @property
    def width(self) -> int:
        """Channels inside a bottleneck."""
        return self.bottleneck or self.projection // 4

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


class NormedConv(nn.Conv2d):
    """A convolution without bias and the group norm behind it, which the caller applies."""

    def __init__(self, inputs: int, outputs: int, size: int, groups: int) -> None:
        super().__init__(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm = nn.GroupNorm(groups, outputs)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")


class Bottleneck(nn.Module):
    """One layer's way to the common channels; see the module's docstring."""

    def __init__(self, channels: int, config: AggregationConfig) -> None:
        super().__init__()
        wide, narrow, groups = config.projection, config.width, config.groups
        if channels != wide:
            self.shortcut = NormedConv(channels, wide, 1, groups)
        self.conv1 = NormedConv(channels, narrow, 1, groups)
        self.conv2 = NormedConv(narrow, narrow, 3, groups)
        self.conv3 = NormedConv(narrow, wide, 1, groups)

    def forward(self, x: Float[Tensor, "n c h w"], grid: tuple[int, int]) -> Float[Tensor, "n d gh gw"]:
        if x.shape[-2] * x.shape[-1] > grid[0] * grid[1]:
            x = _resized(x, grid)
        hidden = F.relu(self.conv1.norm(_resized(self.conv1(x), grid)))
        hidden = F.relu(self.conv2.norm(self.conv2(hidden)))
        hidden = self.conv3.norm(self.conv3(hidden))
        if hasattr(self, "shortcut"):
            return F.relu(hidden + self.shortcut.norm(_resized(self.shortcut(x), grid)))
        return F.relu(hidden + _resized(x, grid))


class AggregationNetwork(nn.Module):
    """Makes one descriptor map of the maps of several layers at several steps.

    Parameters have the names of the published checkpoints. Mixing weights of minus infinity switch a pair of step and
    layer off; it is then neither computed nor needed.

    Args:
        config: Layers, steps and widths.
    """

    def __init__(self, config: AggregationConfig) -> None:
        super().__init__()
        self.config = config
        self.bottleneck_layers = nn.ModuleList(nn.Sequential(Bottleneck(c, config)) for c in config.channels)
        self.mixing_weights = nn.Parameter(torch.ones(len(config.steps) * len(config.channels)))

    @property
    def shares(self) -> Float[Tensor, "steps layers"]:
        """The mixing weights after the softmax; their sum is 1."""
        return self.mixing_weights.softmax(0).unflatten(0, (len(self.config.steps), len(self.config.channels)))

    @property
    def used(self) -> Tensor:
        """Bool (steps, layers): the pairs that are not switched off."""
        off = torch.isneginf(self.mixing_weights.detach()).cpu()
        return ~off.unflatten(0, (len(self.config.steps), len(self.config.channels)))

    def forward(
        self,
        maps: Sequence[Float[Tensor, "b s _c _h _w"]],
        grid: tuple[int, int] | None = None,
        steps: Sequence[int] | None = None,
    ) -> Float[Tensor, "b d gh gw"]:
        """The weighted sum, or the part of it that some of the steps make.

        Args:
            maps: For every layer its maps, stacked over pictures and steps.
            grid: ``(h, w)`` of the descriptor; the largest of the maps' by default.
            steps: Which steps the maps are of, as positions in ``config.steps``; all by default. The sum of the parts
                of all steps is the whole.

        Raises:
            InvalidValueError: If the maps are not those of the network's layers.
        """
        self._check(maps, steps)
        grid = grid or max(((m.shape[-2], m.shape[-1]) for m in maps), key=lambda g: g[0] * g[1])
        positions = list(range(len(self.config.steps))) if steps is None else list(steps)
        batch = maps[0].shape[0]
        shares, used = self.shares, self.used
        total = maps[0].new_zeros(batch, self.config.projection, *grid, dtype=torch.float32)
        pairs = int(used[positions].sum())
        needed = 4 * batch * pairs * grid[0] * grid[1] * 6 * (self.config.projection + self.config.width)
        recompute = torch.is_grad_enabled() and self.training and needed > _RECOMPUTE_ABOVE
        at_once = max(1, _CELLS_AT_ONCE // (batch * grid[0] * grid[1]))
        for layer, feature in enumerate(maps):
            kept = [k for k, position in enumerate(positions) if used[position, layer]]
            for start in range(0, len(kept), at_once):
                some = kept[start : start + at_once]
                weights = shares[[positions[k] for k in some], layer]
                first, after = some[0], some[-1] + 1
                values = feature[:, first:after] if len(some) == after - first else feature[:, some]
                if recompute:
                    part = checkpoint(self._part, layer, values, weights, grid, use_reentrant=False)
                else:
                    part = self._part(layer, values, weights, grid)
                total = total + part if total.requires_grad or part.requires_grad else total.add_(part)
        return total

    def _part(self, layer: int, values: Tensor, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        batch, steps = values.shape[:2]
        joined = self.bottleneck_layers[layer][0](values.flatten(0, 1).float(), grid)  # type: ignore[index]
        if steps == 1:
            return joined * weights
        return torch.einsum("bsdhw,s->bdhw", joined.unflatten(0, (batch, steps)), weights)

    def _check(self, maps: Sequence[Tensor], steps: Sequence[int] | None) -> None:
        count = len(self.config.steps) if steps is None else len(steps)
        if len(maps) != len(self.config.channels):
            raise InvalidValueError(
                f"The network aggregates {len(self.config.channels)} layers, got the maps of {len(maps)}."
            )
        for name, channels, value in zip(self.config.activations, self.config.channels, maps, strict=True):
            if value.ndim != 5 or value.shape[1] != count or value.shape[2] != channels:
                raise InvalidValueError(
                    f"Maps of {name!r} must have shape (pictures, {count} steps, {channels} channels, h, w), got "
                    f"{tuple(value.shape)}."
                )


def _resized(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bilinear with the half-pixel convention and without smoothing, as the reference has it also downwards."""
    if tuple(x.shape[-2:]) == tuple(grid):
        return x
    return F.interpolate(x, size=grid, mode="bilinear", align_corners=False)
