"""The levels of a dense network: the maps of a picture ordered by their grids, from fine to coarse.

Maps of one grid make a level, whatever activations, views or models they come from. Of a level, the views of a recipe
are mixed with learned weights where they have the same channels by intent; everything else stands side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.extraction import Joined, Reading, Recipe
from diffeat.features import FeatureMap


def maps_apart(recipe: Recipe) -> Recipe:
    """The recipe with its maps as they are, where it puts them side by side or mixes views: the network does that.

    Example:
        >>> recipe = Recipe.load("gdf-sd15")
        >>> recipe.fuse.kind, maps_apart(recipe).fuse
        ('concat', None)
    """
    if isinstance(recipe, Joined):
        if recipe.join == "convolution":
            return recipe
        parts = tuple(map(maps_apart, recipe.parts))
        return recipe.replace(parts=parts, join="apart", weights=None)
    if not isinstance(recipe, Reading) or recipe.fuse is None:
        return recipe
    if recipe.views is not None:
        return recipe.replace(fuse={"kind": "apart"})
    return recipe.replace(fuse=None) if recipe.fuse.kind == "concat" and not recipe.fuse.normalise else recipe


#: Names of maps, and their channels.
Maps = dict[str, int]


@dataclass(frozen=True)
class Level:
    """The maps of one grid.

    Attributes:
        stride: Pixels of the model's image per cell.
        grid: (rows, columns) of the example that the layout was made from.
        groups: What stands side by side; of a group, the readings that are mixed; of a reading, its maps.
    """

    stride: float
    grid: tuple[int, int]
    groups: tuple[tuple[Maps, ...], ...]

    @property
    def channels(self) -> int:
        """After mixing."""
        return sum(sum(group[0].values()) for group in self.groups)

    def __str__(self) -> str:
        shown = []
        for group in self.groups:
            names = " + ".join(f"{name} ({channels})" for name, channels in group[0].items())
            shown.append(names if len(group) == 1 else f"{len(group)} views mixed, each {names}")
        return f"stride {self.stride:g} ({self.grid[0]}×{self.grid[1]}), {self.channels} channels: " + ", ".join(shown)


@dataclass(frozen=True)
class Layout:
    """The levels of a recipe, from fine to coarse."""

    levels: tuple[Level, ...]

    @classmethod
    def of(cls, recipe: Recipe, example: FeatureMap, mix: bool = True) -> Self:
        """The levels of a picture's maps.

        Args:
            recipe: That they are read by; tells which are of views.
            example: The maps of a picture.
            mix: Whether views are mixed with weights; otherwise they stand side by side.

        Raises:
            InvalidValueError: Views that are to be mixed differ in channels.
        """
        readings = sorted(_readings(recipe), key=lambda reading: -len(reading[0]))
        by_grid: dict[tuple[int, int], dict[str, dict[str, Maps]]] = {}
        for name, values in example.activations.items():
            grid = (values.shape[-2], values.shape[-1])
            prefix, views = next((p, g) for p, g in readings if name.startswith(p))
            group = views if mix and views else prefix
            by_grid.setdefault(grid, {}).setdefault(group, {}).setdefault(prefix, {})[name] = values.shape[0]
        levels = []
        for grid in sorted(by_grid, key=lambda g: -g[0] * g[1]):
            groups = tuple(tuple(group.values()) for group in by_grid[grid].values())
            for group in groups:
                if len({tuple(maps.values()) for maps in group}) > 1:
                    raise InvalidValueError(
                        f"Views are mixed channel by channel, but at {grid[0]}×{grid[1]} they have "
                        f"{[sum(maps.values()) for maps in group]} channels. Give them the same activations, mark the "
                        "odd one 'append: true', or put all side by side (--mix concat)."
                    )
            levels.append(Level(example.frame.model[0] / grid[1], grid, groups))
        return cls(tuple(levels))

    @property
    def names(self) -> list[str]:
        """Of all maps."""
        return [name for level in self.levels for group in level.groups for maps in group for name in maps]

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values for JSON."""
        return [
            {"stride": level.stride, "grid": list(level.grid), "groups": [list(map(dict, g)) for g in level.groups]}
            for level in self.levels
        ]

    @classmethod
    def from_dict(cls, levels: Sequence[Mapping[str, Any]]) -> Self:
        """The layout that :meth:`to_dict` described."""
        return cls(
            tuple(
                Level(e["stride"], (e["grid"][0], e["grid"][1]), tuple(tuple(map(dict, g)) for g in e["groups"]))
                for e in levels
            )
        )

    def check(self, maps: Mapping[str, Tensor]) -> None:
        """Refuse maps of another recipe.

        Raises:
            InvalidValueError: A map is missing, or has other channels.
        """
        for level in self.levels:
            for group in level.groups:
                for name, channels in (item for reading in group for item in reading.items()):
                    if name not in maps:
                        raise InvalidValueError(
                            f"The head takes the map {name!r}, which the features do not have; they are of another "
                            "recipe than it was trained on."
                        )
                    if maps[name].shape[-3] != channels:
                        raise InvalidValueError(
                            f"The head takes {channels} channels of {name!r}, the features have "
                            f"{maps[name].shape[-3]}: they are of another model than it was trained on."
                        )

    def __str__(self) -> str:
        return "\n".join(f"level {i}: {level}" for i, level in enumerate(self.levels))


def _readings(recipe: Recipe, prefix: str = "") -> Iterator[tuple[str, str]]:
    """How the names of each reading's maps begin, and the group of views that it is mixed with; empty for none."""
    if isinstance(recipe, Joined) and recipe.join == "apart":
        for label, part in zip(recipe.part_labels, recipe.parts, strict=True):
            yield from _readings(part, f"{prefix}{label}/")
    elif isinstance(recipe, Reading) and recipe.fuse is not None and recipe.fuse.kind == "apart":
        for label, view in zip(recipe.view_labels, recipe.views or (), strict=True):
            yield f"{prefix}{label}/", "" if view.append else f"views of {prefix}"
    else:
        yield prefix, ""
