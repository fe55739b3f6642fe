"""Several sources as one: their maps side by side (see :class:`diffeat.extraction.kinds.Joined`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.backbones import remembered
from diffeat.backbones.fingerprint import fingerprint
from diffeat.errors import InvalidValueError
from diffeat.extraction.joins.convolution import convolved, load_convolution
from diffeat.extraction.kinds import Joined
from diffeat.features import Failed, FeatureMap, Group, Picture, Source, Streams
from diffeat.geometry import sample_grid
from diffeat.refinement import concatenate
from diffeat.refinement.maps import largest_grid


class JoinedSource(Streams[FeatureMap]):
    """Runs the parts of a joined recipe over the same pictures.

    Args:
        recipe: How they are joined.
        sources: One for each part; each gives one map per picture.

    Raises:
        InvalidValueError: Not one source for each part.
    """

    def __init__(self, recipe: Joined, sources: Sequence[Source[FeatureMap]]) -> None:
        if len(sources) != len(recipe.parts):
            raise InvalidValueError(f"{recipe.name} has {len(recipe.parts)} parts, {len(sources)} sources are given.")
        self.recipe = recipe
        self.sources = tuple(sources)
        self.network = None if recipe.network is None else load_convolution(recipe.network)

    @property
    def fingerprint(self) -> str:
        """Tells the models, and what was trained to join them, from others."""
        parts = [s.fingerprint for s in self.sources]
        if self.network is not None:
            parts.append(fingerprint(self.network))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    @property
    def precision(self) -> str:
        """Those of the parts, each once."""
        return " + ".join(dict.fromkeys(source.precision for source in self.sources))

    @property
    def map_names(self) -> tuple[str, ...]:
        """Those of all parts, where they stay apart."""
        if self.recipe.join != "apart":
            return ()
        labelled = zip(self.recipe.part_labels, self.sources, strict=True)
        return tuple(f"{label}/{name}" for label, part in labelled for name in part.map_names or ("",))

    @contextmanager
    def session(self) -> Iterator[None]:
        """The sessions of all parts, which see the same pictures: one autoencoder encodes them once."""
        with ExitStack() as stack:
            stack.enter_context(remembered(memory=256e6))
            for source in self.sources:
                stack.enter_context(source.session())
            yield

    def group(self, picture: Picture) -> Group:
        """Pictures that all parts can read together, as many as the part with the smallest calls takes."""
        groups = [source.group(picture) for source in self.sources]
        follows = any(g.follows for g in groups)
        frames = tuple(frame for g in groups for frame in g.frames) if all(g.frames for g in groups) else ()
        return Group(tuple(g.key for g in groups), min(g.most for g in groups), follows, frames)

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap | Failed]:
        """Joined features of pictures of one group."""
        told = [p if p.text is not None else p.told(self.recipe.text_for(None)) for p in pictures]
        for results in zip(*(source.read(told) for source in self.sources), strict=True):
            features = [r for r in results if isinstance(r, FeatureMap)]
            failed = next((r for r in results if isinstance(r, Failed)), None)
            yield failed if failed is not None else self._joined(features)

    def _joined(self, features: list[FeatureMap]) -> FeatureMap:
        first = features[0]
        maps = _JOINS[self.recipe.join](features, self.recipe)
        if self.network is not None:
            maps = {name: convolved(self.network.to(joint.device), joint) for name, joint in maps.items()}
        return FeatureMap(
            activations=maps,
            frame=first.frame,
            image=first.image,
            digest=first.digest,
            provenance={
                "recipe": self.recipe.name,
                "recipe_hash": self.recipe.hash,
                "prompt": next((text for f in features if (text := f.provenance["prompt"])), ""),
                "parts": [f.provenance for f in features],
            },
        )


def concatenated(features: Sequence[FeatureMap]) -> Tensor:
    """Maps side by side at the largest grid among them, on the device of the first."""
    maps = [f.tensor.to(features[0].tensor.device, torch.float32) for f in features]
    return concatenate(maps, largest_grid(maps))


def _side_by_side(features: Sequence[FeatureMap], recipe: Joined) -> dict[str, Tensor]:
    return {"fused": concatenated(features)}


def apart(labels: Sequence[str], features: Sequence[FeatureMap]) -> dict[str, Tensor]:
    """All maps of several, called LABEL/MAP."""
    labelled = zip(labels, features, strict=True)
    return {f"{label}/{name}": values for label, part in labelled for name, values in part.activations.items()}


def _weighted(features: Sequence[FeatureMap], recipe: Joined) -> dict[str, Tensor]:
    first = features[0]
    parts = [
        F.normalize(_at_cells_of(first, f), dim=0) * share**0.5
        for f, share in zip(features, recipe.shares, strict=True)
    ]
    return {"fused": torch.cat(parts)}


#: By the name in a recipe's ``join``; a trained network, where there is one, runs over the result.
_JOINS: dict[str, Callable[[Sequence[FeatureMap], Joined], dict[str, Tensor]]] = {
    "concat": _side_by_side,
    "weighted": _weighted,
    "convolution": _side_by_side,
    "apart": lambda features, recipe: apart(recipe.part_labels, features),
}


def _at_cells_of(first: FeatureMap, features: FeatureMap) -> Tensor:
    """A map (c, h, w) read at the cell centres of another's grid, in its frame and on its device; float32."""
    tensor = features.tensor.to(first.tensor.device, torch.float32)
    frame, grid = first.frame, (first.tensor.shape[1], first.tensor.shape[2])
    if features.frame == frame and tuple(tensor.shape[1:]) == grid:
        return tensor
    theirs = (tensor.shape[1], tensor.shape[2])
    y, x = (
        features.frame.points_to_grid(frame.points_from_grid(points, grid), theirs)
        for points in (_along(grid[0], axis=1), _along(grid[1], axis=0))
    )
    return sample_grid(tensor, y[:, 1], x[:, 0], "bilinear")


def _along(count: int, axis: int) -> Tensor:
    """Cell centres (x, y) along one axis."""
    points = torch.zeros(count, 2, dtype=torch.float64)
    points[:, axis] = torch.arange(count)
    return points
