"""Several recipes over the same pictures, each giving what it gives alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from diffeat.__about__ import __version__
from diffeat.ambient import neutral
from diffeat.backbones import Backbone
from diffeat.backbones.fingerprint import fingerprint, with_parts
from diffeat.errors import InvalidValueError, NonFiniteError
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.detect import massive_channels
from diffeat.extraction.engine import Engine, Maps, Read
from diffeat.extraction.join import join_of
from diffeat.extraction.joins.hyperfeatures import Hyperfeatures
from diffeat.extraction.plan import Plan, Reader
from diffeat.extraction.reading import Reading
from diffeat.extraction.reduce import AdaLN, Place
from diffeat.extraction.walker import Walker
from diffeat.features import Failed, FeatureMap, Group, Picture, Streams
from diffeat.features.feature_map import finite_each
from diffeat.techniques.named import function_name
from diffeat.techniques.weights import fingerprint_with
from diffeat.trajectories import NoiseSource, own_noise


class Views(Streams[list[FeatureMap]]):
    """Runs recipes of one model together; gives a list of features for every picture, one for each recipe.

    Args:
        recipes: One or several; they share model, frame and conditioning options.
        backbone: The model.
        batch_size: Rows of one denoiser call (one row is one picture at one timestep and draw); ``None`` chooses by
            memory.
        grad: Keep features attached to the denoiser's graph, to fine-tune it. Images are encoded without gradient.
        noise: Noise of your own in place of that keyed by picture, timestep and draw: a function (see
            :class:`~diffeat.trajectories.NoiseSource`), or a tensor ``(c, h, w)`` or ``(timesteps × draws, c, h, w)``.
        base: The recipe whose views these are, for the texts of pictures; the first by default.

    Raises:
        UnknownNameError: An activation that the model does not have.
        InvalidValueError: The recipes cannot be run together.
    """

    @neutral()
    def __init__(
        self,
        recipes: Sequence[Reading],
        backbone: Backbone,
        *,
        batch_size: int | None = None,
        grad: bool = False,
        noise: NoiseSource | Tensor | None = None,
        base: Reading | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InvalidValueError(f"batch_size must be at least 1, got {batch_size}.")
        # Every name is resolved now, so that a misspelt activation is reported before any picture is read.
        self._massive: dict[Place, Sequence[int]] = {}
        self.plan = Plan.of(recipes, backbone, self._massive)
        self.recipe = base or recipes[0]
        self.backbone = backbone
        self._own_noise, self._grad = noise, grad
        path = recipes[0].trajectory
        if isinstance(noise, Tensor) and path.kind in ("clean", "inversion"):
            raise InvalidValueError(f"A trajectory of kind {path.kind!r} adds no noise: leave the tensor of noise out.")
        if isinstance(noise, Tensor) and noise.ndim == 4 and any(r.trajectory != path for r in recipes):
            raise InvalidValueError("A noise for each row belongs to one trajectory; these recipes have several.")
        budget, source = RowBudget(backbone, batch_size), own_noise(noise, path.timesteps, path.draws)
        self._recipes = [{"recipe": r.recipe.name, "recipe_hash": r.recipe.hash} for r in self.plan.readers]
        self._joins = [join_of(reader.recipe, backbone, reader.names) for reader in self.plan.readers]
        make = Walker if path.stepped else Engine
        self._run: Walker | Engine = make(self.plan, backbone, budget, source, grad=grad)
        self._sum = join if path.stepped and isinstance(join := self._joins[0], Hyperfeatures) else None

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps (0…1000) at which the first recipe reads, in its order."""
        return self._run.times if isinstance(self._run, Walker) else self.plan.readers[0].recipe.trajectory.timesteps

    @property
    def fingerprint(self) -> str:
        """Tells the weights of the model, of techniques and of trained joins from others, and noise of one's own."""
        techniques = [t for reader in self.plan.readers for t in reader.recipe.techniques or ()]
        parts = [fingerprint(join.network) for join in self._joins if join is not None and join.network is not None]
        if isinstance(self._own_noise, Tensor):
            parts.append(hashlib.sha256(self._own_noise.float().numpy(force=True).tobytes()).hexdigest())
        elif self._own_noise is not None:
            parts.append(function_name(self._own_noise))
        return with_parts(fingerprint_with(self.backbone.fingerprint, techniques), parts)

    def session(self) -> AbstractContextManager[object]:
        """Adapters are loaded once, and massive channels are detected before anything runs."""
        self._resolve()
        return self._run.session() if isinstance(self._run, Engine) else super().session()

    def group(self, picture: Picture) -> Group:
        """Pictures of one model size."""
        return self._run.group(picture)

    def read(self, pictures: Sequence[Picture]) -> Iterator[list[FeatureMap] | Failed]:
        """Features of pictures of one group: a list for each picture, one for each recipe."""
        self._resolve()
        reads = self._reads(pictures)
        dtype = str(self.backbone.dtype).removeprefix("torch.")
        sound = iter(finite_each([m for of_picture in reads for read in of_picture for m in read.maps.values()]))
        for picture, of_picture in zip(pictures, reads, strict=True):
            bad = {name: m for read in of_picture for name, m in _named(read.maps).items() if not next(sound)}
            try:
                if bad:
                    raise NonFiniteError(_non_finite(*next(iter(bad.items())), picture.name, dtype))
                with nullcontext() if self._grad else torch.no_grad():
                    result = [self._joined(picture, number, read, dtype) for number, read in enumerate(of_picture)]
            except NonFiniteError as error:
                result = Failed(error)
            yield result

    def _reads(self, pictures: Sequence[Picture]) -> list[list[Read]]:
        if not isinstance(self._run, Walker) or self._sum is None:
            return self._run.read(pictures)
        # Summed up while it walks, so that memory does not grow with the steps.
        return [[Read(t, {Place("fused", 0): m})] for t, m in self._run.total(pictures, self._sum.running)]

    def _joined(self, picture: Picture, number: int, read: Read, dtype: str) -> FeatureMap:
        """The maps of one recipe as results hold them: each, or joined."""
        maps = _named(read.maps)
        reader, join, note = self.plan.readers[number], self._joins[number], {}
        if join is not None and self._sum is None:
            fused, note = join([list(maps.values())])
            maps = {"fused": fused}
        frame = self._run.frame(picture)
        provenance = {
            **self._recipes[number],
            "model": self.backbone.name,
            "family": self.backbone.family.name,
            "prompt": read.text,
            "model_size": list(frame.model),
            "dtype": dtype,
            "diffeat": __version__,
            **_discarded(reader),
            **note,
        }
        return FeatureMap(maps, frame, picture.name, picture.digest, provenance)

    def _resolve(self) -> None:
        """Find the massive channels that the plan's reducers will ask for, before anything runs."""
        if not self._massive:
            self._massive.update(massive_channels(self.plan.readers[0].recipe, self.backbone))


def _discarded(reader: Reader) -> dict[str, dict[str, list[int]]]:
    """What was left out, by activation and timestep."""
    refine = reader.recipe.refine
    if refine is None or refine.discard == "none":
        return {}
    adaln = [r.core for r in reader.reducers]
    steps = reader.recipe.trajectory.read_steps
    return {"discarded": {str(Place(r.name, t)): r.discarded(t) for r in adaln if isinstance(r, AdaLN) for t in steps}}


def _named(maps: Maps) -> dict[str, Tensor]:
    """Maps as results call them: with their step where there are several."""
    several = len({place.step for place in maps}) > 1
    return {str(place) if several else place.name: tensor for place, tensor in maps.items()}


def _non_finite(name: str, feature: Tensor, picture: str, dtype: str) -> str:
    bad = int((~torch.isfinite(feature)).sum())
    hint = "Use float32." if dtype != "float32" else "The model's weights or the picture's latent may hold NaN."
    return f"{name} of {picture} holds {bad} of {feature.numel()} values that are NaN or infinite in {dtype}. {hint}"
