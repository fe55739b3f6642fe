"""Runs a plan over pictures of one size with the fewest denoiser calls.

A picture is encoded once; all its timesteps and draws are rows of batched denoiser calls, which stop right after the
last activation that is needed. Rows of several pictures share a call. The number of rows of a call follows the memory
(see :mod:`diffeat.extraction.batching`) and is halved when the device runs out of it. Draws are averaged in float32
as they arrive, so nothing is stacked.

Features do not depend on the batching: noise is keyed by picture, timestep and draw, and rows do not see each other.

Adapters are loaded once per session and applied for as long as the calls of one group last: while a stream waits for
its consumer the backbone is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone, LatentPosterior
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.plan import Cluster, Lane, Plan, Reader
from diffeat.extraction.reduce import CLEAN_IMAGE, Place
from diffeat.features import Group, Picture, model_images
from diffeat.features.gap import GAP
from diffeat.geometry import Frame
from diffeat.techniques import Combination, Rows, Scene, Session, Steered
from diffeat.techniques.scene import Desk
from diffeat.trajectories import NoiseSource, Row, drawn_ahead, drawn_for, noisy_latents

#: Bytes of a picture's noise up to which it is drawn ahead; as many pictures as two calls take may hold theirs.
_AHEAD = 4e6

#: Maps of one picture by one recipe.
Maps = dict[Place, Tensor]


class Read(NamedTuple):
    """One picture by one recipe: what the model was told, and what was read."""

    text: str
    maps: Maps


#: A row of a denoiser call: picture, the lane that it belongs to, and which latent.
Job = tuple[int, Lane, Row]


class Engine:
    """Runs a plan of trajectories at noise levels; with ``grad`` maps stay attached to the graph of the denoiser, whose
    pictures are encoded without gradient.
    """

    def __init__(
        self, plan: Plan, backbone: Backbone, budget: RowBudget, noise: NoiseSource | None = None, *, grad: bool = False
    ) -> None:
        self.plan = plan
        self._backbone = backbone
        self._budget = budget
        self._noise = noise
        self._grad = grad
        self._session, self._desk = Session(backbone), Desk(backbone)
        self._taps = {c: _Reading(backbone, c) for c in plan.clusters}
        lanes = {(reader.lane, row) for reader in plan.readers for row in reader.rows}
        self._draws = {draw for lane, row in lanes for draw in drawn_for(row, lane.seed, lane.sample)}
        self._shapes: dict[tuple[int, int], torch.Size] = {}  # of latents, once a call of a size has told

    def session(self) -> AbstractContextManager[object]:
        """Adapters are loaded once inside; may be entered again inside itself."""
        return self._session if self.plan.steers else nullcontext()

    def frame(self, picture: Picture) -> Frame:
        """Where a picture lies in the model's image."""
        return self._backbone.frame(self.plan.readers[0].recipe.frame, picture.size, picture.name)

    def group(self, picture: Picture) -> Group:
        """Pictures of one model size, as many as fill a call (with techniques, as many as a call has rows: adapters
        are then switched once for all of them)."""
        frame = self.frame(picture)
        rows = self._budget.rows(frame.model)
        follows = self.plan.readers[0].recipe.frame.mode == "keep"
        most = rows if self.plan.steers else -(-rows // self.plan.rows)
        return Group(frame.model, most, follows, (frame,), partial(self._draw, frame.model))

    def read(self, pictures: Sequence[Picture]) -> list[list[Read]]:
        """What is read of pictures of one group: for each picture, for each recipe of the plan."""
        frames = [self.frame(picture) for picture in pictures]
        sums = [[_Means(reader) for reader in self.plan.readers] for _ in pictures]
        with self._backbone.ready(), self.session(), nullcontext() if self._grad else torch.no_grad():
            pixels = model_images(pictures, frames, self._backbone.device)
            posterior = self._backbone.encode_images(pixels)
            self._shapes[frames[0].model] = posterior.mean.shape[1:]
            self._session.forget_pictures()
            for cluster in self.plan.clusters:
                self._run(cluster, pictures, pixels, posterior, sums)
            return [[Read(means.text, means.maps()) for means in of_picture] for of_picture in sums]

    def _run(
        self,
        cluster: Cluster,
        pictures: Sequence[Picture],
        pixels: Tensor,
        posterior: LatentPosterior,
        sums: list[list[_Means]],
    ) -> None:
        readers: dict[Job, list[int]] = {}
        rows, place = self._prepare(cluster, pictures, pixels.cpu() if self.plan.steers else pixels)
        for number in cluster.readers:
            reader = self.plan.readers[number]
            for i in range(len(pictures)):
                sums[i][number].text = rows.conditioning.prompts[place[i, reader.lane.text]]
                for row in reader.rows:
                    readers.setdefault((i, reader.lane, row), []).append(number)
        taps = self._taps[cluster]
        with self._use(cluster.combination) as steered:

            def call(part: Sequence[Job]) -> None:
                def noisy_at(at: Sequence[int], timesteps: Sequence[float]) -> Tensor:
                    return self._noisy([part[k] for k in at], timesteps, pictures, posterior)

                of_part = rows.take([place[i, lane.text] for i, lane, _ in part])
                times = [row.timestep for _, _, row in part]
                noisy = steered.arrive(times, noisy_at, of_part)
                with GAP.over():
                    tensors = taps.run(noisy, torch.tensor(times), steered, of_part)
                for k, job in enumerate(part):
                    while numbers := readers[job]:  # struck off, so that a call that is repeated adds nothing twice
                        sums[job[0]][numbers[-1]].add(job[2], tensors, k)
                        numbers.pop()

            width, height = pixels.shape[-1], pixels.shape[-2]
            self._budget.run(list(readers), (width, height), call)

    def _use(self, combination: Combination) -> AbstractContextManager[Steered]:
        """The backbone under techniques; where the plan has none, as it is."""
        return self._session.use(combination) if self.plan.steers else nullcontext(Steered(self._desk, combination))

    def _prepare(
        self, cluster: Cluster, pictures: Sequence[Picture], pixels: Tensor
    ) -> tuple[Rows, dict[tuple[int, object], int]]:
        """What the denoiser is told, a row for each picture under each text, and where each is among them."""
        prepared: dict[object, Rows] = {}
        for number in cluster.readers:
            reader = self.plan.readers[number]
            if reader.lane.text in prepared:
                continue
            scenes = [
                Scene(p.digest, x, reader.recipe.prompt if p.text is None else p.text, p.name)
                for p, x in zip(pictures, pixels, strict=True)
            ]
            with self._use(reader.combination) as steered, torch.no_grad():
                prepared[reader.lane.text] = steered.prepare(scenes, **reader.recipe.conditioning)
        place = {(i, text): k * len(pictures) + i for k, text in enumerate(prepared) for i in range(len(pictures))}
        return Rows.join(list(prepared.values())), place

    def _draw(self, size: tuple[int, int], picture: Picture) -> None:
        """Draw the noise of a picture, while the model is at work on others."""
        shape = self._shapes.get(size)
        if shape is not None and self._noise is None and 4 * shape.numel() * len(self._draws) <= _AHEAD:
            picture.noise = drawn_ahead(shape, picture.key, self._draws)

    def _noisy(
        self, jobs: Sequence[Job], timesteps: Sequence[float], pictures: Sequence[Picture], posterior: LatentPosterior
    ) -> Tensor:
        """The latents of jobs; at their own timesteps, or at noisier ones that lead to these."""
        rows = [i for i, _, _ in jobs]
        return noisy_latents(
            self._backbone,
            posterior if rows == list(range(len(posterior))) else posterior[rows],
            [r if t == r.timestep else Row(t, r.draw, True) for (_, _, r), t in zip(jobs, timesteps, strict=True)],
            image=[pictures[i].key for i in rows],
            seed=[lane.seed for _, lane, _ in jobs],
            sample_posterior=[lane.sample for _, lane, _ in jobs],
            noise=self._noise,
            ahead=[pictures[i].noise for i in rows],
        )


class _Reading:
    """One forward pass of a cluster: what taps bring, and the clean image where it is wanted."""

    def __init__(self, backbone: Backbone, cluster: Cluster) -> None:
        self._backbone = backbone
        self._predicts = cluster.predicts
        self._taps = Taps(backbone.denoiser, cluster.wants, stop=not cluster.predicts) if cluster.wants else None

    def run(self, noisy: Tensor, times: Tensor, steered: Steered, rows: Rows) -> Mapping[str, Tensor]:
        """Tensors by name, a row for each latent."""
        inputs = steered.inputs(noisy, times, rows)
        with nullcontext() if self._taps is None else self._taps.another() as taps:
            if taps is not None and not self._predicts:
                return taps.run(**inputs)
            output = self._backbone.denoiser(**inputs)[0]
            tensors = {} if taps is None else taps.collect()
        prediction = self._backbone.family.unpack(output, noisy)[:, : noisy.shape[1]]
        clean = self._backbone.estimate_clean(noisy, times.to(noisy.device), prediction)
        return {**tensors, CLEAN_IMAGE[0]: self._backbone.decode(clean)}


class _Means:
    """Running means over the draws of one picture by one recipe, in float32; of one draw, what the call brought."""

    def __init__(self, reader: Reader) -> None:
        self.text = ""
        self._reader = reader
        self._draws = reader.recipe.trajectory.draws
        self._wants = dict.fromkeys(str(want) for reducer in reader.reducers for want in reducer.wants)
        if any(reducer.predicts for reducer in reader.reducers):
            self._wants[CLEAN_IMAGE[0]] = None
        self._exact = {str(want) for reducer in reader.reducers if reducer.exact for want in reducer.wants}
        self._sums: dict[float, dict[str, Tensor]] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def add(self, row: Row, tensors: Mapping[str, Tensor], k: int) -> None:
        """Row ``k`` of what a call brought."""
        sums = self._sums.setdefault(row.timestep, {})
        added: dict[str, Tensor] = {}
        for name in self._wants:
            values = tensors[name][k]
            self._dtypes[name] = values.dtype
            if self._draws == 1:  # in its own precision
                added[name] = values.float() if name in self._exact else values
            else:
                share = values.float() / self._draws
                added[name] = sums[name] + share if name in sums else share
        sums.update(added)

    def maps(self) -> Maps:
        """The recipe's maps, timesteps outermost; forgets what was added."""
        maps: Maps = {}
        for step in self._reader.recipe.trajectory.read_steps:
            sums = self._sums.pop(step)
            means = {n: m if n in self._exact else m.to(self._dtypes[n]) for n, m in sums.items()}
            for reducer in self._reader.reducers:
                maps[Place(reducer.name, step)] = reducer.map(means, step)
        return maps
