"""Recipes of diffusion models: what to read out of which backbone.

A reading names the model, how a picture is brought to the model's size (``frame``), the text (``prompt``), which noisy
latents the denoiser sees (``trajectory``), which activations are read, and how they are joined (``fuse``). With
``views`` a picture is read several times, each a little differently, and the views are joined.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, model_validator
from pydantic_core import PydanticCustomError

from diffeat.errors import did_you_mean, shown
from diffeat.extraction.recipe import Option, Part, Recipe, labels
from diffeat.extraction.wanted import Wanted
from diffeat.geometry import FrameSpec, file_digest
from diffeat.refinement.adaln import Discard
from diffeat.refinement.maps import Resize
from diffeat.techniques.other_weights import OtherWeights
from diffeat.techniques.parse import Techniques

#: Pixels of a side that a recipe can ask for.
MOST_PIXELS = 2**14
#: Rows, a timestep and draw each, that a picture can take; calls of a walk.
_MOST_ROWS, _MOST_CALLS = 10_000, 1000

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Bounded = Annotated[float, Field(ge=-1e6, le=1e6)]
Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class Trajectory(Part, frozen=True):
    """Which latents the denoiser sees."""

    kind: Literal["noise", "clean", "inversion", "generation"] = Field(
        default="noise",
        description="noised to t; clean and only told t; on the way of an inversion; while a picture is generated",
    )
    timesteps: tuple[float, ...] = Field(
        default=(), description="0…999 of the training schedule, to 1000 of flow models (noise, clean)"
    )
    draws: int = Field(default=1, ge=1, le=1000, description="independent noise draws, averaged (noise, clean)")
    latent: Literal["mean", "sample"] = Field(
        default="sample", description="mean or a draw of the autoencoder's posterior"
    )
    steps: int | None = Field(
        default=None, ge=1, le=_MOST_CALLS, description="denoiser calls of the whole inversion or generation"
    )
    save: tuple[int, ...] | None = Field(
        default=None,
        description="which calls to read: 0 is next to noise, steps - 1 next to the clean picture; none: all",
    )
    guidance: Bounded | None = Field(
        default=None, description="scale of classifier-free guidance (inversion, generation)"
    )
    negative_prompt: str | None = Field(default=None, description="text of the other half of guidance")
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"] | None = Field(
        default=None, description="what the model must predict; none steps as the model at hand needs"
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
            raise ValueError("timesteps repeat; each is read once")
        if len(self.timesteps) * self.draws > _MOST_ROWS:
            raise ValueError(f"{len(self.timesteps)} timesteps × {self.draws} draws are more than {_MOST_ROWS} rows")
        low = -1 if self.kind == "clean" else 0
        for t in self.timesteps:
            if not low <= t <= 1000:
                raise ValueError(
                    f"timestep {t:g} is outside {low}…1000 (0 is least noise; 999, of flow models 1000, is pure noise)"
                )
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
                raise ValueError(f"save must name at least one step, and each once (got {shown(list(self.save))})")
            outside = [s for s in self.save if not 0 <= s < self.steps]
            if outside:
                raise ValueError(
                    f"save steps {shown(outside)} are outside the trajectory: with {self.steps} steps they run from 0 "
                    f"(next to noise) to {self.steps - 1} (next to the clean picture)"
                )
        if self.negative_prompt is not None and self.guidance is None:
            raise ValueError("negative_prompt belongs to guidance: give its scale as well")
        return self


class Refine(Part, frozen=True):
    """How ``adaln`` activations are made from the raw stream.

    With this field the raw streams of all draws are averaged first, then channels are discarded, then the mean is
    normalised and modulated with the model's own parameters. Without it an ``adaln`` activation is the mean of the
    modulated tensors that the model itself computed.
    """

    discard: Discard = Field(
        default="none",
        description="massive channels: kept, zeroed before the norm (pre) or after (post), or left out (drop)",
    )
    channels: str | tuple[int, ...] | dict[str, tuple[int, ...]] = Field(
        default="detected",
        description="which to discard: 'detected' in this model, or numbers, or numbers by activation",
    )
    ratio: Finite = Field(
        default=30.0,
        gt=1,
        description="of the detector: how many times the median channel a massive one is; 5 for tiny models",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Refine:
        if isinstance(self.channels, str) and self.channels != "detected":
            raise ValueError(f"channels must be 'detected' or numbers (got {shown(self.channels)})")
        if self.discard == "none" and self.channels != "detected":
            raise ValueError("channels are given, but discard is 'none': choose 'pre', 'post' or 'drop'")
        return self


class Weights(Part, frozen=True):
    """Other weights for the denoiser of the model (same architecture)."""

    source: str = Field(description="hub id of a repository, or a local folder or safetensors file")
    file: str | None = Field(default=None, description="file inside the repository or folder")
    revision: str | None = None
    sha256: str | None = Field(default=None, description="digest of the file; another file is then refused")

    def beside(self, folder: Path) -> Weights:
        """Those in a folder, where they are there: at their full path."""
        file = folder / self.source
        return self.model_copy(update={"source": os.path.abspath(file)}) if os.path.exists(file) else self

    def content(self) -> dict[str, Any]:
        """What tells them from others: the digest alone, if it is known."""
        return {"sha256": self.sha256} if self.sha256 else self.model_dump(mode="json", exclude_defaults=True)


class TrainedWeights(Weights, frozen=True):
    """Weights of a trained join. A relative source lies beside the recipe's file."""

    def beside(self, folder: Path) -> TrainedWeights:
        """Those in a folder, where they are there: at their full path, told by their digest."""
        if not os.path.exists(file := folder / self.source):
            return self
        path = file / (self.file or "model.safetensors") if file.is_dir() else file
        known = self.sha256 is not None or not path.is_file()
        return self.model_copy(
            update={"source": os.path.abspath(file), "sha256": self.sha256 if known else file_digest(path)}
        )


