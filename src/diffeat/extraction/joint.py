"""Several recipes as one: their maps side by side at the largest grid, as published sets over several models do.

A joint recipe is a file with a list of parts, each a preset, a file or a whole recipe::

    name: mine
    parts: [gdf-sdxl, gdf-sd15-amalgamation]

Maps are resized bilinearly in original pixels, whatever each part's frame, and keep their scale; for parts that should
count alike see :class:`~diffeat.tasks.correspondence.late_fusion.LateFusion`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from diffeat.errors import DiffeatError, InvalidValueError, UnknownNameError, did_you_mean
from diffeat.extraction.extractor import Extractor, OnError
from diffeat.extraction.recipe import Recipe
from diffeat.features import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture
from diffeat.refinement import concatenate

_FOLDER = Path(__file__).parent.parent / "recipes" / "joint"


def joint_preset_names() -> list[str]:
    """Names of the joint recipes that come with the package, sorted."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml"))


def joint_text(name_or_path: str | Path) -> str:
    """The file of a joint recipe."""
    text = str(name_or_path)
    path = _FOLDER / f"{text}.yaml" if text in joint_preset_names() else Path(text)
    return path.read_text(encoding="utf-8")


def is_joint(name_or_path: str | Path) -> bool:
    """Whether this is a joint preset, or a YAML file with parts."""
    if str(name_or_path) in joint_preset_names():
        return True
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    return any(line.startswith("parts:") for line in path.read_text(encoding="utf-8").splitlines())


class JointRecipe:
    """The recipes of a joint recipe.

    Args:
        parts: Each joins its own maps into one.
        name: Of the whole.
        description: A line.
        source: Where it is from.
    """

    def __init__(self, parts: Sequence[Recipe], name: str = "joint", description: str = "", source: str = "") -> None:
        if len(parts) < 2:
            raise InvalidValueError(f"A joint recipe has two parts or more, got {len(parts)}.")
        self.parts = tuple(p if p.fuse is not None else p.replace(fuse={"kind": "concat"}) for p in parts)
        self.name, self.description, self.source = name, description, source
        self.prompt, self.template = parts[0].prompt, parts[0].template

    @classmethod
    def load(cls, name_or_path: str | Path) -> JointRecipe:
        """A joint preset by name, or a file.

        Raises:
            UnknownNameError: Neither.
            InvalidValueError: The file has no list of parts, or a part is no recipe.
        """
        text = str(name_or_path)
        path = _FOLDER / f"{text}.yaml" if text in joint_preset_names() else Path(text)
        if not path.is_file():
            raise UnknownNameError(f"There is no joint recipe {text!r}. {did_you_mean(text, joint_preset_names())}")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("parts"), list):
            raise InvalidValueError(
                f"{path.name} must have a list 'parts' of recipes: presets, files or whole recipes."
            )
        parts = [Recipe.from_dict(p) if isinstance(p, dict) else Recipe.load(p) for p in data["parts"]]
        return cls(parts, data.get("name", path.stem), data.get("description", ""), data.get("source", ""))

    @property
    def model(self) -> str:
        """The parts' models."""
        return " + ".join(p.model for p in self.parts)

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers."""
        return {"joint": [p.content() for p in self.parts]}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def text_for(self, prompt: str | None) -> str:
        """The text that all parts read: the first part's."""
        return self.parts[0].text_for(prompt)


class JointExtractor:
    """Features of a joint recipe; use it wherever an extractor is used.

    Args:
        recipe: What to extract.
        extractors: One for each part.
    """

    def __init__(self, recipe: JointRecipe, extractors: Sequence[Extractor]) -> None:
        self.recipe = recipe
        self.extractors = tuple(extractors)

    @classmethod
    def from_recipe(
        cls,
        recipe: str | Path | JointRecipe,
        models: Sequence[str] | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
    ) -> JointExtractor:
        """Load the recipe and its models.

        Args:
            recipe: Joint preset, file or recipe.
            models: Replace the parts' models, one for each.

        Raises:
            UnknownNameError: Unknown recipe or activation.
            InvalidValueError: Not one model for each part.
            ModelError: A model cannot be loaded.
        """
        loaded = recipe if isinstance(recipe, JointRecipe) else JointRecipe.load(recipe)
        if models is not None and len(models) != len(loaded.parts):
            raise InvalidValueError(f"{loaded.name} has {len(loaded.parts)} parts, {len(models)} models are given.")
        chosen = models or [None] * len(loaded.parts)
        options: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size}
        return cls(loaded, [Extractor.from_recipe(p, m, **options) for p, m in zip(loaded.parts, chosen, strict=True)])

    @property
    def fingerprint(self) -> str:
        """Tells the models' weights from others."""
        return hashlib.sha256("|".join(e.fingerprint for e in self.extractors).encode()).hexdigest()

    def extract(
        self, images: ImageLike | Sequence[ImageLike], prompts: str | Sequence[str | None] | None = None
    ) -> list[FeatureMap]:
        """Features of pictures, in their order: one map each."""
        several = list(images) if isinstance(images, (list, tuple)) else [images]
        return list(self.stream(several, prompts))

    def stream(
        self,
        images: Iterable[ImageLike],
        prompts: str | Sequence[str | None] | None = None,
        *,
        on_error: OnError | None = None,
    ) -> Iterator[FeatureMap]:
        """Like :meth:`extract`, one picture at a time; errors as :meth:`Extractor.stream`."""
        for index, image in enumerate(images):
            prompt = prompts if prompts is None or isinstance(prompts, str) else prompts[index]
            try:
                if not isinstance(image, Picture):
                    image = load_picture(image, self.recipe.text_for(prompt))
                yield self._join([next(e.stream([image])) for e in self.extractors])
            except DiffeatError as error:
                if on_error is None:
                    raise
                on_error(image.name if isinstance(image, Picture) else str(image), error)

    def _join(self, found: Sequence[FeatureMap]) -> FeatureMap:
        first = found[0]
        grid = max(((f.tensor.shape[1], f.tensor.shape[2]) for f in found), key=lambda g: g[0] * g[1])
        return FeatureMap(
            activations={"fused": concatenate([_over_picture(f) for f in found], grid)},
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


def _over_picture(features: FeatureMap) -> Tensor:
    """A map (c, h, w) over the picture alone; float32 on the CPU.

    Raises:
        InvalidValueError: The part's frame pads the picture.
    """
    if features.frame.padded:
        raise InvalidValueError("The parts of a joint recipe must not pad pictures: use frame mode squash or keep.")
    return features.tensor.float().cpu()
