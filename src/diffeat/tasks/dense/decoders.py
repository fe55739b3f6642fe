"""From levels to scores on the finest level's grid. A decoder is a class and a line in :data:`DECODERS`.

* ``linear``: batch norm and a 1×1 convolution on every level's own grid; the scores are enlarged and added up. Bilinear
  enlargement repeats no channel and its weights sum to 1, so that this equals enlarging all maps, putting them side by
  side and classifying them, in a fraction of the memory.
* ``fpn``: semantic FPN (Kirillov et al., CVPR 2019): every level gains what the coarser ones say, is brought to the
  finest grid by convolutions and twofold enlargements in turn, and they are added up.
* ``upernet``: UPerNet (Xiao et al., ECCV 2018) as GDF and GATE train it: the coarsest level is pooled to small grids,
  every level gains what the coarser ones say, all are joined at the finest grid; in training a small convolutional
  classifier on the second level adds its loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.tasks.dense.blocks import convolved, enlarged
from diffeat.tasks.dense.options import DecoderOptions

Levels = Sequence[Tensor]


class Decoder(nn.Module, ABC):
    """Gives scores for levels ``(b, c, h, w)``, from fine to coarse.

    Made of the channels and the strides of each level, the number of scores of a cell, and the options.
    """

    @abstractmethod
    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], outputs: int, options: DecoderOptions
    ) -> None:
        super().__init__()

    @abstractmethod
    def forward(self, levels: Levels) -> Float[Tensor, "b k h w"]:
        """Scores on the finest grid."""

    def auxiliary(self, levels: Levels) -> Float[Tensor, "b k h w"] | None:
        """Scores of a second classifier, for training only; ``None`` where there is none."""
        return None


class Linear(Decoder):
    """See the module's docstring."""

    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], outputs: int, options: DecoderOptions
    ) -> None:
        nn.Module.__init__(self)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.classifiers = nn.ModuleList(nn.Conv2d(c, outputs, 1, bias=i == 0) for i, c in enumerate(channels))

    def forward(self, levels: Levels) -> Float[Tensor, "b k h w"]:
        parts = [c(n(x)) for c, n, x in zip(self.classifiers, self.norms, levels, strict=True)]
        return torch.stack([enlarged(part, grid_of(levels[0])) for part in parts]).sum(0)


class SemanticFpn(Decoder):
    """See the module's docstring."""

    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], outputs: int, options: DecoderOptions
    ) -> None:
        nn.Module.__init__(self)
        width = options.channels or 256
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.ways = nn.ModuleList()
        for stride in strides:
            twofold = max(1, round(math.log2(stride / strides[0])))
            sizes = [width, *[max(1, width // 2)] * twofold]
            self.ways.append(nn.ModuleList(convolved(a, b, 3) for a, b in pairwise(sizes)))
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = nn.Conv2d(max(1, width // 2), outputs, 1)

    def forward(self, levels: Levels) -> Float[Tensor, "b k h w"]:
        tops = top_down([lateral(x) for lateral, x in zip(self.laterals, levels, strict=True)])
        rows, columns = grid_of(levels[0])
        total = torch.zeros(())
        for top, smooth, way in zip(tops, self.smooth, self.ways, strict=True):
            x = smooth(top)
            steps = list(way.children())
            for left, step in zip(reversed(range(len(steps))), steps, strict=True):
                x = enlarged(step(x), (max(1, rows >> left), max(1, columns >> left)))
            total = total + x
        return self.classifier(self.dropout(total))


class UperNet(Decoder):
    """See the module's docstring. With one level, it is the pooling alone."""

    def __init__(
        self, channels: Sequence[int], strides: Sequence[float], outputs: int, options: DecoderOptions
    ) -> None:
        nn.Module.__init__(self)
        width, last = options.channels or 512, channels[-1]
        self.pools = options.pools
        self.pooled = nn.ModuleList(convolved(last, width, 1) for _ in options.pools)
        self.bottleneck = convolved(last + len(options.pools) * width, width, 3)
        self.laterals = nn.ModuleList(convolved(c, width, 1) for c in channels[:-1])
        self.smooth = nn.ModuleList(convolved(width, width, 3) for _ in channels[:-1])
        self.join = convolved(len(channels) * width, width, 3)
        self.dropout = nn.Dropout2d(options.dropout)
        self.classifier = nn.Conv2d(width, outputs, 1)
        self.second: nn.Sequential | None = None
        if options.auxiliary:
            self._seen = min(1, len(channels) - 1)
            inner = max(1, width // 2)
            parts = (*convolved(channels[self._seen], inner, 3), nn.Dropout2d(options.dropout))
            self.second = nn.Sequential(*parts, nn.Conv2d(inner, outputs, 1))

    def forward(self, levels: Levels) -> Float[Tensor, "b k h w"]:
        coarsest = levels[-1]
        if self.training and 1 in self.pools and len(coarsest) == 1:
            raise InvalidValueError(
                "UPerNet pools the coarsest level to one cell, whose batch norm needs two pictures at least: train it "
                "with --batch 2 or more, or without that pool (--pools 2)."
            )
        pooled = [
            enlarged(way(nn.functional.adaptive_avg_pool2d(coarsest, side)), grid_of(coarsest))
            for side, way in zip(self.pools, self.pooled, strict=True)
        ]
        top = self.bottleneck(torch.cat([coarsest, *pooled], dim=1))
        tops = top_down([*(way(x) for way, x in zip(self.laterals, levels[:-1], strict=True)), top])
        smooth = [*(way(x) for way, x in zip(self.smooth, tops[:-1], strict=True)), tops[-1]]
        joint = self.join(torch.cat([enlarged(x, grid_of(levels[0])) for x in smooth], dim=1))
        return self.classifier(self.dropout(joint))

    def auxiliary(self, levels: Levels) -> Float[Tensor, "b k h w"] | None:
        return None if self.second is None else self.second(levels[self._seen])


#: By the name in the options.
DECODERS: dict[str, type[Linear] | type[SemanticFpn] | type[UperNet]] = {
    "linear": Linear,
    "fpn": SemanticFpn,
    "upernet": UperNet,
}


def top_down(levels: Sequence[Tensor]) -> list[Tensor]:
    """Every level plus the enlarged sum of the coarser ones."""
    sums = [levels[-1]]
    for level in reversed(levels[:-1]):
        sums.append(level + enlarged(sums[-1], grid_of(level)))
    return sums[::-1]


def grid_of(values: Tensor) -> tuple[int, int]:
    """(rows, columns)."""
    return values.shape[-2], values.shape[-1]
