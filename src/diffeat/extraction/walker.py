"""Features along an inversion or a generation: the denoiser walks from call to call and is read on the way.

Several pictures walk together. With a trained join every call's maps go into its running sum at once, so that memory
does not grow with the steps; the walk ends inside the last call that is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone, Conditioning
from diffeat.errors import InvalidValueError
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.engine import Maps, Read
from diffeat.extraction.generated import Origin, guidance_of, start_noise
from diffeat.extraction.joins.hyperfeatures import RunningSum
from diffeat.extraction.plan import Plan
from diffeat.extraction.reduce import Place
from diffeat.features import Group, Picture, model_images
from diffeat.geometry import Frame
from diffeat.memory import moved
from diffeat.trajectories import Guidance, NoiseSource, Row, noisy_latents, ode_steps, unconditional_rows, walk
from diffeat.trajectories.ode import check_prediction

#: Takes the position of a call among those that are read, and its maps ``(b, c, h, w)`` by name.
Sink = Callable[[int, dict[str, Tensor]], None]


class Walker:
    """Reads the activations of a recipe of kind ``inversion`` or ``generation``, the one of the plan."""

    def __init__(
        self, plan: Plan, backbone: Backbone, budget: RowBudget, noise: NoiseSource | None = None, *, grad: bool = False
    ) -> None:
        (reader,), (cluster,) = plan.readers, plan.clusters
        recipe, path = reader.recipe, reader.recipe.trajectory
        check_prediction(backbone, path.prediction)
        if cluster.predicts:
            raise InvalidValueError("The decoded clean image is read at noise levels, not along a trajectory.")
        self._recipe, self._reader, self._backbone = recipe, reader, backbone
        self._budget, self._noise, self._grad = budget, noise, grad
        self._taps = Taps(backbone.denoiser, cluster.wants, stop=True)
        self._steps = ode_steps("inversion" if path.kind == "inversion" else "generation", path.steps or 0, backbone)
        self._save = [int(s) for s in path.read_steps]
        if path.guidance is not None:
            unconditional_rows(backbone, "", backbone.condition([recipe.prompt], None, **recipe.conditioning))

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps of the calls that are read, in the recipe's order."""
        at = {step.save: step.at for step in self._steps}
        return tuple(at[s] for s in self._save)

    def group(self, picture: Picture) -> Group:
        """Pictures of one model size, as many as fill a call."""
        frame = self.frame(picture)
        if self._recipe.trajectory.kind == "generation":
            made = tuple(Origin.of(picture, self._recipe).settings["size"])
            if made != frame.model or frame.original != frame.model:
                raise InvalidValueError(
                    f"{picture.name} was generated at {made[0]}×{made[1]} pixels; the recipe's frame makes it "
                    f"{frame.model[0]}×{frame.model[1]}. Use the recipe that diffeat generate wrote."
                )
        rows = 1 if self._recipe.trajectory.guidance is None else 2
        most = -(-self._budget.rows(frame.model) // rows)
        return Group(frame.model, most, self._recipe.frame.mode == "keep", (frame,))

    def frame(self, picture: Picture) -> Frame:
        """Where a picture lies in the model's image."""
        return self._backbone.frame(self._recipe.frame, picture.size, picture.name)

    def text(self, picture: Picture) -> str:
        """What the model reads for a picture; of one that is generated again, what it read then."""
        if self._recipe.trajectory.kind == "generation":
            return Origin.of(picture, self._recipe).prompt
        return self._recipe.prompt if picture.text is None else picture.text

    def read(self, pictures: Sequence[Picture]) -> list[list[Read]]:
        """What is read of pictures of one size, steps in the recipe's order: a list of one for each picture."""
        maps: list[Maps] = [{} for _ in pictures]

        def part(at: Sequence[int]) -> None:
            def keep(position: int, tensors: dict[str, Tensor]) -> None:
                step = float(self._save[position])
                for reducer in self._reader.reducers:
                    for k, i in enumerate(at):
                        means = {name: tensor[k] for name, tensor in tensors.items()}
                        maps[i][Place(reducer.name, step)] = reducer.map(means, step)

            self.walk([pictures[i] for i in at], keep)

        size = self.frame(pictures[0]).model
        self._budget.run(list(range(len(pictures))), size, part)
        order = {float(step): i for i, step in enumerate(self._save)}
        in_order = [dict(sorted(m.items(), key=lambda item: order[item[0].step])) for m in maps]
        return [[Read(self.text(picture), m)] for picture, m in zip(pictures, in_order, strict=True)]

    def total(self, pictures: Sequence[Picture], start: Callable[[], RunningSum]) -> list[tuple[str, Tensor]]:
        """For each picture, what the model was told and what a running sum makes of its maps ``(c, h, w)``."""
        totals: list[Tensor] = [torch.empty(0)] * len(pictures)

        def part(at: Sequence[int]) -> None:
            running = start()
            self.walk([pictures[i] for i in at], running.add)
            for i, row in zip(at, running.total, strict=True):
                totals[i] = row

        self._budget.run(list(range(len(pictures))), self.frame(pictures[0]).model, part)
        return [(self.text(picture), total) for picture, total in zip(pictures, totals, strict=True)]

    def walk(self, pictures: Sequence[Picture], sink: Sink) -> None:
        """One walk of pictures of one size, together."""
        with self._backbone.ready(), nullcontext() if self._grad else torch.no_grad():
            with torch.no_grad():
                start, conditioning, guidance = self._start(pictures)
            walk(
                self._backbone,
                start,
                self._steps,
                conditioning,
                guidance=guidance,
                taps=self._taps.another(),
                save=self._save,
                on_features=lambda save, tensors: sink(self._save.index(save), tensors),
                finish=False,
            )

    def _start(self, pictures: Sequence[Picture]) -> tuple[Tensor, Conditioning, Guidance | None]:
        recipe, backbone, path = self._recipe, self._backbone, self._recipe.trajectory
        frames = [self.frame(picture) for picture in pictures]
        size = frames[0].model
        if path.kind == "inversion":
            pixels = model_images(pictures, frames, backbone.device)
            posterior = backbone.encode_images(pixels)
            latents = noisy_latents(
                backbone,
                posterior,
                [Row(-1.0, 0, False)] * len(pictures),
                image=[picture.key for picture in pictures],
                seed=recipe.seed,
                sample_posterior=path.latent == "sample",
                noise=self._noise,
            )
        else:
            origins = [Origin.of(picture, recipe) for picture in pictures]
            rows = [start_noise(backbone, o, recipe.seed, size, self._noise) for o in origins]
            latents = moved(torch.cat(rows), backbone.device)
        texts = [self.text(picture) for picture in pictures]
        conditioning = backbone.condition(texts, size=size, **recipe.conditioning)
        return latents, conditioning, guidance_of(recipe, backbone, conditioning)
