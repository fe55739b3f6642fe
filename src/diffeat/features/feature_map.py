"""The features of one picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean, shown
from diffeat.geometry import Frame
from diffeat.notebook import Displayed, Html, pictures, table
from diffeat.viz import pca_colours

_CELLS = 24  # of a side, in a notebook


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
    return all(map(math.isfinite, value_range(values)))


def finite_each(several: Sequence[Tensor]) -> list[bool]:
    """Of each, whether no value is NaN or infinite; a device is waited for once."""
    ranges = [torch.stack(t.detach().aminmax()).float() if t.numel() else t.new_zeros(2).float() for t in several]
    return torch.isfinite(torch.stack(ranges)).all(1).tolist() if ranges else []


@dataclass(repr=False)
class FeatureMap(Displayed):
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

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        first = next(iter(self.activations), "")
        more = f" and {len(self.activations) - 1} more" if len(self.activations) > 1 else ""
        facts = {"maps": f"{first} {_shape(self[first])}{more}"} if self.activations else {"maps": "none"}
        facts["picture"] = "{}×{}".format(*self.frame.original)
        recipe = self.provenance.get("recipe")
        return self.image, {**facts, "recipe": recipe} if recipe else facts

    def _details(self) -> Iterator[Html]:
        maps = self.activations.items()
        yield pictures((name, colours) for name, v in maps if (colours := _colours(v)) is not None)
        yield table(
            ["map", "c × h × w", "values"],
            [[name, _shape(v), "{:.3g} … {:.3g}".format(*value_range(v))] for name, v in maps if not v.is_meta],
        )

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

    def pooled(self, name: str) -> Tensor:
        """The mean (C,) over the cells of one map, in float32 on the CPU; padding does not count.

        Raises:
            UnknownNameError: There is no such map.
        """
        return self.inside(self[name].float().cpu()).mean((1, 2))

    def inside(self, values: Tensor) -> Tensor:
        """A map ``(…, h, w)`` of the picture without the cells that see nothing but padding."""
        top, left, height, width = self.frame.content_cells((values.shape[-2], values.shape[-1]))
        return values[..., top : top + height, left : left + width]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.activations:
            raise UnknownNameError(f"No activation {shown(name)} here. {did_you_mean(name, self.activations)}")
        return self.activations[name]


def _shape(values: Tensor) -> str:
    return f"{'×'.join(map(str, values.shape))} {str(values.dtype).removeprefix('torch.')}"


def _colours(values: Tensor) -> Image.Image | None:
    """A map (C, h, w) in PCA colours, made small first."""
    if values.ndim != 3 or values.is_meta or 0 in values.shape:
        return None
    grid = min(_CELLS, values.shape[1]), min(_CELLS, values.shape[2])
    small = torch.nn.functional.adaptive_avg_pool2d(values.detach().float()[None], grid)[0]
    return Image.fromarray(pca_colours([small])[0])
