"""A dense network as a run folder keeps it, over the features of one picture at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import ModelError
from diffeat.features import FeatureMap, Source
from diffeat.tasks.dense.levels import Layout
from diffeat.tasks.dense.network import DenseNetwork
from diffeat.tasks.dense.options import DecoderOptions
from diffeat.tasks.dense.tuned import Tuned, tuned_of
from diffeat.tasks.predictors.head import GridHead


class DenseHead(GridHead):
    """A trained network over a recipe's maps.

    Args:
        network: In evaluation mode from here on.
        positive: Whether scores are logarithms of positive numbers, as of depth.
        tuned: What was trained in the backbone, if anything.
    """

    kind = "dense"

    def __init__(self, network: DenseNetwork, *, positive: bool = False, tuned: Tuned | None = None) -> None:
        self.network, self.positive, self.tuned = network, positive, tuned

    @classmethod
    def of(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor], source: Source[FeatureMap]) -> Self:
        """The head that :attr:`settings` and :meth:`state` describe; what was tuned goes into the source's backbone.

        Raises:
            ModelError: The weights are not of this head or this model.
        """
        layout, options = Layout.from_dict(settings["levels"]), DecoderOptions(**settings["options"])
        network = DenseNetwork(layout, settings["outputs"], options)
        tuned = None if settings.get("tuned") is None else tuned_of(source, **settings["tuned"])
        head = cls(network, positive=settings.get("positive", False), tuned=tuned)
        head.load(state)
        return head

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take weights.

        Raises:
            ModelError: They are not of this head or this model.
        """
        try:
            self.network.load_state_dict(_within(state, "network."))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"The weights do not fit the head that is told of: {reason}") from None
        if self.tuned is not None:
            self.tuned.load(_within(state, "tuned."))

    @property
    def settings(self) -> dict[str, Any]:
        """Levels, options and what was tuned."""
        network = self.network
        return {
            "levels": network.layout.to_dict(),
            "outputs": network.outputs,
            "options": network.options.model_dump(mode="json", exclude_defaults=True),
            "positive": self.positive,
            "tuned": None if self.tuned is None else self.tuned.settings,
        }

    def state(self) -> dict[str, Tensor]:
        """Weights of the network, and those that were tuned."""
        own = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        return own if self.tuned is None else own | {f"tuned.{n}": v for n, v in self.tuned.state_dict().items()}

    def to(self, device: torch.device) -> Self:
        """Move the network; returns itself."""
        self.network.to(device)
        return self

    @torch.no_grad()
    def scores(self, features: FeatureMap) -> Float[Tensor, "k h w"]:
        """On the finest grid.

        Raises:
            InvalidValueError: The features are not of the recipe that the head was trained on.
        """
        network = self.network.eval()
        network.layout.check(features.activations)
        weight = next(network.parameters())
        maps = {name: features[name][None].to(weight) for name in network.layout.names}
        scores = network(maps)[0][0]
        return scores.exp() if self.positive else scores


def _within(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
