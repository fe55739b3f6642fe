"""A recipe as a backbone of a detector or segmenter: tensors in, a list of maps out.

The maps of one grid stand side by side, as the levels of a dense head do (:mod:`diffeat.tasks.dense.levels`); levels go
from fine to coarse, as pyramids expect. The diffusion model is no submodule: it stays as it is, and what is trained in
it (``tune``) is all that ``parameters()`` and ``state_dict()`` hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Recipe, load_source
from diffeat.features import FeatureMap, Prompts, Source
from diffeat.tasks.dense.levels import Layout, maps_apart
from diffeat.tasks.dense.tuned import Tuned, What, tuned_of


@dataclass(frozen=True)
class FeatureInfo:
    """A level of a backbone, in the words of timm.

    Attributes:
        num_chs: Its channels.
        reduction: Pixels of the model's image per cell: of the input where it has the size that the model sees.
        module: Names of the activations.
    """

    num_chs: int
    reduction: float
    module: str


class FeatureBackbone(nn.Module):
    """Features of a recipe as an ``nn.Module``; made by :func:`as_module`.

    Attributes:
        source: What reads them.
        feature_info: The levels, from fine to coarse.
    """

    def __init__(self, source: Source[FeatureMap], tuned: Tuned | None = None) -> None:
        super().__init__()
        self.source = source
        self._tuned = tuned
        for name, weight in () if tuned is None else tuned.named_parameters().items():
            self.register_parameter(name.replace(".", "/"), weight)  # names hold no dots
        example = source.extract(torch.full((1, 3, 64, 64), 0.5))[0]
        recipe: Any = source.recipe
        self._layout = Layout.of(recipe, example, mix=False)
        self.feature_info = tuple(
            FeatureInfo(level.channels, level.stride, " + ".join(_names(level.groups))) for level in self._layout.levels
        )

    @property
    def channels(self) -> list[int]:
        """Of every level."""
        return [info.num_chs for info in self.feature_info]

    @property
    def reductions(self) -> list[float]:
        """Of every level."""
        return [info.reduction for info in self.feature_info]

    def forward(self, images: Tensor, prompts: Prompts = None) -> list[Tensor]:
        """The levels, from fine to coarse.

        Args:
            images: (b, 3, h, w) in [0, 1], on any device.
            prompts: Texts, as ``extract`` takes them; the recipe's own by default.

        Returns:
            Float32 maps (b, c, h', w') over the whole input, on its device.

        Raises:
            InvalidValueError: The images are no such batch.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InvalidValueError(f"A backbone takes images (b, 3, h, w) in [0, 1], not {tuple(images.shape)}.")
        with nullcontext() if self._tuned is not None and torch.is_grad_enabled() else torch.no_grad():
            features = self.source.extract(images.detach(), prompts)
        return [
            torch.stack([torch.cat([f.inside(f[name]) for name in _names(level.groups)]) for f in features])
            .to(images.device)
            .float()
            for level in self._layout.levels
        ]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FeatureBackbone:
        """``.to``, ``.cuda`` and the like also move the diffusion model; its precision stays."""
        device = fn(torch.zeros(1)).device
        if isinstance(self.source, Extractor):
            if device != self.source.backbone.device:
                self.source.backbone.pipeline.to(device)
        elif device.type != "cpu":
            raise InvalidValueError(
                f"This recipe's models are placed when they are loaded: as_module(…, device={device.type!r})."
            )
        return super()._apply(fn, recurse)


def as_module(
    recipe: str | Path | Recipe | Source[FeatureMap],
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    tune: What = "none",
    rank: int = 8,
    seed: int = 0,
) -> FeatureBackbone:
    """A recipe as a backbone.

    Args:
        recipe: As :func:`~diffeat.load_source` takes it, or a source. Maps that it puts side by side stay apart where
            their grids differ.
        device: Of the models.
        dtype: Of the models.
        tune: What is trained in the diffusion model: ``"none"``, ``"lora"`` or ``"denoiser"``
            (:mod:`diffeat.tasks.dense.tuned`).
        rank: Of ``lora``.
        seed: Of its first weights.

    Raises:
        InvalidValueError: Something is to be tuned that cannot be.
        DiffeatError: As :func:`~diffeat.load_source`.

    Example:
        >>> import torch
        >>> backbone = as_module("baseline:rgb")
        >>> levels = backbone(torch.rand(2, 3, 32, 48))
        >>> [tuple(level.shape[:2]) for level in levels] == [(2, channels) for channels in backbone.channels]
        True
    """
    if isinstance(recipe, (str, Path, Recipe)):
        source: Source[FeatureMap] = load_source(maps_apart(Recipe.load(recipe)), device=device, dtype=dtype)
    else:
        source = recipe
    if tune == "none":
        return FeatureBackbone(source)
    tuned = tuned_of(source, tune, rank, seed=seed)
    if isinstance(source, Extractor):  # features stay attached to the denoiser's graph
        source = Extractor(source.recipe, source.backbone, batch_size=source.batch_size, grad=True)
    return FeatureBackbone(source, tuned)


def _names(groups: Sequence[Sequence[dict[str, int]]]) -> list[str]:
    return [name for group in groups for maps in group for name in maps]