class Fuse(Part, frozen=True):
    """How the maps of one picture become one."""

    kind: Literal["concat", "mean", "hyperfeatures", "amalgamation", "apart"] = Field(
        default="concat", description="'apart' leaves the maps of views as they are, called VIEW/ACTIVATION"
    )
    grid: tuple[Side, Side] | None = Field(default=None, description="common grid [h, w]; none takes the largest")
    resize: Resize = Field(
        default="smooth",
        description="of maps to the grid: bilinear, averaging areas where they shrink; plain bilinear; nearest cell",
    )
    normalise: bool = Field(default=False, description="unit length per map and position before joining")
    weights: TrainedWeights | None = Field(default=None, description="of kinds 'hyperfeatures' and 'amalgamation'")


class ViewSpec(Part, frozen=True):
    """One of several readings of a picture; what it leaves out is the recipe's own."""

    name: str = ""
    model: str | None = Field(
        default=None, description="another model of this architecture and autoencoder: its denoiser and text encoders"
    )
    denoiser: Weights | None = Field(default=None, description="other weights for the model's denoiser")
    techniques: Techniques | None = Field(default=None, description="in place of the recipe's techniques")
    prompt: str | None = None
    timesteps: tuple[float, ...] | None = None
    seed: Seed | None = None
    activations: tuple[Wanted, ...] | None = None
    append: bool = Field(
        default=False, description="put beside the mixture of the others as it is, e.g. attention features"
    )

    @model_validator(mode="after")
    def _one_source(self) -> ViewSpec:
        if self.model is not None and self.denoiser is not None:
            raise ValueError("give model or denoiser: a model brings its own denoiser")
        return self

    @property
    def weights(self) -> OtherWeights | None:
        """Weights of its own."""
        if self.model is not None:
            return OtherWeights(model=self.model)
        return None if self.denoiser is None else OtherWeights(**self.denoiser.model_dump(exclude={"sha256"}))


def names_by_step(activations: Iterable[str], steps: Sequence[float]) -> tuple[str, ...]:
    """What maps are called that are not joined: by their step where there are several."""
    return tuple(f"{a}@{step:g}" if len(steps) > 1 else a for a in activations for step in steps)


