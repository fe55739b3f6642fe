"""Techniques applied to a backbone, one combination after the other, and all taken off at the end.

What a technique does to layers (adapters, attention processors) is done once; its outcome is kept as a snapshot of the
pipeline's structure, so that going from one combination to another is putting back a snapshot: no file is read again,
no weight is copied, and the base is the untouched model rather than one with switched-off adapters. Conditions of
pictures are computed once for all combinations.

>>> with Session(backbone) as session, session.use([ControlNet(model="…"), LoRA(path="…")]) as steered:
...     rows = steered.prepare(scenes)
...     prediction = steered.predict(noisy, 200, rows)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone, Conditioning
from diffeat.backbones.sharing import alone
from diffeat.errors import InvalidValueError, ModelError
from diffeat.techniques.base import Call, Custom, Technique
from diffeat.techniques.combination import Combinable, Combination, technique_key
from diffeat.techniques.scene import Desk, Scene
from diffeat.techniques.snapshot import Snapshot


@dataclass(frozen=True)
class Rows:
    """What a combination tells the denoiser about each of several pictures.

    Attributes:
        other: Of the other text of guided predictions.
        told: What each technique says, a row for each picture.
    """

    conditioning: Conditioning
    other: Conditioning | None
    told: Mapping[Technique, Tensor] = field(repr=False)

    def __len__(self) -> int:
        return len(self.conditioning)

    def take(self, index: Sequence[int]) -> Rows:
        """The rows at ``index``, in that order; an index may come several times."""
        at = list(index)
        other = None if self.other is None else self.other.take(at)
        return Rows(self.conditioning.take(at), other, {t: told[at] for t, told in self.told.items()})

    @classmethod
    def join(cls, parts: Sequence[Rows]) -> Rows:
        """Rows of several combinations that differ in their texts alone."""
        if len(parts) == 1:
            return parts[0]
        others = [p.other for p in parts if p.other is not None]
        return cls(
            _joined([p.conditioning for p in parts]),
            _joined(others) if others else None,
            {t: torch.cat([p.told[t] for p in parts]) for t in parts[0].told},
        )


def _joined(parts: Sequence[Conditioning]) -> Conditioning:
    """Conditions of one size, one behind the other."""
    rows = tuple(row for p in parts for row in p.rows)
    return Conditioning(rows, tuple(t for p in parts for t in p.prompts), parts[0].size, parts[0].shared)


#: Held while the users of a session are counted.
_COUNT = threading.RLock()


class Session:
    """A backbone on loan to techniques. Use it in a ``with`` block.

    Raises:
        ModelError: On leaving, if a technique wrote into weights (they are put back); a note on an error on its way.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._base: Snapshot | None = None
        self._users = 0
        self._states: dict[str, tuple[Snapshot, str]] = {}
        self._desk = Desk(backbone)
        self._current = ""
        self._careful = False

    def __enter__(self) -> Session:
        with _COUNT:
            self._users += 1
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with _COUNT:
            self._users -= 1
            if self._users:  # streams side by side share their adapters; the last one forgets them
                return
            base, repaired = self._base, self._careful
            self._base, self._states, self._careful = None, {}, False
        if base is None:
            return
        with alone(*self.backbone.networks):
            changed = base.restore_weights()
        if changed and isinstance(error, Exception):  # what is on its way comes first
            error.add_note(_wrote(changed, repaired))
        elif changed:
            raise ModelError(_wrote(changed, repaired))

    @contextmanager
    def use(self, techniques: Combinable = None) -> Iterator[Steered]:
        """The backbone with these techniques; afterwards it is what it was.

        While techniques change layers, other threads wait to use the model.

        Raises:
            ModelError: If a technique does not fit the model; the backbone is then what it was.
        """
        if not self._users:
            raise ModelError("Use a session in a with block: with Session(backbone) as session: …")
        combination = Combination.of(techniques)
        changes = bool(combination.layers or self._current)
        with self.backbone.ready(), self._layers(combination) if changes else nullcontext():
            yield Steered(self._desk, combination)

    @contextmanager
    def _layers(self, combination: Combination) -> Iterator[None]:
        """The layers as a combination has them."""
        backbone = self.backbone
        with alone(*backbone.networks):
            before = Snapshot(backbone.pipeline, watch_weights=False), backbone.texts.state, self._current
            try:
                self._switch(combination)
                yield
            finally:
                self._put(*before)

    def _switch(self, combination: Combination) -> None:
        key = "\n".join(technique_key(t) for t in combination.layers)
        base = self._base = self._base or Snapshot(self.backbone.pipeline)
        if self._current:
            self._put(base, "", "")
        if key and key not in self._states:
            customs = [t for t in combination.layers if not isinstance(t, Technique)]
            if customs and not self._careful:
                self._base = base = Snapshot(self.backbone.pipeline, copy_weights=True)
                self._careful = True
            try:
                with torch.random.fork_rng(devices=[]):
                    self._states[key] = self._changed(combination, customs, base, key)
            except BaseException:
                base.restore()
                raise
        if key:
            self._put(*self._states[key], key)

    def _changed(
        self, combination: Combination, customs: Sequence[Custom], base: Snapshot, key: str
    ) -> tuple[Snapshot, str]:
        """The pipeline's state with all changes of layers, and the name of its texts (``""``: the model's own)."""
        pipeline = self.backbone.pipeline
        text = bool(customs)
        kinds = dict.fromkeys(type(t) for t in combination.all(Technique) if t.changes_layers)
        for kind in sorted(kinds, key=lambda kind: not kind.replaces_weights):
            text |= kind.change_layers(self._desk, [t for t in combination.all(kind) if type(t) is kind])
        for custom in customs:
            custom.apply(pipeline)
        written = base.changed()
        if written:
            raise ModelError(_wrote(written, self._careful))
        for network in self.backbone.networks:
            network.eval()
        return Snapshot(pipeline, watch_weights=False), key if text else ""

    def _put(self, state: Snapshot, text_state: str, key: str) -> None:
        state.restore_structure()
        self._current = key
        self.backbone.texts.state = text_state

    def forget_pictures(self) -> None:
        """Drop what was computed for pictures, e.g. between batches of a long stream."""
        self._desk.forget_pictures()


