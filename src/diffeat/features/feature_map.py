"""The features of one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean, shown
from diffeat.geometry import Frame


def value_range(values: Tensor) -> tuple[float, float]:
    """The least and the greatest value, in one pass; NaN, or infinite, where one of the values is. (0, 0) of none.

    Example:
        >>> value_range(torch.tensor([3.0, -1.0])), value_range(torch.tensor([3.0, torch.nan]))
        ((-1.0, 3.0), (nan, nan))
    """
    if not values.numel():
        return 0.0, 0.0
    low, high = torch.stack(values.detach().aminmax()).tolist()
    return low, high


def finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return all(map(math.isfinite, value_range(values)))


def finite_each(several: Sequence[Tensor]) -> list[bool]:
    """Of each, whether no value is NaN or infinite; a device is waited for once."""
    ranges = [torch.stack(t.detach().aminmax()).float() if t.numel() else t.new_zeros(2).float() for t in several]
    return torch.isfinite(torch.stack(ranges)).all(1).tolist() if ranges else []


@dataclass
class FeatureMap:
    """The features of one picture, with all that is needed to find its pixels again.

    Attributes:
        activations: Name to map ``(C, h, w)``; grids may differ.
        frame: How the picture lies in the model's image.
        image: The picture's name.
        digest: Hash of the picture; its key in a store.
        provenance: Recipe, model, prompt and versions, as plain JSON data.
    """

    activations: dict[str, Tensor]
    frame: Frame
    image: str = ""
    digest: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def tensor(self) -> Tensor:
        """The map ``(C, h, w)`` where there is one only.

        Raises:
            InvalidValueError: There are several; the message names them.
        """
        if len(self.activations) != 1:
            names = ", ".join(self.activations) or "none"
            raise InvalidValueError(
                f"{self.image or 'This picture'} has {len(self.activations)} maps, not one ({names}). "
                "Choose by name: feature[name], or join them in the recipe (fuse: {kind: concat})."
            )
        return next(iter(self.activations.values()))

    @property
    def bytes(self) -> int:
        """Memory that the maps take."""
        return sum(tensor.nbytes for tensor in self.activations.values())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.activations:
            raise UnknownNameError(f"No activation {shown(name)} here. {did_you_mean(name, self.activations)}")
        return self.activations[name]
