"""Features along an inversion or a generation: the denoiser walks from call to call and is read on the way.

Several pictures walk together. With a trained fusion every call's maps go into its running sum at once, so that
memory does not grow with the steps; the walk ends inside the last call that is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone, Conditioning
from diffeat.errors import InvalidValueError
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.generated import Origin, start_noise
from diffeat.extraction.joins.hyperfeatures import FUSED, Hyperfeatures
from diffeat.extraction.recipe import Recipe
from diffeat.features.picture import Picture
from diffeat.geometry import Frame
from diffeat.trajectories import Guidance, Row, noisy_latents, ode_steps, unconditional_rows, walk
from diffeat.trajectories.ode import check_prediction

Group = Sequence[tuple[Picture, Frame]]


class SteppedReader:
    """Reads the activations of a recipe of kind ``inversion`` or ``generation``.

    Args:
        recipe: The recipe.
        backbone: The model.
        taps: What to read.
        head: The trained fusion, if the recipe has one.

    Raises:
        InvalidValueError: The model predicts something else than the recipe is stepped for, has no unconditional
            embedding for its guidance, or has too short a schedule.
    """

    def __init__(self, recipe: Recipe, backbone: Backbone, taps: Taps, head: Hyperfeatures | None) -> None:
        path = recipe.trajectory
        assert path.steps is not None
        check_prediction(backbone, path.prediction)
        self._recipe, self._backbone, self._taps, self._head = recipe, backbone, taps, head
        self._steps = ode_steps("inversion" if path.kind == "inversion" else "generation", path.steps, backbone)
        self._save = [int(s) for s in path.read_steps]
        self._times = {step.save: step.at for step in self._steps}
        if path.guidance is not None:
            unconditional_rows(backbone, "", backbone.condition([recipe.prompt], None, **recipe.conditioning))

    @property
    def rows(self) -> int:
        """Rows of a denoiser call that one picture takes."""
        return 1 if self._recipe.trajectory.guidance is None else 2

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps of the calls that are read, in the recipe's order."""
        return tuple(self._times[s] for s in self._save)

    def accept(self, picture: Picture, frame: Frame) -> Picture:
        """The picture with the text that its walk reads.

        Raises:
            InvalidValueError: The picture is to be generated again and does not say how, or was made otherwise.
        """
        if self._recipe.trajectory.kind == "inversion":
            return picture
        origin = Origin.of(picture, self._recipe)
        if tuple(origin.settings["size"]) != frame.model or frame.original != frame.model:
            made = "×".join(map(str, origin.settings["size"]))
            raise InvalidValueError(
                f"{picture.name} was generated at {made} pixels; the recipe's frame makes it "
                f"{frame.model[0]}×{frame.model[1]}. Use the recipe that diffeat generate wrote."
            )
        return replace(picture, text=origin.prompt)

    def read(self, group: Group, budget: RowBudget, grad: bool = False) -> list[dict[tuple[float, str], Tensor]]:
        """Maps of pictures of one size by (timestep, activation), or with a trained fusion its one map."""
        found: list[dict[tuple[float, str], Tensor]] = [{} for _ in group]

        def call(part: list[int]) -> None:
            chosen = [group[i] for i in part]
            for i, maps in zip(part, self._walk(chosen, grad), strict=True):
                found[i] = maps

        budget.run(list(range(len(group))), group[0][1].model, call)
        return found

    def _walk(self, group: Group, grad: bool) -> list[dict[tuple[float, str], Tensor]]:
        found: list[dict[tuple[float, str], Tensor]] = [{} for _ in group]
        total: Tensor | None = None

        def keep(save: int, maps: dict[str, Tensor]) -> None:
            nonlocal total
            if self._head is not None:
                total = self._head.add(total, self._save.index(save), maps)
                return
            for name, values in maps.items():
                for i in range(len(group)):
                    found[i][self._times[save], name] = values[i]

        with torch.no_grad():
            start, conditioning, guidance = self._start(group)
        with nullcontext() if grad else torch.no_grad():
            walk(
                self._backbone,
                start,
                self._steps,
                conditioning,
                guidance=guidance,
                taps=self._taps,
                save=self._save,
                on_features=keep,
                finish=False,
            )
        if total is not None:
            return [{(0.0, FUSED): row} for row in total]
        # In the recipe's order of steps, whichever way the walk went.
        return [dict(sorted(maps.items(), key=lambda item: self.times.index(item[0][0]))) for maps in found]

    def _start(self, group: Group) -> tuple[Tensor, Conditioning, Guidance | None]:
        recipe, backbone, path = self._recipe, self._backbone, self._recipe.trajectory
        size = group[0][1].model
        texts = [picture.text for picture, _ in group]
        if path.kind == "inversion":
            posterior = backbone.encode_images(torch.stack([frame.pixels(picture.image) for picture, frame in group]))
            rows = [
                noisy_latents(
                    backbone,
                    type(posterior)(posterior.mean[i : i + 1], posterior.std[i : i + 1]),
                    [Row(-1.0, 0, False)],
                    image=picture.key,
                    seed=recipe.seed,
                    sample_posterior=path.latent == "sample",
                )
                for i, (picture, _) in enumerate(group)
            ]
        else:
            origins = [Origin.of(picture, recipe) for picture, _ in group]
            rows = [start_noise(backbone, origin, recipe.seed, size).to(backbone.device) for origin in origins]
        conditioning = backbone.condition(texts, size=size, **recipe.conditioning)
        guidance = None
        if path.guidance is not None:
            other = unconditional_rows(backbone, path.negative_prompt or "", conditioning, **recipe.conditioning)
            guidance = Guidance(path.guidance, other)
        return torch.cat(rows), conditioning, guidance