class Steered:
    """A backbone under a combination of techniques, as :meth:`Session.use` gives it."""

    def __init__(self, desk: Desk, combination: Combination) -> None:
        self._desk = desk
        self.combination = combination
        self.backbone = desk.backbone
        self._techniques = combination.all(Technique)
        if self._techniques:
            with torch.random.fork_rng(devices=[]):  # whoever makes layers draws their first weights
                for technique in self._techniques:
                    technique.load(desk)

    def prepare(self, scenes: Sequence[Scene], **options: object) -> Rows:
        """One row for each picture (of one size).

        Args:
            options: Options of the family's conditioning.

        Raises:
            InvalidValueError: If a picture has no caption, or a condition returns nonsense.
        """
        h, w = scenes[0].pixels.shape[-2:]
        conditioning = self.backbone.condition([self._text(scene) for scene in scenes], size=(w, h), **options)
        guide = self.combination.guide
        other = None if guide is None else guide.against(self._desk, conditioning, **options)
        told = {t: t.tell(self._desk, scenes) for t in self._techniques}
        return Rows(conditioning, other, {t: said for t, said in told.items() if said is not None})

    def inputs(self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, rows: Rows) -> Call:
        """Arguments of the denoiser call in which features are read."""
        inputs = self.backbone.denoiser_inputs(noisy, t, rows.conditioning)
        for technique in self._techniques:
            if technique in rows.told:
                inputs = technique.steer(self._desk, inputs, rows.told[technique])
        return inputs

    def predict(self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, rows: Rows) -> Float[Tensor, "b c h w"]:
        """The prediction, guided if guidance is among the techniques (both texts in one call)."""
        guide = self.combination.guide
        if guide is None or rows.other is None:
            return self._predict(noisy, t, rows)
        untold = {technique: technique.untold(told) for technique, told in rows.told.items()}
        both = Rows.join([Rows(rows.other, None, untold), Rows(rows.conditioning, None, rows.told)])
        times = torch.as_tensor(t)
        twice = self._predict(torch.cat([noisy, noisy]), torch.cat([times, times]) if times.ndim else times, both)
        other, own = twice.chunk(2)
        return guide.guide(other, own)

    def _predict(self, noisy: Tensor, t: float | Tensor, rows: Rows) -> Tensor:
        output = self.backbone.denoiser(**self.inputs(noisy, t, rows))[0]
        return self.backbone.family.unpack(output, noisy)[:, : noisy.shape[1]]

    def _text(self, scene: Scene) -> str:
        texts = (t.write(self._desk, scene) for t in self._techniques)
        return next((text for text in texts if text is not None), scene.text)

    def descend(
        self, noisy: Float[Tensor, "b c h w"], timesteps: Sequence[float], rows: Rows
    ) -> Float[Tensor, "b c h w"]:
        """Deterministic steps (see :mod:`diffeat.trajectories.ode`) from ``timesteps[0]`` through the others.

        Returns:
            The latents at the last timestep; -1 is the clean image of a discrete schedule.

        Raises:
            InvalidValueError: If the timesteps do not fall.
        """
        if any(b >= a for a, b in pairwise(timesteps)):
            raise InvalidValueError(f"Timesteps must fall from step to step, got {list(timesteps)}.")
        for t, to in pairwise(timesteps):
            prediction = self.predict(noisy, t, rows)
            clean = self.backbone.estimate_clean(noisy, t, prediction)
            noisy = self.backbone.noise(clean, to, self.backbone.estimate_noise(noisy, t, prediction))
        return noisy

    def arrive(
        self,
        timesteps: Sequence[float],
        noisy_at: Callable[[Sequence[int], Sequence[float]], Float[Tensor, "b c h w"]],
        rows: Rows,
    ) -> Float[Tensor, "b c h w"]:
        """Latents at which features are read, one per row: noised there, or stepped down to there from a noisier start.

        Args:
            timesteps: Where each row is read.
            noisy_at: Noisy latents of these rows at these timesteps.
        """
        paths = {t: self.combination.arrive(t) for t in timesteps}
        noisy = noisy_at(range(len(timesteps)), [paths[t][0] for t in timesteps])
        for t, path in paths.items():
            if len(path) > 1:
                at = [k for k, own in enumerate(timesteps) if own == t]
                reached = self.descend(noisy[at], path, rows.take(at))
                noisy = noisy.index_copy(0, torch.tensor(at, device=noisy.device), reached.to(noisy))
        return noisy


def _wrote(changed: list[str], repaired: bool) -> str:
    state = "They were put back." if repaired else "Load the model again."
    weights = "1 weight" if len(changed) == 1 else f"{len(changed)} weights"
    return (
        f"A technique wrote into {weights} of the model ({', '.join(changed[:3])}). {state} A technique "
        "must add layers or hooks instead."
    )
