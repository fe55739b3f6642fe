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
from diffeat.extraction.refine import Refine
from diffeat.extraction.view_spec import ViewSpec, check_views
from diffeat.geometry import FrameSpec, file_digest
from diffeat.techniques.union import Techniques

#: Fields that came after recipes were first stored, of the recipe ("") and of its parts; absent from the content (and
#: so the hash) where they are not used.
LATER_FIELDS = {
    "": ("refine", "shrink", "techniques", "views"),
    "trajectory": ("steps", "save", "guidance", "negative_prompt", "prediction"),
    "fuse": ("weights",),
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trajectory(_Part):
    """Which latents the denoiser sees."""

    kind: Literal["noise", "clean", "inversion", "generation"] = Field(
        "noise",
        description="noised to t; clean and only told t; on the way of an inversion; while a picture is generated",
    )
    timesteps: tuple[float, ...] = Field((), description="0…1000 of the training schedule (noise, clean)")
    draws: int = Field(1, ge=1, description="independent noise draws, averaged (noise, clean)")
    latent: Literal["mean", "sample"] = Field("sample", description="mean or a draw of the autoencoder's posterior")
    steps: int | None = Field(None, ge=1, description="denoiser calls of the whole inversion or generation")
    save: tuple[int, ...] | None = Field(
        None, description="which calls to read: 0 is next to noise, steps - 1 next to the clean picture; none: all"
    )
    guidance: float | None = Field(None, description="scale of classifier-free guidance (inversion, generation)")
    negative_prompt: str | None = Field(None, description="text of the other half of guidance")
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] | None = Field(
        None, description="what the model must predict; none steps as the model at hand needs"
    )

    @property
    def stepped(self) -> bool:
        """Whether the denoiser walks from call to call (inversion, generation)."""
        return self.kind in ("inversion", "generation")

    @property
    def read_steps(self) -> tuple[float, ...]:
        """What tells the maps of one activation apart: save indices of a walk, else timesteps."""
        if not self.stepped:
            return self.timesteps
        return tuple(float(s) for s in (self.save if self.save is not None else reversed(range(self.steps or 0))))

    @model_validator(mode="after")
    def _in_range(self) -> Trajectory:
        if self.stepped:
            return self._walk_in_range()
        for name in ("steps", "save", "guidance", "negative_prompt", "prediction"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} belongs to kind 'inversion' or 'generation', not to {self.kind!r}")
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

    def _walk_in_range(self) -> Trajectory:
        if self.steps is None:
            raise ValueError(f"kind {self.kind!r} needs steps, the number of denoiser calls of the whole way")
        if self.timesteps or self.draws != 1:
            raise ValueError(f"kind {self.kind!r} takes steps and save in place of timesteps and draws")
        if self.save is not None:
            if not self.save or len(set(self.save)) != len(self.save):
                raise ValueError(f"save must name at least one step, and each once (got {list(self.save)})")
            outside = [s for s in self.save if not 0 <= s < self.steps]
            if outside:
                raise ValueError(
                    f"save steps {outside} are outside the trajectory: with {self.steps} steps they run from 0 (next "
                    f"to noise) to {self.steps - 1} (next to the clean picture)"
                )
        if self.negative_prompt is not None and self.guidance is None:
            raise ValueError("negative_prompt belongs to guidance: give its scale as well")
        return self


class MapActivation(_Part):
    """An attention map and how it is reduced to a feature map."""

    id: str
    heads: Literal["mean", "all"] = "mean"
    tokens: tuple[int, ...] | None = Field(None, description="which key tokens; none takes all")


class AttentionActivation(_Part):
    """Attention averaged over heads and layers, a channel per token (see :mod:`diffeat.extraction.composed`)."""

    attention: Literal["down_cross", "mid_cross", "up_cross", "down_self", "mid_self", "up_self"]

    def __str__(self) -> str:
        return f"attention:{self.attention}"


class Weights(_Part):
    """Other weights for the denoiser of the model (same architecture)."""

    source: str = Field(description="hub id of a repository, or a local folder or safetensors file")
    file: str | None = Field(None, description="file inside the repository or folder")
    revision: str | None = None


class TrainedWeights(Weights):
    """Weights of a trained fusion. A relative source lies beside the recipe's file."""

    sha256: str | None = Field(None, description="digest of the file; another file is then refused")


