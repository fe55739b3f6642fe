"""The whole of a dense network: maps are joined to levels, and these are decoded.

A block may stand behind every map and behind every level (:data:`~diffeat.tasks.dense.blocks.BLOCKS`). Between them the
maps of a reading stand side by side, and the readings of a group are mixed by GATE's amalgamation
(:mod:`diffeat.extraction.joins.amalgamation`): softmax weights over views, a number for each channel, one assigner per
level.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig
from diffeat.tasks.dense.blocks import BLOCKS, enlarged
from diffeat.tasks.dense.decoders import DECODERS, Decoder, grid_of
from diffeat.tasks.dense.levels import Layout, Level, Maps
from diffeat.tasks.dense.options import DecoderOptions


class DenseNetwork(nn.Module):
    """Scores of every cell of the finest grid from the maps of pictures.

    Args:
        layout: Which maps make which level.
        outputs: Scores of a cell: classes, 1 of depth, 3 of normals.
        options: How it is built.
    """

    def __init__(self, layout: Layout, outputs: int, options: DecoderOptions) -> None:
        super().__init__()
        self.layout, self.outputs, self.options = layout, outputs, options
        self.joins = nn.ModuleList(LevelJoin(level, options.block) for level in layout.levels)
        channels, strides = [x.channels for x in layout.levels], [x.stride for x in layout.levels]
        self.decoder: Decoder = DECODERS[options.head](channels, strides, outputs, options)

    def levels(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """The levels ``(b, c, h, w)``, from fine to coarse, of maps ``(b, c, h, w)`` by name."""
        return [join(maps) for join in self.joins]

    def forward(self, maps: Mapping[str, Tensor]) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k h w"] | None]:
        """Scores on the finest grid, and in training those of the decoder's second classifier, if it has one."""
        levels = self.levels(maps)
        return self.decoder(levels), self.decoder.auxiliary(levels) if self.training else None


class LevelJoin(nn.Module):
    """The maps of one level as one."""

    def __init__(self, level: Level, block: str) -> None:
        super().__init__()
        self._groups = level.groups
        make = BLOCKS[block]
        self.blocks = nn.ModuleList(make(c) for group in level.groups for maps in group for c in maps.values())
        self.mixtures = nn.ModuleList(
            Amalgamation(AmalgamationConfig(sum(group[0].values()), len(group)))
            for group in level.groups
            if len(group) > 1
        )
        self.whole = make(level.channels)

    def forward(self, maps: Mapping[str, Tensor]) -> Float[Tensor, "b c h w"]:
        blocks, mixtures = iter(self.blocks), iter(self.mixtures)
        grid = grid_of(maps[next(iter(self._groups[0][0]))])

        def joined(reading: Maps) -> Tensor:
            return torch.cat([enlarged(next(blocks)(maps[name]), grid) for name in reading], dim=1)

        parts = []
        for group in self._groups:
            readings = [joined(reading) for reading in group]
            parts.append(readings[0] if len(group) == 1 else next(mixtures)(torch.stack(readings, dim=1))[0])
        return self.whole(torch.cat(parts, dim=1))
