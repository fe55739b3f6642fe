"""Shifts of pictures under techniques, paired by latents and noise: what GATE and the search measure with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import DatasetError, InvalidValueError, NonFiniteError
from diffeat.extraction import Reading
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.plan import Plan
from diffeat.features import ImageLike, Picture
from diffeat.studies.content_shift.measures import feature_measure, picture_measure
from diffeat.techniques import Combination, Rows, Scene, Session, Steered
from diffeat.techniques.combination import Combinable
from diffeat.trajectories import Row, noisy_latents

Stage = Literal["img2img", "operating", "features"]
STAGES: tuple[Stage, ...] = get_args(Stage)

#: (stage, measure) to shifts (pictures, seeds).
Shifts = dict[tuple[str, str], NDArray[np.float64]]


@dataclass(frozen=True)
class GateSettings:
    """What is measured.

    Attributes:
        strength: Of Img2Img, the share of the training schedule that is noised, above 0 to 1.
        steps: Denoiser calls of Img2Img.
        seeds: Noise draws per picture.
        measures: Picture measures, the first decides: pixel, ssim, edges, ``dino:MODEL``, ``lpips``.
        feature_measures: Of the recipe's activations, the first decides: cosine, cka, self-match, laplacian.
        reference: Clean features of the base model, or of the technique's own run.
        margin: Relative gain that is too small to matter.
    """

    strength: float = 0.7
    steps: int = 10
    seeds: int = 2
    measures: tuple[str, ...] = ("pixel", "ssim", "edges")
    feature_measures: tuple[str, ...] = ("cosine", "cka", "self-match")
    reference: Literal["base", "own"] = "base"
    confidence: float = 0.95
    margin: float = 0.02
    controls: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InvalidValueError(f"The strength of Img2Img lies above 0 and at most at 1, got {self.strength:g}.")
        if min(self.steps, self.seeds) < 1 or not self.measures:
            raise InvalidValueError("GATE needs at least one step, one seed and one measure.")

    def deciding(self, stage: Stage) -> str:
        """The measure that decides at a stage; empty if nothing is measured there."""
        return next(iter(self.feature_measures if stage == "features" else self.measures), "")


class ShiftMeter:
    """Measures shifts of one variant after the other on the same pictures; use it in a ``with`` block.

    Attributes:
        timesteps: The noise level of ``img2img`` and of ``operating``.
        calls: Rows of denoiser calls so far, ControlNets counted by their share.
    """

    def __init__(
        self, backbone: Backbone, images: Sequence[ImageLike], recipe: Reading, settings: GateSettings
    ) -> None:
        if len(images) < 2:
            raise DatasetError(f"GATE compares over pictures and needs at least two, got {len(images)}.")
        self.backbone, self.recipe, self.settings = backbone, recipe, settings
        self.pictures = [Picture.of(image, recipe.prompt) for image in images]
        self._frames = [backbone.frame(recipe.frame, p.size, p.name) for p in self.pictures]
        self._measures = {n: picture_measure(n) for n in settings.measures}
        self._feature_measures = {n: feature_measure(n) for n in settings.feature_measures}
        self._session = Session(backbone)
        self._latents: dict[int, LatentPosterior] = {}
        self._clean: dict[int, dict[str, Tensor]] = {}
        self._budget = RowBudget(backbone, None)
        operating = recipe.trajectory.timesteps[:1]
        if not operating:
            raise InvalidValueError(f"Recipe {recipe.name!r} names no timestep; GATE measures at its first one.")
        flow = backbone.prediction_type == "flow"
        top = 1000.0 if flow else float(backbone.train_steps - 1)
        self._end = 0.0 if flow else -1.0
        self.timesteps = {"img2img": float(round(settings.strength * top)), "operating": operating[0]}
        names = Plan.of([recipe], backbone).clusters[0].wants
        # Features come along with the prediction; of the clean latent nothing but features is wanted.
        self._along = Taps(backbone.denoiser, names, stop=False) if settings.feature_measures else None
        self._alone = Taps(backbone.denoiser, names, stop=True) if settings.feature_measures else None
        self.calls = 0.0

    def __enter__(self) -> ShiftMeter:
        self._session.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._session.__exit__(kind, error, trace)

    @torch.no_grad()
    def measure(self, combination: Combinable, shuffled: bool = False, pictures: Sequence[int] | None = None) -> Shifts:
        """Shifts of pictures and seeds.

        Args:
            shuffled: Tell the technique about the next picture instead.

        Raises:
            NonFiniteError: The model gives NaN or infinity.
        """
        combination = Combination.of(combination)
        chosen = list(range(len(self.pictures)) if pictures is None else pictures)
        found: dict[int, dict[tuple[str, str], list[float]]] = {}
        for size in dict.fromkeys(self._frames[i].model for i in chosen):
            same = [i for i in chosen if self._frames[i].model == size]
            self._budget.run(same, size, lambda part: found.update(self._of_pictures(combination, part, shuffled)))
        self._session.forget_pictures()
        return {at: np.asarray([found[i][at] for i in chosen]) for at in found[chosen[0]]}

    @torch.no_grad()
    def reconstruct(
        self, combination: Combinable, picture: int, stage: Literal["img2img", "operating"], shuffled: bool = False
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """For pictures in a report: the reconstruction ``(seeds, 3, h, w)``, and at ``operating`` the features."""
        with self._session.use(combination) as steered:
            rows = self._rows(steered, [picture], shuffled)
            if stage == "img2img":
                return self.backbone.decode(self._img2img(steered, [picture], rows)), {}
            estimate, features = self._operating(steered, [picture], rows)
            return self.backbone.decode(estimate), features

    @torch.no_grad()
    def ceiling(self) -> dict[str, float]:
        """Mean shift of encoding and decoding alone."""
        found: dict[str, list[float]] = {n: [] for n in self._measures}
        for i in range(len(self.pictures)):
            through = self.backbone.decode(self._posterior(i).mean)[0].clamp(-1, 1)
            for name, measure in self._measures.items():
                found[name].append(measure(through.cpu(), self.pixels(i)))
        return {name: float(np.mean(values)) for name, values in found.items()}

    def pixels(self, picture: int) -> Tensor:
        """The picture as the model sees it, ``(3, h, w)`` in [-1, 1]."""
        return self._frames[picture].pixels(self.pictures[picture].image)

    def clean_features(self, picture: int) -> dict[str, Tensor]:
        """Features of the base at the clean latent, seed 0."""
        with torch.no_grad(), self._session.use() as steered:
            return {n: m[0] for n, m in self._clean_of(steered, [picture]).items()}

    # ---- pictures of one size, all seeds in one call: rows go picture by picture

    def _of_pictures(
        self, combination: Combination, part: Sequence[int], shuffled: bool
    ) -> dict[int, dict[tuple[str, str], list[float]]]:
        found: dict[int, dict[tuple[str, str], list[float]]] = {i: {} for i in part}
        reference: dict[str, Tensor] = {}
        if self._alone is not None and self.settings.reference == "base":
            with self._session.use() as plain:
                reference = self._clean_of(plain, part)
        with self._session.use(combination) as steered:
            rows = self._rows(steered, part, shuffled)
            drawn = {"img2img": self._img2img(steered, part, rows)}
            drawn["operating"], features = self._operating(steered, part, rows)
            if self._alone is not None and self.settings.reference == "own":
                reference = self._clean_of(steered, part, rows)
        for stage, latents in drawn.items():
            pictures = self.backbone.decode(latents).clamp(-1, 1).cpu()
            for i, of_picture in zip(part, pictures.split(self.settings.seeds), strict=True):
                if not torch.isfinite(of_picture).all():
                    raise NonFiniteError(f"{combination.label} makes NaN or infinity of {self.pictures[i].name}.")
                true = self.pixels(i)
                for name, measure in self._measures.items():
                    found[i][stage, name] = [measure(p, true) for p in of_picture]
        for name, measure in self._feature_measures.items():
            values = [
                float(np.mean([measure(features[a][k], reference[a][k]) for a in features]))
                for k in range(len(part) * self.settings.seeds)
            ]
            for n, i in enumerate(part):
                found[i]["features", name] = values[n * self.settings.seeds : (n + 1) * self.settings.seeds]
        return found

    def _rows(self, steered: Steered, part: Sequence[int], shuffled: bool) -> Rows:
        scenes = [self._scene(i, self._other(i) if shuffled else None) for i in part]
        rows = steered.prepare(scenes, **self.recipe.conditioning)
        return rows.take([n for n in range(len(part)) for _ in range(self.settings.seeds)])

    def _scene(self, i: int, shown: Scene | None = None) -> Scene:
        p = self.pictures[i]
        return Scene(p.digest, self.pixels(i), p.text or "", p.name, shown)

    def _other(self, i: int) -> Scene:
        """The next picture, brought to this one's size."""
        j = (i + 1) % len(self.pictures)
        other = self.pictures[j]
        size = self._frames[i].model
        pixels = torch.nn.functional.interpolate(self.pixels(j)[None], size=size[::-1], mode="bilinear", antialias=True)
        return Scene(other.digest, pixels[0].clamp(-1, 1), other.text or "", other.name)

    def _posterior(self, i: int) -> LatentPosterior:
        if i not in self._latents:
            self._latents[i] = self.backbone.encode_images(self.pixels(i)[None])
        return self._latents[i]

    def _noisy(
        self, part: Sequence[int], rows: Iterable[int], timesteps: Iterable[float], noisy: bool = True
    ) -> Tensor:
        """Latents of some rows, each at its timestep."""
        latents = []
        for k, t in zip(rows, timesteps, strict=True):
            place, draw = divmod(k, self.settings.seeds)
            latents.append(
                noisy_latents(
                    self.backbone,
                    self._posterior(part[place]),
                    [Row(t, draw, noisy)],
                    image=self.pictures[part[place]].key,
                    seed=self.recipe.seed,
                    sample_posterior=self.recipe.trajectory.latent == "sample",
                )
            )
        return torch.cat(latents)

    def _img2img(self, steered: Steered, part: Sequence[int], rows: Rows) -> Tensor:
        start = self.timesteps["img2img"]
        times = sdedit_timesteps(start, self.settings.steps, self._end)
        self.calls += len(rows) * (len(times) - 1) * steered.combination.calls()
        return steered.descend(self._noisy(part, range(len(rows)), [start] * len(rows)), times, rows)

    def _operating(self, steered: Steered, part: Sequence[int], rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        t = self.timesteps["operating"]
        noisy = steered.arrive([t] * len(rows), lambda at, timesteps: self._noisy(part, at, timesteps), rows)
        self.calls += len(rows) * steered.combination.calls()
        features: dict[str, Tensor] = {}
        if self._along is None:
            prediction = steered.predict(noisy, t, rows)
        else:
            with self._along:
                prediction = steered.predict(noisy, t, rows)
                # of a guided call the text's own half, which is the last
                features = {n: m[-len(rows) :].float() for n, m in self._along.collect().items()}
        return self.backbone.estimate_clean(noisy, t, prediction), features

    def _clean_of(self, steered: Steered, part: Sequence[int], rows: Rows | None = None) -> dict[str, Tensor]:
        """Features of the latents without noise, told t = 0 (the least noise of the schedule)."""
        base = not len(steered.combination)
        missing = [i for i in part if i not in self._clean] if base else list(part)
        found: list[dict[str, Tensor]] = []
        if missing and self._alone is not None:
            rows = self._rows(steered, missing, False) if rows is None else rows
            latents = self._noisy(missing, range(len(rows)), [0.0] * len(rows), noisy=False)
            with self._alone:
                maps = self._alone.run(**steered.inputs(latents, 0.0, rows))
            split = {n: m.float().split(self.settings.seeds) for n, m in maps.items()}
            found = [{n: m[k] for n, m in split.items()} for k in range(len(missing))]
        if base:
            self._clean.update(zip(missing, found, strict=True))
            found = [self._clean[i] for i in part]
        return {n: torch.cat([f[n] for f in found]) for n in found[0]}


def sdedit_timesteps(start: float, steps: int, end: float = -1.0) -> list[float]:
    """Evenly spaced timesteps of Img2Img, from ``start`` to the clean picture."""
    found = [float(round(start - start * i / steps)) for i in range(steps)]
    if len(set(found)) < len(found) or found[-1] <= end:
        raise InvalidValueError(f"There are no {steps} timesteps below {start:g}.")
    return [*found, end]