class Fuse(_Part):
    """How the maps of one picture become one."""

    kind: Literal["concat", "mean", "hyperfeatures", "amalgamation"] = "concat"
    grid: tuple[int, int] | None = Field(None, description="common grid [h, w]; none takes the largest")
    normalise: bool = Field(False, description="unit length per map and position before joining")
    weights: TrainedWeights | None = Field(None, description="of kinds 'hyperfeatures' and 'amalgamation'")


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
    activations: Annotated[tuple[str | AttentionActivation | MapActivation, ...], BeforeValidator(_one_or_many)]
    techniques: Techniques | None = Field(
        None, description="applied while features are read; 'diffeat gate --help' lists them"
    )
    views: tuple[ViewSpec, ...] | None = Field(
        None, description="several readings of a picture, by other techniques, text, timesteps or seed, joined by fuse"
    )
    refine: Refine | None = Field(None, description="AdaLN features from the mean of raw draws; channel discard")
    shrink: int | None = Field(
        None, ge=2, description="average every map over areas, this many times fewer cells a side"
    )
    fuse: Fuse | None = None
    seed: int = 0

    @field_serializer("frame")
    def _plain_frame(self, frame: FrameSpec) -> dict[str, Any]:
        return frame.to_dict()

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        if not self.activations:
            raise ValueError("give at least one activation")
        if self.refine is not None and self.trajectory.stepped:
            raise ValueError("refine reads at noise levels (kind 'noise' or 'clean'), not along a trajectory")
        if self.template.count("{}") != 1:
            raise ValueError(f"template {self.template!r} must hold '{{}}' once, where the caller's text goes")
        check_views(self)
        return self

    @classmethod
    def load(cls, name_or_path: str | Path | Recipe) -> Recipe:
        """A preset by name, a YAML file by path, a layer file of Generic Diffusion Feature, or a recipe as it is.

        Raises:
            UnknownNameError: If it is neither a preset nor a file; names the nearest presets.
            InvalidValueError: If the file is not a valid recipe; names the field and what it takes.
        """
        if isinstance(name_or_path, Recipe):
            return name_or_path
        text = str(name_or_path)
        preset = text in preset_names()
        path = preset_path(text) if preset else Path(text)
        if path.suffix == ".json":
            from diffeat.extraction.gdf_config import is_layer_file, recipe_from_gdf

            if is_layer_file(path):
                return recipe_from_gdf(path)
        if path.is_file():
            origin = f"preset {text!r}" if preset else f"recipe file {text!r}"
            return cls.from_yaml(path.read_text(encoding="utf-8"), origin)._beside(path.parent)
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
        """The fields that change the numbers, as plain JSON data. Weights of known digest are named by it alone."""
        told = self.model_dump(mode="json", exclude={"name", "description", "source"})
        for part, names in LATER_FIELDS.items():
            place = told[part] if part else told
            for name in names:
                if place is not None and place[name] is None:
                    del place[name]
        weights = (told["fuse"] or {}).get("weights")
        if weights and weights["sha256"]:
            told["fuse"]["weights"] = {"sha256": weights["sha256"]}
        return told

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`: equal for recipes that give equal features."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def _beside(self, folder: Path) -> Recipe:
        """Trained weights that lie beside the recipe's file, found and told by their digest."""
        weights = None if self.fuse is None else self.fuse.weights
        if weights is None or not (folder / weights.source).exists():
            return self
        found = folder / weights.source
        if found.is_dir():
            found = found / (weights.file or "model.safetensors")
        changes: dict[str, Any] = {"fuse.weights.source": str((folder / weights.source).resolve())}
        if weights.sha256 is None and found.is_file():
            changes["fuse.weights.sha256"] = file_digest(found)
        return self.replace(**changes)

    @property
    def all_techniques(self) -> list[Any]:
        """The techniques of the recipe and of its views."""
        return [t for part in (self, *(self.views or ())) for t in part.techniques or ()]

    def text_for(self, prompt: str | None) -> str:
        """The prompt that the model reads for a caller's text (``None`` or empty: the recipe's own)."""
        return self.template.replace("{}", prompt) if prompt else self.prompt

    def requests(self) -> list[str | MapRequest | None]:
        """The activations in the form that taps take; ``None`` for those that are composed of several."""
        return [_request(a) for a in self.activations]


def _request(activation: str | AttentionActivation | MapActivation) -> str | MapRequest | None:
    if isinstance(activation, MapActivation):
        tokens = list(activation.tokens) if activation.tokens else None
        return MapRequest(activation.id, heads=activation.heads, tokens=tokens)
    return activation if isinstance(activation, str) else None


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
    parts = {"trajectory": Trajectory, "fuse": Fuse, "denoiser": Weights, "refine": Refine}
    model: type[BaseModel] = parts.get(str(location[0]), MapActivation) if location else Recipe
    return list(model.model_fields)
