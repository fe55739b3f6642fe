r"""Late fusion: features of several models side by side.

Each model's map is brought to the grid of the first, made unit length at every position, scaled by
:math:`\sqrt{w_i}` and concatenated. With weights that sum to one, the cosine of two fused vectors is the weighted mean
of the single cosines, :math:`\sum_i w_i \cos_i`: weights say how much each model counts. (SD+DINO, Zhang et al.,
arXiv:2305.15347, fuses a diffusion model and DINOv2 like this.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.evaluation.features import FeatureSource
from diffeat.features import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture
from diffeat.geometry import Frame
from diffeat.tasks.correspondence.descriptors import sample_descriptors


class FusedRecipe:
    """The recipes of a fusion and their weights, as one recipe."""

    def __init__(self, recipes: Sequence[Any], weights: Sequence[float]) -> None:
        self.recipes = list(recipes)
        self.weights = [w / sum(weights) for w in weights]
        self.name = " + ".join(r.name for r in recipes)
        self.prompt = recipes[0].prompt
        self.template = getattr(recipes[0], "template", "{}")

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers."""
        return {"fusion": [r.content() for r in self.recipes], "weights": self.weights}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def text_for(self, prompt: str | None) -> str:
        """The text that all models read: the first recipe's."""
        return self.recipes[0].text_for(prompt)


class LateFusion:
    """Several sources of features as one. Use it wherever an extractor is used.

    Args:
        sources: Extractors; each must give one map per picture.
        weights: How much each counts; equal by default.

    Raises:
        InvalidValueError: Fewer than two sources, or weights that do not fit.
    """

    def __init__(self, sources: Sequence[FeatureSource], weights: Sequence[float] | None = None) -> None:
        chosen = list(weights) if weights is not None else [1.0] * len(sources)
        if len(sources) < 2:
            raise InvalidValueError("A fusion takes two sources or more.")
        if len(chosen) != len(sources) or not all(w > 0 for w in chosen):
            raise InvalidValueError(f"A fusion of {len(sources)} sources takes as many positive weights, got {chosen}.")
        self.sources = list(sources)
        self.recipe = FusedRecipe([s.recipe for s in sources], chosen)

    @property
    def fingerprint(self) -> str:
        """Tells the models' weights from others."""
        return "+".join(s.fingerprint for s in self.sources)

    def extract(
        self, images: ImageLike | Sequence[ImageLike], prompts: str | Sequence[str | None] | None = None
    ) -> list[FeatureMap]:
        """Fused features of pictures, in their order."""
        several = list(images) if isinstance(images, (list, tuple)) else [images]
        return list(self.stream(several, prompts))

    def stream(
        self,
        images: Iterable[ImageLike],
        prompts: str | Sequence[str | None] | None = None,
        *,
        on_error: Any = None,
    ) -> Iterator[FeatureMap]:
        """Like :meth:`extract`, one picture at a time.

        Args:
            on_error: Called with the name and the error of a picture that fails; raises by default.
        """
        for index, image in enumerate(images):
            prompt = prompts if prompts is None or isinstance(prompts, str) else prompts[index]
            try:
                if not isinstance(image, Picture):
                    image = load_picture(image, self.recipe.text_for(prompt))
                yield self._fuse(image)
            except DiffeatError as error:
                if on_error is None:
                    raise
                on_error(image.name if isinstance(image, Picture) else str(image), error)

    def _fuse(self, picture: Picture) -> FeatureMap:
        found = [next(source.stream([picture])) for source in self.sources]
        first = found[0]
        grid = (first.tensor.shape[1], first.tensor.shape[2])
        parts = [
            torch.nn.functional.normalize(_on_grid(f, first.frame, grid), dim=0) * w**0.5
            for f, w in zip(found, self.recipe.weights, strict=True)
        ]
        return FeatureMap(
            activations={"fused": torch.cat(parts)},
            frame=first.frame,
            image=first.image,
            digest=first.digest,
            provenance={
                "recipe": self.recipe.name,
                "recipe_hash": self.recipe.hash,
                "prompt": first.provenance.get("prompt", ""),
                "parts": [f.provenance for f in found],
            },
        )


def _on_grid(features: FeatureMap, frame: Frame, grid: tuple[int, int]) -> Tensor:
    """A map (c, h, w) read at the cell centres of another frame's grid; float32 on the CPU."""
    tensor = features.tensor.float().cpu()
    if features.frame == frame and tuple(tensor.shape[1:]) == grid:
        return tensor
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = frame.points_from_grid(torch.stack((x, y), -1).reshape(-1, 2).double(), grid)
    cells = features.frame.points_to_grid(centres, (tensor.shape[1], tensor.shape[2]))
    return sample_descriptors(tensor, cells).T.reshape(-1, *grid)