def _frame(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    names = [field.name for field in fields(FrameSpec)]
    unknown = [(str(k), f"unknown field. {did_you_mean(str(k)[:40], names)}".rstrip()) for k in value if k not in names]
    if unknown:
        raise PydanticCustomError("part", "not valid", {"faults": unknown})
    try:
        frame = FrameSpec.from_dict(value)
    except TypeError:
        raise ValueError("a value is of a wrong type") from None
    sides = (frame.longer, frame.shorter, frame.multiple, *_sides(frame.size), *_sides(frame.load))
    if any(side is not None and side > MOST_PIXELS for side in sides):
        raise ValueError(f"a side has {MOST_PIXELS} pixels at most")
    return frame


def _sides(size: tuple[int, int] | int | None) -> tuple[int | None, ...]:
    return size if isinstance(size, tuple) else (size,)


class Reading(Recipe, frozen=True):
    """A recipe of one diffusion model. See the module docstring; every field is described in its JSON schema."""

    kind: Literal["reading"] = "reading"
    model: str = Field(description="alias, hub id or local path of a diffusers pipeline")
    denoiser: Weights | None = Field(default=None, description="other weights for the model's denoiser")
    frame: Annotated[FrameSpec, BeforeValidator(_frame)] = FrameSpec()
    conditioning: dict[str, Option] = Field(
        default_factory=dict, description="options of the family's conditioning, e.g. guidance"
    )
    trajectory: Trajectory
    activations: Annotated[tuple[Wanted, ...], BeforeValidator(lambda v: v if isinstance(v, (list, tuple)) else [v])]
    techniques: Techniques | None = Field(
        default=None, description="applied while features are read; 'diffeat gate --help' lists them"
    )
    views: tuple[ViewSpec, ...] | None = Field(
        default=None,
        max_length=64,
        description="several readings of a picture, by other techniques, text, timesteps or seed, joined by fuse",
    )
    refine: Refine | None = Field(
        default=None, description="AdaLN features from the mean of raw draws; channel discard"
    )
    low_pass: float | None = Field(
        default=None,
        gt=0,
        description="of every map only what is coarser than so many cycles per shorter side",
    )
    shrink: int | None = Field(
        default=None,
        ge=2,
        le=MOST_PIXELS,
        description="average every map over areas, this many times fewer cells a side",
    )
    fuse: Fuse | None = None
    seed: Seed = 0

    @field_serializer("frame")
    def _plain_frame(self, frame: FrameSpec) -> dict[str, Any]:
        return frame.to_dict()

    @model_validator(mode="after")
    def _whole(self) -> Reading:
        if not self.activations:
            raise ValueError("give at least one activation")
        if self.refine is not None and self.trajectory.stepped:
            raise ValueError("refine reads at noise levels (kind 'noise' or 'clean'), not along a trajectory")
        if (self.techniques or self.views) and self.trajectory.stepped:
            raise ValueError("techniques and views act at noise levels (kind 'noise'), not along a trajectory")
        if self.techniques and self.trajectory.kind != "noise":
            raise ValueError(
                f"techniques act on noisy latents; the trajectory is {self.trajectory.kind!r}: use 'noise'"
            )
        kind = self.fuse.kind if self.fuse is not None else None
        if self.views is None:
            if kind == "amalgamation":
                raise ValueError("fuse 'amalgamation' mixes views: name at least two under 'views'")
            if kind == "apart":
                raise ValueError("fuse 'apart' is of views; without views, leave fuse out")
            return self
        if kind not in ("concat", "mean", "amalgamation", "apart"):
            raise ValueError("a recipe with views needs fuse 'concat', 'mean', 'amalgamation' or 'apart'")
        if all(view.append for view in self.views):
            raise ValueError("give at least one view that is not appended")
        if self.refine is not None:
            raise ValueError("views are not refined")
        return self

    @property
    def map_names(self) -> tuple[str, ...]:
        if self.fuse is not None and self.fuse.kind == "apart":
            views = zip(self.view_labels, self.view_recipes(), strict=True)
            return tuple(f"{label}/{name}" for label, view in views for name in view.all_names)
        return () if self.fuse is not None else self.all_names

    @property
    def all_names(self) -> tuple[str, ...]:
        """Of the maps of a picture before they are joined, as far as the recipe tells."""
        return names_by_step(dict.fromkeys(map(str, self.activations)), self.trajectory.read_steps)

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers. Weights of known digest are named by it alone."""
        content = super().content()
        if self.fuse is not None and self.fuse.weights is not None:
            content["fuse"]["weights"] = self.fuse.weights.content()
        if self.denoiser is not None:
            content["denoiser"] = self.denoiser.content()
        return content

    def beside(self, folder: Path) -> Reading:
        """Trained weights that lie beside the recipe's file, found and told by their digest; another denoiser too."""
        found: dict[str, Any] = {}
        if self.fuse is not None and self.fuse.weights is not None:
            found["fuse.weights"] = self.fuse.weights.beside(folder)
        if self.denoiser is not None:
            found["denoiser"] = self.denoiser.beside(folder)
        return self.replace(**found) if found else self

    @property
    def view_labels(self) -> list[str]:
        """What tells views apart: their names, or numbers from 1 where a name is missing or stands for several."""
        return labels([view.name for view in self.views or ()])

    def view_recipes(self) -> list[Reading]:
        """A whole recipe for each view, without fusion; the recipe itself where there are no views."""
        if self.views is None:
            return [self]
        recipes = []
        for i, view in enumerate(self.views):
            changes: dict[str, Any] = {"views": None, "fuse": None, "name": f"{self.name}/{view.name or i + 1}"}
            changes |= {
                field: value
                for field in ("techniques", "prompt", "seed", "activations")
                if (value := getattr(view, field)) is not None
            }
            if view.weights is not None and view.model != self.model:
                changes["techniques"] = (view.weights, *(changes.get("techniques", self.techniques) or ()))
            if view.timesteps is not None:
                changes["trajectory.timesteps"] = view.timesteps
            recipes.append(self.replace(**changes))
        return recipes
