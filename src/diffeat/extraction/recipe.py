"""What to read out of which backbone, as a file a user can open, understand and change.

A recipe names the model, how a picture is brought to the model's size (``frame``), the text (``prompt``), which noisy
latents the denoiser sees (``trajectory``), which activations are read, and how they are joined (``fuse``). It is
frozen and validated; unknown fields are errors. Its hash covers everything that changes the numbers and nothing else,
so it can key stored features.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_serializer, model_validator

from diffeat.activations import MapRequest
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.extraction.presets import preset_names, preset_path
from diffeat.geometry import FrameSpec


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trajectory(_Part):
    """Which latents the denoiser sees."""

    kind: Literal["noise", "clean"] = Field("noise", description="noised to t, or clean and only told t")
    timesteps: tuple[float, ...] = Field(description="0…1000 of the training schedule")
    draws: int = Field(1, ge=1, description="independent noise draws, averaged")
    latent: Literal["mean", "sample"] = Field("sample", description="mean or a draw of the autoencoder's posterior")

    @model_validator(mode="after")
    def _in_range(self) -> Trajectory:
        if not self.timesteps:
            raise ValueError("give at least one timestep")
        if len(set(self.timesteps)) != len(self.timesteps):
            raise ValueError(f"timesteps repeat: {list(self.timesteps)}")
        low = -1 if self.kind == "clean" else 0
        for t in self.timesteps:
            if not low <= t <= 1000:
                raise ValueError(f"timestep {t:g} is outside {low}…1000 (0 is clean, 1000 pure noise)")
        if self.kind == "clean" and self.latent == "mean" and self.draws > 1:
            raise ValueError("a clean trajectory from the posterior mean has no randomness: draws must be 1")
        return self


class MapActivation(_Part):
    """An attention map and how it is reduced to a feature map."""

    id: str
    heads: Literal["mean", "all"] = "mean"
    tokens: tuple[int, ...] | None = Field(None, description="which key tokens; none takes all")


class Fuse(_Part):
    """How the maps of one picture become one."""

    kind: Literal["concat", "mean"] = "concat"
    grid: tuple[int, int] | None = Field(None, description="common grid [h, w]; none takes the largest")
    normalise: bool = Field(False, description="unit length per map and position before joining")


class Weights(_Part):
    """Other weights for the denoiser of the model (same architecture)."""

    source: str = Field(description="hub id of a repository, or a local folder or safetensors file")
    file: str | None = Field(None, description="file inside the repository or folder")
    revision: str | None = None


def _frame(value: Any) -> Any:
    return FrameSpec.from_dict(value) if isinstance(value, dict) else value


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


class Recipe(_Part):
    """A validated recipe. See the module docstring; every field is described in its JSON schema."""

    name: str = "unnamed"
    description: str = ""
    source: str = Field("", description="paper and section the numbers come from")
    model: str = Field(description="alias, hub id or local path of a diffusers pipeline")
    denoiser: Weights | None = None
    frame: Annotated[FrameSpec, BeforeValidator(_frame)] = FrameSpec()
    prompt: str = Field("", description="text used where the caller gives none")
    template: str = Field("{}", description="wraps a caller's text, e.g. 'a photo of a {}'")
    conditioning: dict[str, float | int | str | bool] = Field(
        default_factory=dict, description="options of the family's conditioning, e.g. guidance"
    )
    trajectory: Trajectory
    activations: Annotated[tuple[str | MapActivation, ...], BeforeValidator(_one_or_many)]
    fuse: Fuse | None = None
    seed: int = 0

    @field_serializer("frame")
    def _plain_frame(self, frame: FrameSpec) -> dict[str, Any]:
        return frame.to_dict()

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if not self.activations:
            raise ValueError("give at least one activation")
        if self.template.count("{}") != 1:
            raise ValueError(f"template {self.template!r} must hold '{{}}' once, where the caller's text goes")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path | Recipe) -> Recipe:
        """A preset by name, a YAML file by path, or a recipe as it is.

        Raises:
            UnknownNameError: If it is neither a preset nor a file; names the nearest presets.
            InvalidValueError: If the file is not a valid recipe; names the field and what it takes.
        """
        if isinstance(name_or_path, Recipe):
            return name_or_path
        text = str(name_or_path)
        if text in preset_names():
            return cls.from_yaml(preset_path(text).read_text(encoding="utf-8"), origin=f"preset {text!r}")
        path = Path(text)
        if path.is_file():
            return cls.from_yaml(path.read_text(encoding="utf-8"), origin=f"recipe file {text!r}")
        what = "recipe file" if path.suffix in {".yaml", ".yml"} else "recipe"
        hint = did_you_mean(text, preset_names()) or "List the presets with: diffeat recipes."
        raise UnknownNameError(f"There is no {what} {text!r}. {hint} A path to a YAML file works too.")

    @classmethod
    def from_yaml(cls, text: str, origin: str = "recipe") -> Recipe:
        """Parse and validate YAML text.

        Raises:
            InvalidValueError: If the text is not YAML or not a valid recipe.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InvalidValueError(f"The {origin} is not valid YAML: {error}") from None
        if not isinstance(data, dict):
            raise InvalidValueError(f"The {origin} must be a mapping of fields, got {type(data).__name__}.")
        return cls.from_dict(data, origin)

    @classmethod
    def from_dict(cls, data: dict[str, Any], origin: str = "recipe") -> Recipe:
        """Validate a mapping.

        Raises:
            InvalidValueError: Naming each wrong field, what it got and the nearest valid field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidValueError(f"The {origin} is not valid:\n" + "\n".join(_explain(error))) from None

    def replace(self, **changes: Any) -> Recipe:
        """A copy with other values, validated anew. Nested fields go by dots: ``**{"trajectory.draws": 4}``."""
        data = self.model_dump()
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            place = data
            for parent in parents:
                place[parent] = dict(place[parent] or {})
                place = place[parent]
            place[leaf] = value
        return self.from_dict(data, origin=f"changed recipe {self.name!r}")

    def to_yaml(self) -> str:
        """YAML text that :meth:`from_yaml` reads back to an equal recipe."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path) -> None:
        """Write the recipe as a YAML file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers, as plain JSON data."""
        return self.model_dump(mode="json", exclude={"name", "description", "source"})

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`: equal for recipes that give equal features."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def text_for(self, prompt: str | None) -> str:
        """The prompt that the model reads for a caller's text (``None`` or empty: the recipe's own)."""
        return self.template.replace("{}", prompt) if prompt else self.prompt

    def requests(self) -> list[str | MapRequest]:
        """The activations in the form that taps take."""
        return [
            a if isinstance(a, str) else MapRequest(a.id, heads=a.heads, tokens=list(a.tokens) if a.tokens else None)
            for a in self.activations
        ]


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(p) for p in item["loc"]) or "recipe"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            valid = _fields_at(item["loc"][:-1])
            message = f"unknown field. {did_you_mean(str(item['loc'][-1]), valid)}".rstrip()
        elif item["type"] == "missing":
            message = "this field is required"
        elif "input" in item and not isinstance(item["input"], dict):
            message += f" (got {item['input']!r})"
        lines.append(f"  {place}: {message}")
    return lines


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    parts = {"trajectory": Trajectory, "fuse": Fuse, "denoiser": Weights}
    model: type[BaseModel] = parts.get(str(location[0]), MapActivation) if location else Recipe
    return list(model.model_fields)
